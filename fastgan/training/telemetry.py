"""What a run says about itself: metrics.jsonl, TensorBoard, and a progress line."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastgan.training.files import replace_text
from fastgan.training.folder import Folder
from fastgan.training.weights_and_biases import Board

TIMINGS = ("seconds", "images_per_second", "data_wait")
"""Fields of a record that two equal runs may disagree in."""
_PLAIN_SECONDS = 5.0
"""Seconds between lines where there is no terminal."""


def truncate(metrics: Path, last_round: int, rollbacks: int = 0) -> None:
    """Drop the metrics after `last_round`, what is said of rollbacks after the first `rollbacks` ones, and a line that a dying
    process left unfinished."""

    def is_kept(record: dict) -> bool:
        return record["rollback"] <= rollbacks if "rollback" in record else record["round"] <= last_round

    replace_text(metrics, "".join(line for line, record in _records(metrics) if is_kept(record)))


def read(metrics: Path) -> list[dict]:
    """All records of a run, in order."""
    return [record for _, record in _records(metrics)]


def _records(metrics: Path) -> list[tuple[str, dict]]:
    """Each whole line with what it says; what a power cut or an editor has spoiled is left out."""
    found = []
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if metrics.exists() else []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if line.endswith("\n") and isinstance(record, dict) and isinstance(record.get("round"), int):
            found.append((line, record))
    return found


class Silence(nullcontext):
    """What ranks that do not speak have in the place of `Telemetry`: it takes every call and does nothing."""

    def __enter__(self) -> "Silence":
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: None


class Telemetry:
    """Takes the metrics of a run, from round `start` on, and shows them to whoever is there, and `elsewhere`."""

    def __init__(self, folder: Folder, start: int, rounds: int, quiet: bool = False, elsewhere: Board | None = None) -> None:
        self.folder, self.elsewhere = folder, elsewhere
        self.start, self.rounds = start, rounds
        self.began = self.started = self.last = time.perf_counter()
        self.last_images: int | None = None
        self.last_waited = 0.0
        self.last_line = -_PLAIN_SECONDS
        self._open(start)
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=quiet or not sys.stdout.isatty(),
        )
        self.task = self.progress.add_task("train", total=rounds, completed=start, line="")
        self.quiet = quiet

    def __enter__(self) -> "Telemetry":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self._close()
        if self.elsewhere is not None:
            self.elsewhere.close()

    def _open(self, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.file = open(self.folder.metrics, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        self.board = SummaryWriter(str(self.folder.tensorboard), purge_step=start + 1)

    def _close(self) -> None:
        self.file.close()
        self.board.close()

    def advance(self, round_number: int) -> None:
        """A round has ended."""
        self.progress.update(self.task, completed=round_number)

    def record(self, round_number: int, images: int, metrics: Mapping[str, float], waited: float = 0.0) -> None:
        """Log the metrics of the interval that ends with `round_number`, when `images` images have been seen and `waited`
        seconds passed in waiting for them: `data_wait` is the share of the interval."""
        now = time.perf_counter()
        seen = images - self.last_images if self.last_images is not None else 0
        rate = seen / (now - self.last) if seen else None
        wait = (waited - self.last_waited) / (now - self.last) if seen else None
        self.last, self.last_images, self.last_waited = now, images, waited
        timings = {"seconds": round(now - self.began, 3), "images_per_second": rate and round(rate, 1)}
        timings["data_wait"] = None if wait is None else round(wait, 4)
        self.file.write(json.dumps({"round": round_number, "images": images, **metrics, **timings}) + "\n")
        self.file.flush()
        self._draw(round_number, metrics if wait is None else {**metrics, "data_wait": wait})
        line = "  ".join(f"{name} {metrics[name]:.3f}" for name in metrics if name.endswith("/loss"))
        line += f"  {rate:,.0f} images/s" if rate else ""
        self.progress.update(self.task, line=line)
        if self.progress.disable and (now - self.last_line >= _PLAIN_SECONDS or round_number == self.rounds):
            self.last_line = now
            done = round_number - self.start
            left = (now - self.started) / done * (self.rounds - round_number) if done else 0.0
            self.say(f"round {round_number}/{self.rounds}  {line}  {left:.0f} s left")

    def judged(self, round_number: int, images: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Log the metrics of an evaluation after `round_number`, a record of its own; the seconds that it took are none of
        training's."""
        now = time.perf_counter()
        self.last, self.started = self.last + seconds, self.started + seconds
        timings = {"seconds": round(now - self.began, 3)}
        self.file.write(json.dumps({"round": round_number, "images": images, **metrics, **timings}) + "\n")
        self.file.flush()
        self._draw(round_number, metrics)

    def _draw(self, round_number: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.board.add_scalar(name, value, round_number)
        if self.elsewhere is not None:
            self.elsewhere.record(round_number, metrics)

    def go_back(self, round_number: int, images: int, event: Mapping[str, Any], waited: float) -> None:
        """The run goes on from an earlier round: what was recorded since is dropped; `event` says why, and which "rollback" it
        is."""
        self._close()
        truncate(self.folder.metrics, round_number, event["rollback"] - 1)
        self._open(round_number)
        self.file.write(json.dumps({"round": round_number, "images": images, **event}) + "\n")
        self.file.flush()
        self.sync()
        self.board.add_scalar("rollbacks", event["rollback"], round_number)
        self.start, self.started = round_number, time.perf_counter()
        self.begin_clock(images, waited)
        self.advance(round_number)

    def sync(self) -> None:
        """Make the records outlast a power cut, as the checkpoint that follows will."""
        os.fsync(self.file.fileno())

    def begin_clock(self, images: int, waited: float = 0.0) -> None:
        """Count speed, and waiting, from here: start-up is over."""
        self.last, self.last_images, self.last_waited = time.perf_counter(), images, waited

    def show(self, name: str, grid, round_number: int) -> None:
        """Put an image (C, H, W) in [0, 1] into TensorBoard."""
        self.board.add_image(name, grid, round_number)
        if self.elsewhere is not None:
            self.elsewhere.show(name, grid, round_number)

    def say(self, text: str) -> None:
        """One line for the user."""
        self.console.print(text, markup=False)

    def warn(self, text: str | None) -> None:
        """One line for the user, marked as a warning; nothing for None."""
        if text is not None:
            self.say(f"warning: {text}")
