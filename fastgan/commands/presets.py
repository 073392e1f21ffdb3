"""The list of presets."""

from rich.table import Table

from fastgan.commands.printing import OUT


def presets() -> None:
    """Every preset: name, data set, method."""
    from fastgan.data import DISTRIBUTIONS
    from fastgan.presets import DEFAULT, PRESETS

    table = Table("preset", "data", "objective", "network", "refinement", "rounds", "method", box=None)
    for name, config in PRESETS.items():
        refinement = f"{config.latent.refine_steps} x {config.latent.step_size:g}" if config.latent.refine_steps else "-"
        size = "points" if config.data.source in DISTRIBUTIONS else f"{config.data.resolution}x{config.data.resolution}"
        data = f"{config.data.source} {size}"
        network = f"{config.network.family} {config.network.width}"
        method = config.description + (" (default)" if name == DEFAULT else "")
        objective = config.objective if config.game == "adversarial" else "-"  # of scores
        table.add_row(name, data, objective, network, refinement, str(config.training.steps), method)
    OUT.print(table)
