"""A page about runs."""

from pathlib import Path
from typing import Annotated

import tyro

from fastgan.commands.options import Metavar
from fastgan.commands.printing import OUT


def report(runs: Annotated[tuple[Path, ...], tyro.conf.Positional, Metavar(metavar="RUN [RUN ...]")], /, *, out: Path) -> None:
    """One self-contained HTML page about a run, or about several side by side.

    Args:
        runs: The runs' folders.
        out: The page's file, ending in .html.
    """
    from fastgan.report import write_report

    write_report(runs, out, quiet=False)
    OUT.print(f"{len(runs)} run{'s' * (len(runs) > 1)} -> {out}", markup=False)
