"""Generators for other programs."""

from pathlib import Path
from typing import Annotated

import tyro

from fastgan.commands.options import Metavar
from fastgan.commands.printing import OUT


def export(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Annotated[Path, Metavar(metavar="FILE")],
    checkpoint: str = "newest",
) -> None:
    """Write a run's averaged generator for other programs, and compare the file's images with torch's.

    Args:
        run: The run's folder.
        out: A name ending in .safetensors (weights, and what rebuilds the network) or .onnx (a graph of plain operators, for
            batches of any size).
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
    """
    from fastgan.training import load_run
    from fastgan.training.export import export as write

    loaded = load_run(run, "cpu", checkpoint)
    written = write(loaded, out)
    what = f"generator of round {loaded.round}, {written.parameters / 1e6:.2f} M parameters"
    OUT.print(f"{what} -> {out}; largest difference to torch {written.difference:.1e}", markup=False)
