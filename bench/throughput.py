"""How fast a preset trains on this machine: `python -m bench.throughput PRESET`.

The rounds are those of `fastgan train`: the same session, engine and stream, without logs, samples and checkpoints. Beside
images/s: the share of the time in which data was waited for; peak memory (on the CPU of the whole process); and the share of
the roofline, which is the work that a round needs in convolutions and matrix products (counted by `fastgan.planning`) against
what the hardware multiplies: on the CPU a large product, measured between the rounds in the run's own number format (in fp32
convolutions may be faster than it), on CUDA the data sheet's rate.
"""

import json as formats
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from bench.step import OneBatch
from fastgan import games
from fastgan.checked import UserError
from fastgan.cli import held, in_one_line
from fastgan.config import Config, override
from fastgan.engine import cpu_threads, keep_freed_memory, resolve_device, resolve_precision
from fastgan.planning.gpus import GPUS
from fastgan.planning.rehearsal import batch_shape
from fastgan.planning.work import Work
from fastgan.presets import DEFAULT, preset
from fastgan.training.files import make_room_for, write_json
from fastgan.training.loop import build_session, check_shares, engine_maker, open_source, review
from fastgan.training.session import Session

PROGRAM = "python -m bench.throughput"
_OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
_PRODUCT = 2048  # side of the matrices of the product that the rate is taken from
_TRACED = 2  # rounds
_NUMBER = int | float
_SHOWN = {
    "preset": str,
    "data": str,
    "device": str,
    "precision": str,
    "batch_size": int,
    "accumulate": int,
    "rounds": int,
    "images_per_second": _NUMBER,
    "images_per_second_median": _NUMBER,
    "images_per_second_quartiles": list,
    "seconds_a_round": _NUMBER,
    "data_wait": _NUMBER,
    "peak_bytes": _NUMBER,
    "flop_a_round": _NUMBER,
    "flop_per_second": _NUMBER,
    "share_of_roof": _NUMBER | None,
}
"""Field of a result that is shown -> its type."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="preset")] = DEFAULT,
    /,
    *,
    data: Literal["synthetic", "real"] = "synthetic",
    rounds: int = 20,
    warm_up: int = 2,
    trace: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    compare: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = (),
    set: Annotated[tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(metavar="NAME=VALUE ...")] = (),
) -> None:
    """Measure the rounds of a preset, or compare measurements.

    Args:
        name: A preset.
        data: One batch of random images, which costs nothing, or the preset's own data.
        rounds: How many are timed.
        warm_up: Rounds before them.
        trace: Write a profile of two more rounds here, for chrome://tracing or Perfetto.
        json: Write the result here.
        compare: Measure nothing: print these results side by side, against the first.
        set: Fields of the configuration by dotted name.
    """
    if compare:
        show(*map(_read, compare))
        return
    for path in (trace, json):
        if path is not None:
            make_room_for(path)
    config = override(preset(name), [assignment for group in set for assignment in group])
    result = measure(config, data, rounds, warm_up, trace)
    show(result)
    if json is not None:
        write_json(json, result)


def measure(config: Config, data: str, rounds: int, warm_up: int = 2, trace: Path | None = None) -> dict[str, Any]:
    """Time `rounds` rounds, one by one; on CUDA each is waited for.

    Raises:
        UserError: no rounds, or the configuration can't work here.
    """
    if rounds < 1 or warm_up < 0:
        raise UserError(f"--rounds must be at least 1 and --warm-up at least 0, not {rounds} and {warm_up}")
    device = resolve_device(config.training.device)
    precision = resolve_precision(config.training.precision, device)
    check_shares(config, 1)
    if device.type == "cpu":
        keep_freed_memory()
    with cpu_threads(config.training.threads):
        session = _real(config) if data == "real" else _synthetic(config, device)
        try:
            return _measured(session, config, data, device, precision, rounds, warm_up, trace)
        finally:
            session.stream.close()


def _measured(
    session: Session,
    config: Config,
    data: str,
    device: torch.device,
    precision: str,
    rounds: int,
    warm_up: int,
    trace: Path | None,
) -> dict[str, Any]:
    training = config.training
    work = Work(config, "fp32" if precision == "fp32" else "bf16")
    flops = work.total("flops", training.batch_size // training.accumulate, training.accumulate)
    for _ in range(warm_up):
        _seconds(session.play_round, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seen, waited, seconds, rates = session.images, session.waited, [], []
    for number in range(rounds):
        if device.type == "cpu" and number % max(1, rounds // 5) == 0:
            rates.append(_product_rate(precision))
        seconds.append(_seconds(session.play_round, device))
    whole, images = sum(seconds), session.images - seen
    roof = statistics.median(rates) if rates else _data_sheet(precision)
    speeds = [images / rounds / s for s in seconds]
    result = {
        "preset": config.name,
        "data": data,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "batch_size": training.batch_size,
        "accumulate": training.accumulate,
        "rounds": rounds,
        "images_per_second": images / whole,
        "images_per_second_median": statistics.median(speeds),
        "images_per_second_quartiles": _quartiles(speeds),
        "seconds_a_round": statistics.median(seconds),
        "data_wait": (session.waited - waited) / whole,
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else _peak_here(),
        "flop_a_round": flops,
        "flop_per_second": flops * rounds / whole,
        "roof_flop_per_second": roof,
        "share_of_roof": roof and flops * rounds / whole / roof,
    }
    if trace is not None:
        _trace(session, device, trace)
    return result


def show(*results: dict[str, Any]) -> None:
    """Print one column a result; ratios are to the first."""
    table = Table("", *(f"{r['preset']}, {r['data']}, {r['device']}, {r['precision']}" for r in results), box=None)
    first = results[0]["images_per_second_median"]
    rows: dict[str, Callable[[dict], str]] = {
        "batch x micro-batches": lambda r: f"{r['batch_size']} = {r['accumulate']} x {r['batch_size'] // r['accumulate']}",
        "images/s, median": lambda r: f"{r['images_per_second_median']:,.1f}",
        "images/s, quartiles": lambda r: " to ".join(f"{q:,.1f}" for q in r["images_per_second_quartiles"]),
        "images/s, all rounds": lambda r: f"{r['images_per_second']:,.1f} ({r['rounds']} rounds)",
        "seconds a round": lambda r: f"{r['seconds_a_round']:.4f}",
        "waiting for data": lambda r: f"{r['data_wait']:.1%}",
        "peak memory": lambda r: f"{r['peak_bytes'] / 2**20:,.0f} MiB",
        "GFLOP a round, GFLOP/s": lambda r: f"{r['flop_a_round'] / 1e9:,.1f}, {r['flop_per_second'] / 1e9:,.0f}",
        "share of roofline": lambda r: "unknown" if r["share_of_roof"] is None else f"{r['share_of_roof']:.1%}",
    }
    for title, cell in rows.items():
        table.add_row(title, *map(cell, results))
    if len(results) > 1:
        table.add_row("against the first", *(f"{r['images_per_second_median'] / first:.2f}x" for r in results))
    _OUT.print(table)


class _Synthetic(OneBatch):
    def close(self) -> None: ...


def _real(config: Config) -> Session:
    """A session as `fastgan train` builds it, after the same checks."""
    source = open_source(config)
    for note in review(config, source):
        print(f"bench.throughput: {note}", file=sys.stderr)
    return build_session(config, source)


def _synthetic(config: Config, device: torch.device) -> Session:
    """A session as `fastgan train` builds it, but for its stream."""
    training, classes = config.training, max(config.network.classes, 1)
    micro = training.batch_size // training.accumulate
    images = (torch.rand(batch_shape(config, micro)) * 2 - 1).to(device)
    if images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    return Session(
        games.build(config).to(device).train(),
        engine_maker(config),
        lambda stage: _Synthetic(images, (torch.arange(micro) % classes).to(device)),
        seed=config.seed,
        batch_size=training.batch_size,
        accumulate=training.accumulate,
        half_life=training.ema_half_life,
        rampup=training.ema_rampup,
    )


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _product_rate(precision: str) -> float:
    """FLOP/s of a product of large matrices here and now: the best of three."""
    a, b = (torch.randn(_PRODUCT, _PRODUCT).to(_DTYPES[precision]) for _ in range(2))
    return 2 * _PRODUCT**3 / min(_seconds(lambda: a @ b, torch.device("cpu")) for _ in range(3))


def _data_sheet(precision: str) -> float | None:
    """FLOP/s of this CUDA device's convolutions by its data sheet; None for one that has no entry."""
    name = torch.cuda.get_device_name().lower()
    found = [gpu for key, gpu in GPUS.items() if key in name]
    return found[0].rate(precision, convolution=True) if found and precision in found[0].rates else None


def _quartiles(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return [lower, upper]


def _trace(session: Session, device: torch.device, path: Path) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell of the GPU that it does not find
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
        for _ in range(_TRACED):
            _seconds(session.play_round, device)
    profiler.export_chrome_trace(str(path))


def _peak_here() -> int:
    """This process's peak resident memory in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def _read(path: Path) -> dict[str, Any]:
    try:
        result = formats.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(result, dict):
        raise UserError(f"{path} is no result of bench.throughput")
    for name, kind in _SHOWN.items():
        if not isinstance(result.get(name), kind):
            raise UserError(f"{path} is no result of bench.throughput: {name} is not there or of another kind")
    return result


if __name__ == "__main__":
    try:
        in_one_line(PROGRAM, lambda: tyro.cli(held(main), prog=PROGRAM))()
    except UserError as error:
        print(f"bench.throughput: {error}", file=sys.stderr)
        sys.exit(2)
