"""A round of a preset against the same round in plain eager PyTorch (`bench.eager`): `python -m bench.step`.

Ours, in fp32 and in bf16, and the eager one take turns in one process, so that a machine that slows down slows all of them;
ratios are taken turn by turn and their median is shown. Beside them: the floating-point work that the round needs, and its
share of the rate of a large matrix product, measured in the same turns (convolutions and products come from different
libraries, so in fp32 a share may pass 100 %). Peak memory is that of a process that runs one kind alone.
"""

import json as formats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.eager import EagerStep
from fastgan import games
from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.engine import LocalEngine
from fastgan.networks import build
from fastgan.presets import preset
from fastgan.training.session import Session

Kind = Literal["eager", "fp32", "bf16"]
KINDS: tuple[Kind, ...] = ("eager", "fp32", "bf16")
_OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
_PRODUCT = 2048  # side of the matrices of the product that the rate is taken from


class OneBatch:
    """A stream that hands out the same batch: data is no part of this measurement."""

    def __init__(self, images: Tensor) -> None:
        self.batch = {"images": images, "labels": torch.zeros(len(images), dtype=torch.int64)}

    def __next__(self) -> dict[str, Tensor]:
        return self.batch

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def main(
    name: Annotated[str, tyro.conf.arg(name="preset")] = "cifar10-sngan-cnn-qua",
    batch_size: int = 64,
    turns: int = 7,
    generator_batch: int | None = None,
    memory: bool = True,
    only: Kind | None = None,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
) -> None:
    """Measure a preset's round on this machine's processor.

    Args:
        name: A preset of the SN cnn family without terms.
        batch_size: Images of a discriminator step.
        turns: Rounds of each kind that count, after one that does not.
        generator_batch: Latents of the generator's step in batches; the preset's own where not given.
        memory: Measure peak memory too, in processes of their own.
        only: Run one kind alone and print its peak memory in MiB.
        json: Write the result here.
        plot: Draw the times here.
    """
    config = _config(name, batch_size, generator_batch)
    if only is not None:
        run = _round(config, only, _real(config))
        for _ in range(3):
            run()
        print(_peak_here())
        return
    result = measure(config, turns)
    if memory:
        result["peak_mib"] = {kind: _peak(kind, name, batch_size, generator_batch) for kind in KINDS}
    _show(result)
    if json is not None:
        json.write_text(formats.dumps(result, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        draw(result, plot)


def measure(config: Config, turns: int) -> dict:
    """Seconds, ratios and shares of the matrix-product rate, medians over `turns` interleaved turns."""
    real = _real(config)
    runs = {kind: _round(config, kind, real) for kind in KINDS}
    products = {kind: _product(dtype) for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    seconds: dict[str, list[float]] = {name: [] for name in (*runs, *(f"product {kind}" for kind in products))}
    for turn in range(turns + 1):
        for name, run in (*runs.items(), *((f"product {kind}", product) for kind, product in products.items())):
            began = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - began)
    flop = needed_flop(config)
    rates = {kind: 2 * _PRODUCT**3 / statistics.median(seconds[f"product {kind}"]) for kind in products}
    median = {kind: statistics.median(seconds[kind]) for kind in KINDS}
    return {
        "preset": config.name,
        "batch_size": config.training.batch_size,
        "generator_batch": config.training.generator_batch,
        "threads": torch.get_num_threads(),
        "turns": turns,
        "seconds": median,
        "speedup": {kind: _median_ratio(seconds["eager"], seconds[kind]) for kind in ("fp32", "bf16")},
        "needed_gflop": flop / 1e9,
        "product_gflop_per_second": {kind: rate / 1e9 for kind, rate in rates.items()},
        "share_of_product_rate": {kind: flop / median[kind] / rates[kind] for kind in rates},
    }


def needed_flop(config: Config) -> float:
    """Floating-point work of a round that computes nothing in vain, in convolutions and matrix products.

    With G and D one forward of a batch: refinement 2 (G + D) an iteration (forward, backward to the inputs), images G, D's step
    2 x 3 D, G's step 3 G + 2 D for each batch of latents.
    """
    generator, discriminator = build(config)
    batch, data = config.training.batch_size, config.data
    steps, multiple = config.latent.refine_steps, config.training.generator_batch
    of_generator = _flop(lambda: generator(torch.randn(batch, config.latent.dim)))
    of_discriminator = _flop(lambda: discriminator(torch.randn(batch, data.channels, data.resolution, data.resolution)))
    return (2 * steps + 1 + 3 * multiple) * of_generator + (2 * steps + 6 + 2 * multiple) * of_discriminator


def draw(result: dict, path: Path) -> None:
    """Bars of the median seconds, with the speed-ups."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    labels = {"eager": "plain eager, fp32", "fp32": "fastgan, fp32", "bf16": "fastgan, bf16"}
    seconds = [result["seconds"][kind] for kind in labels]
    bars = axes.barh(list(labels.values()), seconds, color=["#b8b8b8", "#6b9bd1", "#1f5fa8"])
    speedups = ["", *(f"  {result['speedup'][kind]:.2f}x" for kind in ("fp32", "bf16"))]
    axes.bar_label(bars, [f" {result['seconds'][kind]:.2f} s{s}" for kind, s in zip(labels, speedups, strict=True)], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"seconds a round, {result['threads']} threads, median of {result['turns']}", fontsize=9)
    axes.set_title(f"{result['preset']}, batch {result['batch_size']}", fontsize=10)
    figure.savefig(path)


def _config(name: str, batch_size: int, generator_batch: int | None) -> Config:
    config = override(preset(name), [f"training.batch_size={batch_size}", "training.device=cpu"])
    if generator_batch is not None:
        config = override(config, [f"training.generator_batch={generator_batch}"])
    if config.network.family != "sn-cnn" or config.terms or config.training.n_dis != 1:
        raise UserError(f"the eager baseline is of SN cnn presets without terms and with n_dis 1, which {name} is not")
    return config


def _real(config: Config) -> Tensor:
    side, channels = config.data.resolution, config.data.channels
    return torch.rand(config.training.batch_size, channels, side, side) * 2 - 1


def _round(config: Config, kind: Kind, real: Tensor) -> Callable[[], None]:
    return partial(EagerStep(config), real) if kind == "eager" else _session(config, kind, real).play_round


def _session(config: Config, precision: str, real: Tensor) -> Session:
    settings = {"generator": config.generator, "discriminator": config.discriminator}
    images = real.contiguous(memory_format=torch.channels_last)
    return Session(
        games.build(config).train(),
        lambda game, player: LocalEngine(game.networks_of(player), settings[player], precision),
        lambda stage: OneBatch(images),
        batch_size=config.training.batch_size,
        half_life=config.training.ema_half_life,
    )


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _product(dtype: torch.dtype) -> Callable[[], Tensor]:
    a, b = torch.randn(_PRODUCT, _PRODUCT, dtype=dtype), torch.randn(_PRODUCT, _PRODUCT, dtype=dtype)
    return lambda: a @ b


def _flop(forward: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops()


def _peak(kind: Kind, name: str, batch_size: int, generator_batch: int | None) -> float:
    command = [sys.executable, "-m", "bench.step", "--preset", name, "--batch-size", str(batch_size), "--only", kind]
    command += [] if generator_batch is None else ["--generator-batch", str(generator_batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak_here() -> float:
    """This process's peak resident memory in MiB (getrusage would count the parent that it was forked from)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def _show(result: dict) -> None:
    table = Table("kind", "s a round", "over eager", "share of product rate", "peak MiB", box=None)
    for kind in KINDS:
        speedup, share, peak = (result.get(key, {}).get(kind) for key in ("speedup", "share_of_product_rate", "peak_mib"))
        table.add_row(
            kind,
            f"{result['seconds'][kind]:.3f}",
            "" if speedup is None else f"{speedup:.2f}x",
            "" if share is None else f"{share:.0%}",
            "" if peak is None else f"{peak:,.0f}",
        )
    _OUT.print(table)
    rates = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in result["product_gflop_per_second"].items())
    _OUT.print(f"needed: {result['needed_gflop']:.0f} GFLOP a round; matrix product: {rates} GFLOP/s")


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m bench.step")
    except UserError as error:
        print(f"bench.step: {error}", file=sys.stderr)
        sys.exit(2)
