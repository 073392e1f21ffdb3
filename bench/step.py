"""A round of a preset against the same round in plain eager PyTorch (`bench.eager`): `python -m bench.step [PRESET]`.

Ours, in fp32 and in bf16, and the eager one each have a process of their own, set up as its users' would be (fastgan keeps
freed memory, `engine.memory`; plain PyTorch does not), with as many threads as the preset trains with, and take turns of a
second or more, so that a machine that slows down slows all of them. Ratios are taken turn by turn and their median is shown.
Beside them: peak memory, of the process (coarse: pages that are kept count) and of a round's tensors alone; the floating-point
work that the round needs, and its share of the rate of a large matrix product, `a @ b` in the plain process in the same turns
(convolutions and products come from different libraries, so in fp32 a share may pass 100 %); and the share of the time that is
not spent in convolutions, from a profile.

Networks that can compute activations again in the place of keeping them (`network.recompute`) do so in a fourth process, in
bf16: its tensors' peak and its time against bf16's.
"""

import json as formats
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench.eager import check_written, eager_round
from fastgan import games
from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.data import DISTRIBUTIONS
from fastgan.engine import LocalEngine, cpu_threads, keep_freed_memory
from fastgan.networks import build
from fastgan.networks.biggan import STYLES
from fastgan.presets import preset
from fastgan.terms import (
    R1,
    R2,
    BalancedConsistency,
    Consistency,
    Dragan,
    LatentConsistency,
    LatentDiversity,
    LeCam,
    Term,
    WganGP,
)
from fastgan.training.session import Session

