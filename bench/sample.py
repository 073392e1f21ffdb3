"""Refined samples (AdvLatGAN-z) of a preset's networks against the published loop: `python -m bench.sample`.

K iterations of I-FGSM on a batch of latents, then its images, in evaluation mode. The published loop, written here in plain
eager PyTorch from its description, calls `backward()`, which fills the `.grad` of every weight of G and D to throw it away, in
NCHW and fp32. Ours is `fastgan.latent.refine` in fp32 and in bf16. Each has a process of its own and they take turns
(`bench.step`); ratios are taken turn by turn, and their median is shown.

In units of a forward of G or D, an iteration needs 2 (forward, and backward to the inputs); the published one spends 3.
"""

import json as formats
import statistics
import sys
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

from bench.eager import plain
from bench.step import DTYPES, KINDS, PRODUCT_FLOP, Kind, Worker, flop_of_networks, in_turns, median_ratio
from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.latent import refine
from fastgan.networks import build
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset

_OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def main(
    name: Annotated[str, tyro.conf.arg(name="preset")] = "cifar10-sngan-cnn-qua",
    batch_size: int = 64,
    refine_steps: int = 20,
    step_size: float = 0.05,
    turns: int = 5,
    turn_seconds: float = 1.5,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """Measure refined sampling on this machine's processor.

    Args:
        name: A preset: its networks, untrained, and its objective.
        batch_size: Samples refined together.
        refine_steps: K.
        step_size: eps.
        turns: Turns of each kind that count, after one that does not.
        turn_seconds: Length of a turn, at least.
        json: Write the result here.
    """
    settings = {"training.batch_size": batch_size, "latent.refine_steps": refine_steps, "latent.step_size": step_size}
    config = override(preset(name), [f"{field}={value}" for field, value in settings.items()] + ["training.device=cpu"])
    result = measure(config, turns, turn_seconds)
    _show(result)
    if json is not None:
        json.write_text(formats.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(config: Config, turns: int, turn_seconds: float) -> dict:
    """Seconds a batch, ratios, peak memory and shares of a matrix product's rate; medians over `turns` interleaved turns."""
    with ExitStack() as stack:
        workers = {kind: stack.enter_context(Worker(kind, config, turn_seconds, sampling)) for kind in KINDS}
        seconds, products = in_turns(workers, turns)
        peaks = {kind: worker.ask("peak") for kind, worker in workers.items()}
    median = {kind: statistics.median(values) for kind, values in seconds.items()}
    rates = {kind: PRODUCT_FLOP / statistics.median(found) for kind, found in products.items()}
    flop = needed_flop(config)
    return {
        "preset": config.name,
        "batch_size": config.training.batch_size,
        "refine_steps": config.latent.refine_steps,
        "threads": torch.get_num_threads(),
        "turns": turns,
        "seconds": median,
        "images_per_second": {kind: config.training.batch_size / value for kind, value in median.items()},
        "speedup": {kind: median_ratio(seconds["eager"], seconds[kind]) for kind in DTYPES},
        "peak_mib": peaks,
        "needed_gflop": flop / 1e9,
        "share_of_product_rate": {kind: flop / median[kind] / rates[kind] for kind in rates},
    }


def needed_flop(config: Config) -> float:
    """Floating-point work that a batch needs: 2 (G + D) an iteration, G for the images."""
    of_generator, of_discriminator = flop_of_networks(config)
    steps = config.latent.refine_steps
    return (2 * steps + 1) * of_generator + 2 * steps * of_discriminator


def sampling(config: Config, kind: Kind) -> Callable[[], Tensor]:
    """Makes a batch of refined samples when called."""
    torch.manual_seed(0)
    generator, discriminator = (network.eval() for network in build(config))
    batch, classes = config.training.batch_size, config.network.classes
    labels = torch.arange(batch) % classes if classes else None
    latents = partial(torch.randn, batch, config.latent.dim)
    if kind == "eager":
        generator, discriminator = plain(generator), plain(discriminator)
        return lambda: published(generator, discriminator, latents(), labels, config)
    return lambda: _ours(generator, discriminator, latents(), labels, config, DTYPES[kind])


def published(generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor | None, config: Config) -> Tensor:
    """Images of latents refined in the way of the published code."""
    inputs = () if labels is None else (labels,)
    loss_of = OBJECTIVES[config.objective].per_score
    for _ in range(config.latent.refine_steps):
        generator.zero_grad()
        discriminator.zero_grad()
        z = z.detach().requires_grad_()
        loss_of(discriminator(generator(z, *inputs), *inputs)).mean().backward()
        z = z - config.latent.step_size * z.grad.sign()
    with torch.no_grad():
        return generator(z, *inputs)


def _ours(
    generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor | None, config: Config, dtype: torch.dtype
) -> Tensor:
    options = {"steps": config.latent.refine_steps, "step_size": config.latent.step_size, "objective": config.objective}
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        z = refine(generator, discriminator, z, labels, **options)
        with torch.no_grad():
            return generator(z) if labels is None else generator(z, labels)


def _show(result: dict) -> None:
    table = Table("kind", "s a batch", "images/s", "over published", "share of product rate", "peak MiB", box=None)
    for kind in KINDS:
        speedup = result["speedup"].get(kind)
        table.add_row(
            "published" if kind == "eager" else kind,
            f"{result['seconds'][kind]:.2f}",
            f"{result['images_per_second'][kind]:.1f}",
            "" if speedup is None else f"{speedup:.2f}x",
            f"{result['share_of_product_rate'][kind]:.0%}" if speedup else "",
            f"{result['peak_mib'][kind]:,.0f}",
        )
    _OUT.print(table)
    what = f"{result['preset']}, K = {result['refine_steps']}, batch {result['batch_size']}, {result['threads']} threads"
    _OUT.print(f"{what}; needed: {result['needed_gflop']:.0f} GFLOP a batch")


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m bench.sample")
    except UserError as error:
        print(f"bench.sample: {error}", file=sys.stderr)
        sys.exit(2)
