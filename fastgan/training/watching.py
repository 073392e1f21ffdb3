"""Evaluation in the loop: metrics as a run trains, its best checkpoint, and an early stop.

What is known of the best is part of every checkpoint, so a run that was killed, or went back, decides as one that nobody
disturbed.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from fastgan.checked import UserError, nearest
from fastgan.config import Config, Evaluation
from fastgan.games import Game
from fastgan.training import assess, checkpoint
from fastgan.training.folder import Folder
from fastgan.training.run import Run
from fastgan.training.session import Session
from fastgan.training.telemetry import Silence, Telemetry

HIGHER = {
    **dict.fromkeys(("fid", "fd", "kid", "intra-fid", "intra-fd", "ndb"), False),
    **dict.fromkeys(("is", "prc", "prdc", "density-coverage", "kde", "diversity", "cas", "good-samples"), True),
    "modes-stacked-digits": True,
}
"""Metric, whatever features it looks at -> whether a higher value is the better one."""
PARTS = ("recall", "density", "coverage")
"""Numbers of a metric that are logged beside its value, where it has them."""


@dataclass(frozen=True)
class Best:
    """The best evaluation so far, by one metric of so many samples."""

    metric: str | None = None
    num: int = 0
    value: float | None = None
    round: int | None = None
    misses: int = 0
    """Evaluations since."""
    name: str | None = None
    """What the metric came to be called, with the features that it looked at, and their digests: values of others don't
    compare."""
    features: str = ""


class Watch:
    """Judges a session's samples every so many images.

    Args:
        config: of the run.
        folder: of the run; what metrics keep lies there, and the best checkpoint.
    """

    def __init__(self, config: Config, folder: Folder) -> None:
        self.config, self.folder, self.settings = config, folder, config.evaluation
        self.best = Best(self.settings.best, self.settings.num)

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop: the metric has not improved for as long as the run was to wait."""
        return 0 < self.settings.patience <= self.best.misses

    @property
    def reason(self) -> str:
        """Why, for people."""
        best = self.best
        since = f"{best.value:.3f} at round {best.round}" if best.value is not None else "none so far"
        return f"{best.name or best.metric} has not improved on its best, {since}, for {best.misses} evaluations"

    def is_due(self, before: int, images: int) -> bool:
        """Whether a round that went from `before` real images to `images` is followed by an evaluation."""
        every = self.settings.every
        return every > 0 and images // every > before // every

    def look(self, session: Session, log: Telemetry | Silence, state: Callable[[], dict[str, Any]]) -> None:
        """Judge the averaged generator, all ranks together; log it, and keep the best checkpoint.

        Before the first round nothing is kept.

        Args:
            state: makes the checkpoint; all ranks call it.

        Raises:
            UserError: a metric can't judge this run, or the checkpoint can't be written.
        """
        began = time.perf_counter()
        device = next(session.game.parameters()).device
        run = Run(self.folder, self.config, session.round, session.images, session.game, session.average, device)
        with _resting(session.game):
            options = {"split": self.settings.split, "ranks": session.ranks}
            result = assess.evaluate(run, self._names(run), self.settings.num, **options)
        found = result["metrics"]
        value = float(next(iter(found.values()))["value"])  # no number of numpy's: checkpoints hold plain values
        self._compare_with(next(iter(found)), " ".join(result["features"].values()))
        counts = self.settings.best is not None and session.round > 0
        improved = counts and self._take(value, session.round)
        if improved:
            whole = state()
            with session.ranks.agreed():
                if session.ranks.first:
                    checkpoint.save_best(self.folder.checkpoints, whole)
        log.judged(session.round, session.images, scalars(found), time.perf_counter() - began)
        log.say(f"evaluation at round {session.round}: {said(found)}{' (the best so far)' if improved else ''}")

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.best)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; from none, or where another metric or number of samples is asked for now, anew."""
        best = Best(**state)
        same = (best.metric, best.num) == (self.settings.best, self.settings.num)
        self.best = best if same else Best(self.settings.best, self.settings.num)

    def _names(self, run: Run) -> list[str] | None:
        """The metrics, that of the best checkpoint first; None for those that fit."""
        names = list(self.settings.metrics) or assess.suitable_metrics(run)
        best = self.settings.best
        return [best, *(name for name in names if name != best)] if best is not None else names or None

    def _compare_with(self, name: str, features: str) -> None:
        """Forget a best value of other features than these: a classifier's, before Inception's weights were at hand."""
        if (self.best.name or name, self.best.features or features) != (name, features):
            self.best = Best(self.settings.best, self.settings.num)
        self.best = replace(self.best, name=name, features=features)

    def _take(self, value: float, round_number: int) -> bool:
        """Whether the value is the best so far; either way it is counted."""
        before = self.best.value
        better = before is None or (value > before if is_higher_better(self.settings.best) else value < before)
        if isfinite(value) and better:
            self.best = replace(self.best, value=value, round=round_number, misses=0)
            return True
        self.best = replace(self.best, misses=self.best.misses + 1)
        return False


def check(settings: Evaluation) -> None:
    """Refuse metrics that there are not.

    Raises:
        UserError: with the nearest name.
    """
    for name in (*settings.metrics, *([settings.best] if settings.best is not None else ())):
        assess.wanted(name, None, "inception")
        is_higher_better(name)


def is_higher_better(metric: str) -> bool:
    """Of a metric by its name, with the features that it looks at or without: "kid", "kid-digits".

    Raises:
        UserError: there is no such metric.
    """
    for name in sorted(HIGHER, key=len, reverse=True):
        if metric == name or metric.startswith(f"{name}-"):
            return HIGHER[name]
    raise UserError(f"unknown metric {metric!r}: {nearest(metric, HIGHER)}")


def scalars(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The finite numbers of an evaluation's metrics, by the names that they are logged under."""
    named = {f"evaluation/{name}": result["value"] for name, result in found.items()}
    named |= {f"evaluation/{name}/{part}": result.get(part) for name, result in found.items() for part in PARTS}
    return {name: value for name, value in named.items() if isinstance(value, int | float) and isfinite(value)}


def said(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The same for people."""
    return ", ".join(f"{name} {result.get('shown') or format(result['value'], '.3f')}" for name, result in found.items())


@contextmanager
def _resting(game: Game) -> Iterator[None]:
    """Inside, all of the game's modules are in evaluation mode."""
    modes = [(module, module.training) for module in game.modules()]
    game.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