Kind = Literal["eager", "fp32", "bf16", "recomputed"]
KINDS: tuple[Kind, ...] = ("eager", "fp32", "bf16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
_PRODUCT = 2048  # side of the matrices of the product that the rate is taken from
PRODUCT_FLOP = 2 * _PRODUCT**3
_CONVOLUTIONS = {"aten::convolution", "aten::convolution_backward", "_Convolve", "_Adjoint", "_Correlate"}
_PROFILED = 5, 60  # fewest and most rounds of a profile: the first ones are slow, and each leaves thousands of events to sort


class OneBatch:
    """A stream that hands out the same batch: data is no part of this measurement."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.batch = {"images": images, "labels": labels}

    def __next__(self) -> dict[str, Tensor]:
        return self.batch

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def main(
    name: Annotated[str, tyro.conf.arg(name="preset")] = "cifar10-sngan-cnn-qua",
    batch_size: int = 64,
    turns: int = 9,
    turn_seconds: float = 1.5,
    generator_batch: int | None = None,
    threads: int | None = None,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
) -> None:
    """Measure a preset's round on this machine's processor.

    Args:
        name: A preset.
        batch_size: Images of a discriminator step.
        turns: Turns of each kind that count, after one that does not.
        turn_seconds: Length of a turn, at least; a tenth of it for a matrix product, twice as much for a profile.
        generator_batch: Latents of the generator's step in batches; the preset's own where not given.
        threads: That each kind computes with, 0 as many as torch chooses; the preset's own where not given.
        json: Write the result here.
        plot: Draw the times here.
    """
    config = override(preset(name), [f"training.batch_size={batch_size}", "training.device=cpu"])
    for setting, value in {"generator_batch": generator_batch, "threads": threads}.items():
        if value is not None:
            config = override(config, [f"training.{setting}={value}"])
    result = measure(config, turns, turn_seconds)
    _show(result)
    if json is not None:
        json.write_text(formats.dumps(result, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        draw(result, plot)


def measure(config: Config, turns: int, turn_seconds: float) -> dict:
    """Seconds, ratios, peak memory and shares; medians over `turns` interleaved turns.

    Raises:
        UserError: the baseline is not written for this config.
    """
    check_written(config)
    with ExitStack() as stack:
        kinds = kinds_of(config)
        workers = {
            kind: stack.enter_context(Worker(kind, config, turn_seconds, threads=config.training.threads)) for kind in kinds
        }
        seconds, products = in_turns(workers, turns)
        peaks = {kind: worker.ask("peak") for kind, worker in workers.items()}
        tensors = {kind: worker.ask("tensors") for kind, worker in workers.items()}
        outside = {kind: worker.ask("outside") for kind, worker in workers.items()}
    median = {kind: statistics.median(seconds[kind]) for kind in kinds}
    rates = {kind: PRODUCT_FLOP / statistics.median(found) for kind, found in products.items()}
    flop = needed_flop(config)
    again = {"recomputed": median_ratio(seconds["recomputed"], seconds["bf16"])} if "recomputed" in kinds else {}
    return {
        "preset": config.name,
        "batch_size": config.training.batch_size,
        "generator_batch": config.training.generator_batch,
        "threads": config.training.threads or torch.get_num_threads(),
        "turns": turns,
        "seconds": median,
        "speedup": {kind: median_ratio(seconds["eager"], seconds[kind]) for kind in ("fp32", "bf16")},
        "peak_mib": peaks,
        "tensors_mib": tensors,
        "needed_gflop": flop / 1e9,
        "product_gflop_per_second": {kind: rate / 1e9 for kind, rate in rates.items()},
        "share_of_product_rate": {kind: flop / median[kind] / rates[kind] for kind in rates},
        "share_outside_convolutions": outside,
        **again,
    }


def in_turns(workers: Mapping[Kind, "Worker"], turns: int) -> tuple[dict[Kind, list[float]], dict[str, list[float]]]:
    """Seconds of a round of each kind, and of the matrix products in the plain process, turn by turn; none of the first turn,
    which warms up."""
    asked = [*((kind, "round") for kind in workers), *(("eager", f"product {kind}") for kind in DTYPES)]
    seen: dict[tuple[str, str], list[float]] = {key: [] for key in asked}
    for turn in range(turns + 1):
        for kind, what in asked:
            found = workers[kind].ask(what)
            if turn:
                seen[kind, what].append(found)
    return {kind: seen[kind, "round"] for kind in workers}, {kind: seen["eager", f"product {kind}"] for kind in DTYPES}


def kinds_of(config: Config) -> tuple[Kind, ...]:
    """What is measured of this config."""
    can = config.network.family in STYLES and not config.network.recompute
    return (*KINDS, "recomputed") if can else KINDS


class Worker:
    """A process that plays rounds of one kind, one at a time, when asked; or what `make` gives it in the place of rounds. It
    computes with so many threads; 0 leaves torch its choice."""

    def __init__(
        self,
        kind: Kind,
        config: Config,
        turn_seconds: float,
        make: Callable[[Config, Kind], Callable[[], object]] | None = None,
        threads: int = 0,
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        arguments = theirs, kind, config, turn_seconds, make or _round, threads
        self._process = spawn.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # so that a worker that dies is an end of file here, not a wait

    def ask(self, what: str) -> float:
        """Ask for the mean seconds of a "round", or of a "product fp32" or "product bf16" (of the eager kind), for the "peak"
        MiB so far, for those of the "tensors" of a round, or for the share of the time "outside" convolutions.

        Raises:
            RuntimeError: the worker has ended.
        """
        try:
            self._connection.send(what)
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("a process that was measured has ended; what it printed stands above") from error

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        self._process.join()


def _work(connection: Connection, kind: Kind, config: Config, turn_seconds: float, make: Callable, threads: int) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell of the GPU that it does not find
    if kind != "eager":
        keep_freed_memory()
    with cpu_threads(threads):
        run = make(config, kind)
        answers = {
            "round": lambda: (run(), _seconds(run, turn_seconds))[1],  # the first finds a cold cache and sleeping threads
            **{
                f"product {name}": partial(_seconds, _product(dtype), turn_seconds / 10)
                for name, dtype in DTYPES.items()
                if kind == "eager"
            },
            "peak": _peak_here,
            "tensors": partial(_tensors_peak, run),
            "outside": lambda: _outside_convolutions(run, 2 * turn_seconds),
        }
        try:
            while True:
                connection.send(answers[connection.recv()]())
        except EOFError:  # nobody asks any more
            pass


def needed_flop(config: Config) -> float:
    """Floating-point work of a round that computes nothing in vain, in convolutions and matrix products.

    With G and D one forward of a batch: an iteration of refinement 2 (G + D), forward and backward to the inputs; images G; a
    step of D 2 x 3 D; G's step 3 G + 2 D for each batch of latents; and terms as `_work_of` has them. GAIA's: G's encoder
    once and its decoder twice, through D and back; D on three batches, and back.
    """
    if config.game == "gaia":
        encoder, decoder, discriminator = _flop_of_gaia(config)
        return 3 * encoder + 6 * decoder + (2 * 2 + 3 * 3) * discriminator
    of_generator, of_discriminator = flop_of_networks(config)
    training, steps, turns = config.training, config.latent.refine_steps, config.training.n_dis
    imagined = 1 if config.latent.reuse else turns
    times_generator = imagined * (2 * steps + 1) + 3 * training.generator_batch
    times_discriminator = imagined * 2 * steps + 6 * turns + 2 * training.generator_batch
    for term in config.terms.values():
        generator, discriminator = _work_of(term)
        played = training.generator_batch if term.player == "generator" else turns if term.every == 1 else 1
        times_generator += played / term.every * generator
        times_discriminator += played / term.every * discriminator
    return times_generator * of_generator + times_discriminator * of_discriminator


def _work_of(term: Term) -> tuple[int, int]:
    """What a term adds to a turn, in forwards of G and of D; a lazy one has the turn to itself, but for D's last images.

    A view of D is 3, forward and backward to the weights and activations. R1 and R2 are 3, and WGAN-GP and DRAGAN, whose points
    the objective does not share, 4: a gradient, and the backward through it, of a D that is linear in pieces.
    """
    lazy = term.every > 1
    match term:
        case R1() | R2():
            return 0, 4 if lazy else 3
        case WganGP() | Dragan():
            return 0, 4
        case Consistency():
            return 0, 6 if lazy else 3
        case BalancedConsistency():
            return 0, (6 if lazy else 3) * ((term.real > 0) + (term.fake > 0))
        case LatentConsistency():
            return 1, 6 if lazy else 3
        case LatentDiversity():
            return 6 if lazy else 3, 0
        case LeCam():
            return 0, 6 if lazy else 0
    raise UserError(f"nobody has counted the work of a {type(term).__name__} term")


def flop_of_networks(config: Config) -> tuple[int, int]:
    """Floating-point work of one forward of a batch through G, and through D."""
    generator, discriminator = (network.to("meta") for network in build(config))  # where every convolution is torch's
    batch = config.training.batch_size
    labels = torch.zeros(batch, dtype=torch.int64, device="meta") if config.network.classes else None
    z, images = torch.empty(batch, config.latent.dim, device="meta"), _real(config).to("meta")
    return _flop(generator, z, labels), _flop(discriminator, images, labels)


def _flop_of_gaia(config: Config) -> tuple[int, int, int]:
    """As `flop_of_networks`, of G's encoder, its decoder, and D."""
    generator, discriminator = (network.to("meta") for network in build(config))
    images = _real(config).to("meta")
    code = generator.encode(images)
    return _flop(generator.encode, images, None), _flop(generator.decode, code, None), _flop(discriminator, images, None)


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


def _real(config: Config) -> Tensor:
    data, batch = config.data, config.training.batch_size
    if data.source in DISTRIBUTIONS:
        return torch.rand(batch, 2) * 2 - 1
    return torch.rand(batch, data.channels, data.resolution, data.resolution) * 2 - 1


def _labels(config: Config) -> Tensor:
    return torch.arange(config.training.batch_size) % max(config.network.classes, 1)


def _round(config: Config, kind: Kind) -> Callable[[], None]:
    torch.manual_seed(0)
    real, labels = _real(config), _labels(config)
    if kind == "eager":
        return partial(eager_round(config), real, labels)
    if kind == "recomputed":
        return _session(override(config, ["network.recompute=true"]), "bf16", real, labels).play_round
    return _session(config, kind, real, labels).play_round


def _session(config: Config, precision: str, real: Tensor, labels: Tensor) -> Session:
    settings = {"generator": config.generator, "discriminator": config.discriminator}
    images = real.contiguous(memory_format=torch.channels_last) if real.dim() == 4 else real  # as the stream hands them out
    return Session(
        games.build(config).train(),
        lambda game, player: LocalEngine(game.networks_of(player), settings[player], precision, game.main_share(player)),
        lambda stage: OneBatch(images, labels),
        batch_size=config.training.batch_size,
        half_life=config.training.ema_half_life,
    )


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios turn by turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _product(dtype: torch.dtype) -> Callable[[], Tensor]:
    a, b = torch.randn(_PRODUCT, _PRODUCT, dtype=dtype), torch.randn(_PRODUCT, _PRODUCT, dtype=dtype)
    return lambda: a @ b


def _seconds(run: Callable[[], object], at_least: float = 0.0) -> float:
    """Mean seconds of a run, of as many as take `at_least` so long together: one, where that is 0."""
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < at_least:
        run()
        count += 1
    return (time.perf_counter() - began) / count


def _flop(network: Callable, x: Tensor | tuple[Tensor, ...], labels: Tensor | None) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*(x,) if labels is None else (x, labels))
    return counter.get_total_flops()


