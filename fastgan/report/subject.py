"""What the page says about one run, as its folder holds it; what is not there yet is empty."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from fastgan import config as configuration
from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.data import DISTRIBUTIONS
from fastgan.presets import PRESETS
from fastgan.training import telemetry
from fastgan.training.folder import Folder
from fastgan.training.run import Run, load_run

_NOT_MEASURED = {"round", "images", "seconds"}


@dataclass(frozen=True)
class Result:
    """A file that `evaluate` wrote."""

    file: str
    """Its place in the run's folder."""
    content: dict[str, Any]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """What each metric found, by name."""
        return self.content["metrics"]

    @property
    def settings(self) -> dict[str, Any]:
        """All that the values depend on, and what each metric found beside its value, by dotted name."""
        found: dict[str, Any] = {}

        def walk(node: Any, path: str) -> None:
            if isinstance(node, dict) and node:
                for key, value in node.items():
                    walk(value, f"{path}.{key}" if path else str(key))
            else:
                found[path] = node

        walk({name: value for name, value in self.content.items() if name != "run"}, "")
        return found


@dataclass(frozen=True)
class Subject:
    """A run of the page.

    Attributes:
        name: on the page; unique among its runs.
    """

    folder: Folder
    name: str
    config: Config
    run: Run | None
    """None before the first checkpoint."""

    @classmethod
    def of(cls, path: Path, name: str) -> "Subject":
        """Read a run.

        Raises:
            UserError: there is none, its configuration can't be read, its newest checkpoint is damaged or of another network.
        """
        folder = Folder(path)
        if not folder.config.exists():
            raise UserError(f"there is no run in {path}: it has no config.yaml")
        config = configuration.from_yaml(folder.config)
        run = load_run(path) if folder.newest_checkpoint() is not None else None
        return cls(folder, name, config, run)

    @property
    def draws_points(self) -> bool:
        return self.config.data.source in DISTRIBUTIONS

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl, one a logging interval."""
        return [record for record in self._all_records if "rollback" not in record]

    @cached_property
    def rollbacks(self) -> list[dict[str, Any]]:
        """What metrics.jsonl says of each time that the run went back."""
        return [record for record in self._all_records if "rollback" in record]

    @cached_property
    def _all_records(self) -> list[dict[str, Any]]:
        return telemetry.read(self.folder.metrics)

    @cached_property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """(images, value) of each number that was recorded, by name."""
        found: dict[str, list[tuple[float, float]]] = {}
        for record in self.records:
            images = record.get("images")
            at = float(images) if _is_number(images) else float(record["round"])
            for name, value in record.items():
                if name not in _NOT_MEASURED and _is_number(value):
                    found.setdefault(name, []).append((at, float(value)))
        return found

    @cached_property
    def grids(self) -> list[tuple[int, Path]]:
        """(round, file) of the pictures in samples/, in order."""
        files = self.folder.samples.glob("*.png")
        return sorted((int(file.stem), file) for file in files if file.stem.isdigit())

    @cached_property
    def results(self) -> list[Result]:
        """What `evaluate` wrote: evaluation.json first, then other files of that kind, by name."""
        return self._results[0]

    @cached_property
    def unread(self) -> list[str]:
        """The files ending in .json that hold no JSON."""
        return self._results[1]

    @cached_property
    def _results(self) -> tuple[list[Result], list[str]]:
        found, unread = [], []
        files = [*self.folder.path.glob("*.json"), *(self.folder.path / "evaluation").glob("*.json")]
        for file in sorted(files, key=lambda file: (file != self.folder.evaluation, file)):
            name = str(file.relative_to(self.folder.path))
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                unread.append(name)
                continue
            found += [Result(name, result) for result in _results_in(content)]
        return found, unread

    @cached_property
    def changed(self) -> tuple[str, list[tuple[str, Any, Any]]]:
        """What its settings are compared with, in words, and (field, the run's, the other's) where they differ."""
        named = PRESETS.get(self.config.name)
        words = f"the preset {self.config.name}" if named is not None else "the defaults"
        return words, differences(self.config, named or Config())

    @property
    def round(self) -> int:
        """Rounds played, as far as the folder tells."""
        logged = max((record["round"] for record in self.records), default=0)
        return max(logged, self.run.round if self.run else 0)

    @property
    def images(self) -> int:
        """Real images shown."""
        logged = max((record["images"] for record in self.records if _is_number(record.get("images"))), default=0)
        return max(logged, self.run.images if self.run else 0)

    @property
    def seconds(self) -> float:
        """Of training: the clock starts anew with each resume, so what every process had reached is added up."""
        total = last = 0.0
        for record in self._all_records:
            now = record.get("seconds")
            if _is_number(now) and math.isfinite(now):
                total, last = (total + last, now) if now < last else (total, now)
        return total + last

    def typical(self, name: str) -> float | None:
        """The median of what was recorded under `name`; None where nothing was."""
        values = [value for _, value in self.curves.get(name, []) if math.isfinite(value)]
        return median(values) if values else None


def differences(one: Config, other: Config) -> list[tuple[str, Any, Any]]:
    """(field, value of `one`, value of `other`) where two configurations differ; None for a field that one of them lacks."""
    mine, theirs = configuration.flatten(one), configuration.flatten(other)
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [
        (name, mine.get(name), theirs.get(name))
        for name in names
        if mine.get(name) != theirs.get(name) and name not in ("name", "description")
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _results_in(content: Any) -> list[dict[str, Any]]:
    """The evaluations in a file's content: one, with "metrics" that are dicts, or a "curve" of them."""
    if not isinstance(content, dict):
        return []
    if isinstance(content.get("curve"), list):
        return [result for part in content["curve"] for result in _results_in(part)]
    metrics = content.get("metrics")
    return [content] if isinstance(metrics, dict) and all(isinstance(found, dict) for found in metrics.values()) else []
