"""Bytes and time of every operation of the kernel library against the code that people write: `python -m bench.kernels`.

For each example of the catalogue, forward and backward together:

    kernel      bytes that the kernels must move (the tests hold them to 1.1 times as many, counted in the interpreter)
    eager       bytes that plain torch moves, counted by a dispatch mode: a lower bound, see `fastgan.kernels.traffic`
    floor       the kernel's bytes at 3.35 TB/s, the memory of an H100 SXM
    time        where the example fits: the operation and the eager code in turns, medians. On CUDA also torch.compile of the
                eager code, and the share that the kernels reach of a device-to-device copy's rate in the same run
"""

import json as formats
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table

from fastgan.kernels.catalog import OPERATIONS
from fastgan.kernels.operation import Example, Operation, training_pass
from fastgan.kernels.traffic import EagerTraffic

BANDWIDTH = 3.35e12
"""Bytes/s that an H100 SXM's memory moves."""

_OUT = Console(highlight=False)
_COPIED = 2**28
_WIDE = 150


def main(
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = (),
    device: str = "auto",
    limit_mib: int = 256,
    turns: int = 15,
    compile: bool = True,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
) -> None:
    """Count and time the kernels.

    Args:
        only: Operations to look at; all, where none is named.
        device: auto (CUDA where there is one), cpu or cuda.
        limit_mib: On the CPU, examples whose eager code moves more are counted but not timed.
        turns: Turns of each that are timed.
        compile: On CUDA, time torch.compile of the eager code too.
        json: Write the result here as one JSON object.
        plot: Draw the shares here.
    """
    unknown = [name for name in only if name not in OPERATIONS]
    if unknown:
        print(f"bench.kernels: no operation {', '.join(unknown)}; there are {', '.join(OPERATIONS)}", file=sys.stderr)
        sys.exit(2)
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    copy = _copy_rate() if kind == "cuda" else None
    rows = []
    for name in only or OPERATIONS:
        for example in OPERATIONS[name].examples:
            row = counted(OPERATIONS[name], example)
            if kind == "cuda":
                row |= timed_cuda(OPERATIONS[name], example, copy, compile)
            elif row["eager_bytes"] <= limit_mib * 2**20:
                row |= timed_cpu(OPERATIONS[name], example, turns)
            rows.append(row)
    result = {
        "device": torch.cuda.get_device_name() if kind == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "copy_bytes_per_second": copy,
        "rows": rows,
    }
    show(result)
    if json is not None:
        json.write_text(formats.dumps(result, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        draw(result, plot)


def counted(operation: Operation, example: Example) -> dict:
    """Bytes of the example, forward and backward: nothing is computed."""
    run = training_pass(operation.eager, operation.arguments(example, "meta", 0), operation.wrt)
    with EagerTraffic() as eager:
        run()
    kernel = sum(operation.minimum(example))
    return {
        "operation": operation.name,
        "example": str(example),
        "shape": list(example.shape),
        "kernel_bytes": kernel,
        "eager_bytes": eager.bytes,
        "share_of_eager_bytes": kernel / eager.bytes if eager.bytes else None,
        "floor_seconds": kernel / BANDWIDTH,
    }


def timed_cpu(operation: Operation, example: Example, turns: int) -> dict:
    """Seconds of the operation and of the eager code, and the median of the ratios turn by turn."""
    runs = [training_pass(f, operation.arguments(example, "cpu", 0), operation.wrt) for f in (operation.fused, operation.eager)]
    for run in runs:
        run()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for run, seconds in zip(runs, times, strict=True):
            seconds.append(_seconds(run))
    fused, eager = times
    return {
        "fused_seconds": statistics.median(fused),
        "eager_seconds": statistics.median(eager),
        "over_eager": statistics.median(e / f for f, e in zip(fused, eager, strict=True)),
    }


def timed_cuda(operation: Operation, example: Example, copy: float, compile: bool) -> dict:
    """The same on the GPU, caches flushed between runs; torch.compile of the eager code beside them."""
    from triton.testing import do_bench

    def median(function: Callable) -> float:
        return (
            do_bench(training_pass(function, operation.arguments(example, "cuda", 0), operation.wrt), return_mode="median")
            / 1e3
        )

    fused, eager = median(operation.fused), median(operation.eager)
    row = {"fused_seconds": fused, "eager_seconds": eager, "over_eager": eager / fused}
    row["share_of_copy_rate"] = sum(operation.minimum(example)) / fused / copy
    if compile:
        row["compiled_seconds"] = median(torch.compile(operation.eager))
        row["over_compiled"] = row["compiled_seconds"] / fused
    return row


def show(result: dict) -> None:
    """Print a line an example."""
    cuda = result["copy_bytes_per_second"] is not None
    columns = ("operation", "example", "kernel MB", "eager MB", "share", "floor us", "us", "over eager")
    table = Table(*columns, *(("over compiled", "of copy rate") if cuda else ()), box=None)
    for row in result["rows"]:
        cells = [row["operation"], row["example"], f"{row['kernel_bytes'] / 1e6:.3g}", f"{row['eager_bytes'] / 1e6:.3g}"]
        cells += [_cell(row["share_of_eager_bytes"], ".0%"), f"{1e6 * row['floor_seconds']:.3g}"]
        cells += [_cell(row.get("fused_seconds"), ".0f", 1e6), _cell(row.get("over_eager"), ".2f", mark="x")]
        if cuda:
            cells += [_cell(row.get("over_compiled"), ".2f", mark="x"), _cell(row["share_of_copy_rate"], ".0%")]
        table.add_row(*cells)
    _OUT.print(f"{result['device']}, {result['threads']} threads, torch {result['torch']}")
    _OUT.print(table, width=None if _OUT.is_terminal else _WIDE)


def draw(result: dict, path: Path) -> None:
    """Bars: what is left of eager code's bytes, and of its time where it was measured."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if row["share_of_eager_bytes"] is not None]
    figure = Figure(figsize=(9, 1 + 0.32 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    axes.barh(places, [row["share_of_eager_bytes"] for row in rows], color="#4477aa", label="bytes")
    timed = [(place, 1 / row["over_eager"]) for place, row in zip(places, rows, strict=True) if "over_eager" in row]
    if timed:
        at, shares = zip(*timed, strict=True)
        axes.plot(shares, at, "o", color="#cc6677", label=f"time, {result['device']}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, [f"{row['operation']}: {row['example']}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    axes.set_xlabel("part of eager code's, forward and backward")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def _cell(number: float | None, style: str, unit: float = 1.0, mark: str = "") -> str:
    return "" if number is None else f"{number * unit:{style}}{mark}"


def _seconds(run: Callable[[], None], at_least: float = 0.02) -> float:
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < at_least:
        run()
        count += 1
    return (time.perf_counter() - began) / count


def _copy_rate() -> float:
    """Bytes/s, read and written, of a copy on the device."""
    from triton.testing import do_bench

    a, b = (torch.empty(_COPIED, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * _COPIED / (do_bench(lambda: b.copy_(a), return_mode="median") / 1e3)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m bench.kernels")
