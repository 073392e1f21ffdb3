"""Progress of work that may be long: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0
"""Between lines where there is no terminal; what is done sooner prints none."""


@contextmanager
def progress(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Inside, show how much of `total` is done.

    Yields:
        A function that takes how much is done so far.
    """
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    columns = TextColumn(what), MofNCompleteColumn(), BarColumn(), TextColumn("left"), TimeRemainingColumn(compact=True)
    with Progress(*columns, console=console, disable=quiet or not sys.stdout.isatty(), transient=True) as bar:
        task, began = bar.add_task(what, total=total), time.perf_counter()
        said = began

        def advance(done: int) -> None:
            nonlocal said
            bar.update(task, completed=done)
            now = time.perf_counter()
            if bar.disable and now - said >= PLAIN_SECONDS:
                said = now
                left = (now - began) / done * (total - done) if done else 0.0
                console.print(f"{what} {done}/{total}  {left:.0f} s left", markup=False)

        yield advance
