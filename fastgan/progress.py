"""How far long work has come: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0  # between lines where there is no terminal


@contextmanager
def progress(
    word: str, total: int, done: int = 0, quiet: bool = False, announced: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show work on `total` images, of which `done` need no more work; yields what is told how many more were done. Where there
    is no terminal, its beginning has a line if it is `announced`."""
    console, terminal = Console(quiet=quiet, highlight=False, soft_wrap=True), sys.stdout.isatty()
    columns = TextColumn(word), MofNCompleteColumn(), BarColumn(), TextColumn("left"), TimeRemainingColumn(compact=True)
    began, start = time.perf_counter(), done
    last = began
    with Progress(*columns, console=console, disable=quiet or not terminal) as bar:
        if announced and not terminal:
            console.print(f"{word} {total - done} images", markup=False)
        task = bar.add_task(word, total=total, completed=done)

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            bar.update(task, completed=done)
            now = time.perf_counter()
            if not terminal and now - last >= PLAIN_SECONDS:
                last, rate = now, (done - start) / (now - began)
                left = f", {(total - done) / rate:.0f} s left" if rate else ""
                console.print(f"{word} {done} of {total}, {rate:.0f}/s{left}", markup=False)

        yield advance