def _outside_convolutions(run: Callable[[], None], seconds: float) -> float:
    """The share of a round's time that no convolution, forward or backward, takes."""
    fewest, most = _PROFILED
    rounds = min(max(fewest, round(seconds / _seconds(run))), most)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        whole = sum(_seconds(run) for _ in range(rounds))
    outermost = [event for event in profiler.events() if _is_convolution(event) and not _lies_in_convolution(event)]
    return 1 - sum(event.cpu_time_total for event in outermost) / 1e6 / whole


def _is_convolution(event: FunctionEvent) -> bool:
    return event.name in _CONVOLUTIONS


def _lies_in_convolution(event: FunctionEvent) -> bool:
    parent = event.cpu_parent
    return parent is not None and (_is_convolution(parent) or _lies_in_convolution(parent))


def _tensors_peak(run: Callable[[], object]) -> float:
    """The most MiB that the tensors of a run take at one time, beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = formats.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(accumulate((change for _, change in changes), initial=0)) / 2**20


def _peak_here() -> float:
    """This process's peak resident memory in MiB (getrusage would count the parent that it was forked from)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def _show(result: dict) -> None:
    table = Table(
        "kind",
        "s a round",
        "over eager",
        "share of product rate",
        "peak MiB",
        "of a round's tensors",
        "outside convolutions",
        box=None,
    )
    for kind in result["seconds"]:
        speedup = result["speedup"].get(kind)
        table.add_row(
            kind,
            f"{result['seconds'][kind]:.3f}",
            "" if speedup is None else f"{speedup:.2f}x",
            f"{result['share_of_product_rate'][kind]:.0%}" if speedup else "",
            f"{result['peak_mib'][kind]:,.0f}",
            f"{result['tensors_mib'][kind]:,.0f}",
            f"{result['share_outside_convolutions'][kind]:.0%}",
        )
    _OUT.print(table)
    rates = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in result["product_gflop_per_second"].items())
    if "recomputed" in result:
        kept, again = result["tensors_mib"]["bf16"], result["tensors_mib"]["recomputed"]
        _OUT.print(
            f"activations computed again in the backward pass (bf16): {again:,.0f} MiB of tensors instead of {kept:,.0f}, "
            f"{result['recomputed']:.2f}x the time"
        )
    _OUT.print(
        f"needed: {result['needed_gflop']:.0f} GFLOP a round; matrix product: {rates} GFLOP/s; threads: {result['threads']}"
    )


def arguments(given: list[str]) -> list[str]:
    """The preset may come first, as in `fastgan train PRESET`."""
    return ["--preset", *given] if given and not given[0].startswith("-") else given


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m bench.step", args=arguments(sys.argv[1:]))
    except UserError as error:
        print(f"bench.step: {error}", file=sys.stderr)
        sys.exit(2)
