"""Inversion of a preset's generator, by batch size and against the loop as published: `python -m bench.invert`.

Ours is `fastgan.latent.invert` as a user calls it, what it does before and after its iterations included. The published loop,
written here in plain eager PyTorch from its description: the loss's `backward()` fills the `.grad` of every weight of G too, in
NCHW and fp32, with torch's layers and torch's optimiser on z. Both take Adam, iteration for iteration; L-BFGS, ours alone,
takes fewer. Each batch size and kind has a process of its own and they take turns (`bench.step`); ratios are taken turn by
turn, and their median is shown.

In units of a forward of G, an iteration needs 2 (forward, and backward to z); the published one spends 3.

With a run, images that its generator drew are inverted as well, and the share that is found again is printed.
"""

import json as formats
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from bench.eager import check_written, plain
from bench.step import Kind, Worker, median_ratio
from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.data import DISTRIBUTIONS
from fastgan.draw import Draw
from fastgan.latent import Inversion, Prior, invert
from fastgan.networks import build
from fastgan.presets import preset
from fastgan.training import load_run, sample
from fastgan.training.coding import prior_of
from fastgan.training.run import Run

BATCHES = (1, 4, 16, 64, 256)
AGAINST = 64
"""The batch at which ours and the published loop are compared."""
FOUND = 1e-3
"""Mean squared error, of images in [-1, 1], under which an image counts as found again."""
_OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def main(
    name: Annotated[str, tyro.conf.arg(name="preset")] = "digits-sngan-qua",
    run: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None,
    iterations: int = 50,
    turns: int = 7,
    turn_seconds: float = 1.0,
    recover: int = 256,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """Measure inversion on this machine's processor.

    Args:
        name: A preset: its generator, untrained.
        run: A run's folder: its averaged generator in the place of an untrained one.
        iterations: Of an inversion.
        turns: Turns of each kind that count, after one that does not.
        turn_seconds: Length of a turn, at least.
        recover: Images that the run's generator draws and that are inverted; 0 for none.
        json: Write the result here.
    """
    loaded = load_run(run, "cpu") if run else None
    config = loaded.config if loaded else preset(name)
    _check_images(config)
    result = measure(config, run, iterations, turns, turn_seconds)
    if loaded and recover:
        result["recovered"] = recovered(loaded, recover)
    _show(result)
    if json is not None:
        json.write_text(formats.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(config: Config, run: Path | None, iterations: int, turns: int, turn_seconds: float) -> dict:
    """Milliseconds an image and iteration of each kind and batch, and ratios; medians over `turns` interleaved turns.

    Raises:
        UserError: the baseline is not written for this config.
    """
    check_written(config)
    kinds: list[tuple[Kind, str, int]] = [
        ("eager", "adam", AGAINST),
        ("bf16", "adam", AGAINST),
        *(("fp32", "adam", batch) for batch in BATCHES),
        ("fp32", "lbfgs", AGAINST),
    ]
    with ExitStack() as stack:
        workers = {}
        for kind, optimiser, batch in kinds:
            sized = override(config, [f"training.batch_size={batch}", "training.device=cpu"])
            make = partial(inverting, run=run, iterations=iterations, optimiser=optimiser)
            workers[kind, optimiser, batch] = stack.enter_context(Worker(kind, sized, turn_seconds, make))
        seen: dict[tuple, list[float]] = {key: [] for key in workers}
        for turn in range(turns + 1):
            for key, worker in workers.items():
                seconds = worker.ask("round")
                if turn:  # the first warms up
                    seen[key].append(1e3 * seconds / iterations / key[2])
    eager, fp32 = seen["eager", "adam", AGAINST], seen["fp32", "adam", AGAINST]
    return {
        "preset": config.name,
        "iterations": iterations,
        "threads": torch.get_num_threads(),
        "turns": turns,
        "milliseconds": {" ".join(map(str, key)): statistics.median(found) for key, found in seen.items()},
        "batch_1_over_64": median_ratio(seen["fp32", "adam", 1], fp32),
        "speedup": {
            "fp32": median_ratio(eager, fp32),
            "bf16": median_ratio(eager, seen["bf16", "adam", AGAINST]),
            "fp32 lbfgs": median_ratio(eager, seen["fp32", "lbfgs", AGAINST]),
        },
    }


def inverting(config: Config, kind: Kind, run: Path | None, iterations: int, optimiser: str) -> Callable[[], object]:
    """A function that inverts one batch of a generator's own images."""
    torch.manual_seed(0)
    prior, batch = Prior.of(config.latent), config.training.batch_size
    generator = (load_run(run, "cpu").ema_generator if run else build(config)[0]).eval()
    labels = torch.arange(batch) % config.network.classes if config.network.classes else None
    with torch.no_grad():
        images = generator(prior(Draw(1, "bench", 0, torch.arange(batch))), *(() if labels is None else (labels,)))
    if kind == "eager":
        network = plain(generator).eval().requires_grad_(True)
        return partial(published, network, images.contiguous(), labels, config.latent.dim, iterations)

    def ours() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            invert(generator, images, labels, prior=prior, steps=iterations, optimiser=optimiser)

    return ours


def published(generator: nn.Module, images: Tensor, labels: Tensor | None, dim: int, iterations: int) -> Tensor:
    """Algorithm 1 of Creswell and Bharath (2018) as an ordinary training loop has it."""
    z = torch.randn(len(images), dim, requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=0.1)
    for _ in range(iterations):
        optimiser.zero_grad()
        loss = functional.mse_loss(generator(z, *(() if labels is None else (labels,))), images)
        loss.backward()
        optimiser.step()
    return z.detach()


def recovered(run: Run, count: int, settings: Inversion | None = None, threshold: float = FOUND) -> dict:
    """How many images of the run's own generator are found again from other latents.

    Args:
        run: class-conditional ones are given the classes that the images were drawn in.
        count: of images.
        threshold: mean squared error under which an image counts as found.

    Raises:
        UserError: the run draws points.
    """
    _check_images(run.config)
    settings, classes = settings or Inversion(), run.config.network.classes
    labels = (torch.arange(count) % classes).to(run.device) if classes else None  # as `sample` has them
    images = sample(run, count, seed=1000).to(run.device)
    began = time.perf_counter()
    found = invert(run.ema_generator, images, labels, prior=prior_of(run), settings=settings)
    errors = found.errors.float()
    return {
        "images": count,
        "threshold": threshold,
        "share": (errors < threshold).float().mean().item(),
        "median": errors.median().item(),
        "largest": errors.max().item(),
        "steps": found.steps.float().mean().item(),
        "starts": settings.starts,
        "optimiser": settings.optimiser,
        "seconds": time.perf_counter() - began,
    }


def _check_images(config: Config) -> None:
    if config.data.source in DISTRIBUTIONS:
        raise UserError(f"{config.name} draws points: inversion is of images")


def _show(result: dict) -> None:
    table = Table(title=f"{result['preset']}, {result['iterations']} iterations, {result['threads']} threads", title_style="")
    for column in ("", "optimiser", "batch", "ms an image and iteration"):
        table.add_column(column, justify="left" if column in ("", "optimiser") else "right")
    names = {"eager": "plain eager, fp32", "fp32": "fastgan, fp32", "bf16": "fastgan, bf16"}
    for key, milliseconds in result["milliseconds"].items():
        kind, optimiser, batch = key.split()
        table.add_row(names[kind], optimiser, batch, f"{milliseconds:.3f}")
    _OUT.print(table)
    _OUT.print(f"an image at batch 1 costs {result['batch_1_over_64']:.2f}x what it costs at batch {AGAINST} (fp32)")
    _OUT.print(f"plain over ours at batch {AGAINST}: " + ", ".join(f"{k} {v:.2f}x" for k, v in result["speedup"].items()))
    if found := result.get("recovered"):
        _OUT.print(
            f"{found['images']} images of the generator's own: {found['share']:.1%} found again with an error under {FOUND:g} "
            f"(median {found['median']:.1e}) in {found['steps']:.4g} steps of {found['optimiser']}, "
            f"{found['starts']} start each, {found['seconds']:.0f} s"
        )


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m bench.invert")
    except UserError as error:
        print(f"bench.invert: {error}", file=sys.stderr)
        sys.exit(2)
