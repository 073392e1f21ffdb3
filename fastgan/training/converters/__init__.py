"""Other projects' checkpoints as runs: whoever has a row in `IMPORTERS` is known to `fastgan import`.

To add one: a function from a path to `Imported`, in a file of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from fastgan import config as configuration
from fastgan import games
from fastgan.checked import UserError, nearest
from fastgan.networks.layers import iterate_spectral_norms
from fastgan.training import checkpoint
from fastgan.training.average import MovingAverage
from fastgan.training.converters import biggan_pytorch_files
from fastgan.training.converters.imported import Imported
from fastgan.training.folder import Folder
from fastgan.training.guard import CollapseGuard
from fastgan.training.loop import _settled
from fastgan.training.run import Run, load_run

IMPORTERS: dict[str, Callable[[Path], Imported]] = {"biggan-pytorch": biggan_pytorch_files.read}
"""Project -> what reads a checkpoint of its."""


def import_run(project: str, path: str | Path, out: str | Path, assignments: Iterable[str] = ()) -> Run:
    """Make a run of another project's checkpoint.

    The run is at round 0: `sample` and `evaluate` take it as it is, and `train --resume` goes on with these weights, fresh
    optimisers, and the data from its beginning.

    Args:
        project: a name in `IMPORTERS`.
        path: what that project wrote.
        out: the run's folder, new or empty of runs.
        assignments: "name=value" for fields of the configuration that weights don't tell, such as data.path.

    Raises:
        UserError: no such project, the files can't be read or hold other networks, a field can't be set so, or the folder holds
            a run; nothing was written.
    """
    if project not in IMPORTERS:
        raise UserError(f"weights of {project!r} can't be imported: {nearest(project, IMPORTERS)}")
    folder = Folder(out)
    if folder.holds_run():
        raise UserError(f"{folder.path} holds a run: choose another --out")
    found = IMPORTERS[project](Path(path))
    config = _settled(configuration.override(found.config, assignments))
    game = games.build(config)
    average = MovingAverage(game, config.training.ema_half_life, config.training.ema_rampup)
    networks = game.get_submodule("generator"), game.get_submodule("discriminator"), average.networks["generator"]
    for network, (source, state) in zip(networks, (found.generator, found.discriminator, found.average), strict=True):
        _fill(network, state, source)
    state = {
        "round": 0,
        "images": 0,
        "stage": 0,
        "game": game.state_dict(),
        "engines": {},
        "average": average.state_dict(),
        "stream": {},
        "tally": {},
        "guard": CollapseGuard(0.0).state_dict(),
        "config": configuration.to_dict(config),
        "environment": {},
    }
    folder.create()
    with folder.locked():
        folder.write_config(config)
        checkpoint.save(folder.checkpoints, state, keep=1)
    return load_run(folder.path)


def _fill(network: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load a whole state but for the right singular vectors, which one power iteration gives from the left ones: the sigma
    that networks with power iterations in their forward pass compute."""
    own = network.state_dict()
    state = {name: value.view_as(own[name]) if _is_scalar(value, own.get(name)) else value for name, value in state.items()}
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{source} holds another network: {str(error).splitlines()[1].strip().rstrip('.')}") from None
    missing = [name for name in missing if not name.endswith((".v", "num_batches_tracked"))]
    if missing or unexpected:
        what = f"it lacks {missing[0]}" if missing else f"there is no place for its {unexpected[0]}"
        raise UserError(f"{source} holds another network: {what}")
    iterate_spectral_norms(network)


def _is_scalar(value: Tensor, own: Tensor | None) -> bool:
    """Whether both are a single number, of whatever shape."""
    return value.numel() == 1 and own is not None and own.numel() == 1
