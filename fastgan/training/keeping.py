"""Saving a session, and going on from what was saved: after a stop, or after a collapse."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastgan import config as configuration
from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.engine import Ranks
from fastgan.training import checkpoint
from fastgan.training.folder import Folder
from fastgan.training.guard import CollapseGuard
from fastgan.training.run import other_network
from fastgan.training.session import Rollbacks, Session
from fastgan.training.telemetry import Silence, Telemetry
from fastgan.training.watching import Watch

CHANGEABLE = {
    "collapse.rollbacks",
    "collapse.rate_factor",
    "collapse.sigma_growth",
    "data.cache",
    "data.threads",
    "engine.kind",
    "engine.zero_stage",
    "engine.offload",
    "engine.deepspeed_json",
    "evaluation.every",
    "evaluation.metrics",
    "evaluation.num",
    "evaluation.best",
    "evaluation.patience",
    "training.steps",
    "training.log_every",
    "training.sample_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.spectra_every",
    "training.wandb",
}
"""What a resumed run may set anew; anything else would make it another run."""


class Diverged(RuntimeError):
    """Training has collapsed: a loss or a weight is NaN or infinite, or sigma_0 has exploded."""


@dataclass(frozen=True)
class Keeper:
    """All that a checkpoint holds, and where it lies."""

    config: Config
    folder: Folder
    session: Session
    guard: CollapseGuard
    watch: Watch

    def load(self) -> list[str]:
        """Take the newest checkpoint, if the run came that far; what the user should know comes back."""
        with self.session.ranks.agreed():
            newest = self.folder.newest_checkpoint()
            if newest is not None:
                state = checkpoint.load(newest)
                check_same(configuration.from_dict(state["config"]), self.config, f"the checkpoint {newest}")
                self.watch.load_state_dict(state.get("evaluation", {}))
                if self.watch.exhausted:
                    raise UserError(
                        f"the run in {self.folder.path} has stopped at round {state['round']}: {self.watch.reason}; "
                        "a larger evaluation.patience, or 0, trains it longer"
                    )
        if newest is None:
            return ["the run had no checkpoint yet: it begins again"]
        try:
            self.session.load_state_dict(state)
            self.guard.load_state_dict(state["guard"])
        except UserError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(other_network(newest, error)) from None
        here = _environment(self.session.ranks)
        return [
            f"the run had {name} {there}, now {here[name]}: from here on it may differ in the last bits"
            for name, there in state["environment"].items()
            if there != here[name]
        ]

    def save(self) -> None:
        """Write a checkpoint: all ranks gather it, the first one writes."""
        state = self.state()
        with self.session.ranks.agreed():
            if self.session.ranks.first:
                checkpoint.save(self.folder.checkpoints, state, self.config.training.keep_checkpoints)
                saved = self.session.rollbacks.saved if self.config.collapse.rollbacks else ()
                checkpoint.prune_best(self.folder.checkpoints, min(saved, default=self.session.round))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; all ranks gather it."""
        return {
            **self.session.state_dict(),
            "guard": self.guard.state_dict(),
            "evaluation": self.watch.state_dict(),
            "config": configuration.to_dict(self.config),
            "environment": _environment(self.session.ranks),
        }

    def go_back(self, log: Telemetry | Silence, wrong: str) -> str:
        """Go back to the last good checkpoint, all ranks together, and say so.

        That checkpoint is written anew with the count of rollbacks, and later ones go: resumed, the run does not collapse again
        first. Killed before it is written, it does, in the same way.

        Raises:
            Diverged: it may not go back, or there is nothing to go back to.
        """
        before, wrong = self.session.rollbacks, f"{wrong} by round {self.session.round}"
        good = self.session.ranks.told(last_good(self.folder, before))
        if good is None or before.count >= self.config.collapse.rollbacks:
            newest = self.folder.newest_checkpoint()
            where = f"the last good checkpoint is {newest}" if newest else "there was no checkpoint yet"
            often = f" after {before.count} rollback{'s'[: before.count > 1]}" if before.count else ""
            raise Diverged(f"{wrong}: training has stopped{often}, {where}")
        with self.session.ranks.agreed():
            state = checkpoint.load(good)
        collapsed = self.session.round
        self.session.go_back(state, self.config.collapse.rate_factor)
        self.guard.load_state_dict(state["guard"])
        self.watch.load_state_dict(state.get("evaluation", {}))
        count, rate = self.session.rollbacks.count, self.session.rollbacks.rate
        event = {"rollback": count, "collapsed": collapsed, "rate": rate, "reason": wrong}
        log.go_back(self.session.round, self.session.images, event, self.session.waited)
        with self.session.ranks.agreed():
            if self.session.ranks.first:
                checkpoint.drop_after(self.folder.checkpoints, self.session.round)
        self.save()
        often = f"rollback {count} of {self.config.collapse.rollbacks}"
        return f"{wrong}: back to round {self.session.round}, with rates times {rate:g} and other latents ({often})"


def last_good(folder: Folder, rollbacks: Rollbacks) -> Path | None:
    """The newest checkpoint; the one before, if the run went back to that one already and has saved none since: it may have
    been collapsing when it was saved. Not those that a signal has left in between, which the undisturbed run has not."""
    found = checkpoint.listing(folder.checkpoints)
    found = [path for path in found if int(path.stem) in rollbacks.saved] or found
    if len(found) > 1 and int(found[-1].stem) == rollbacks.to:
        found.pop()
    return found[-1] if found else None


def check_same(begun: Config, wanted: Config, where: str) -> None:
    """Refuse a difference that would make the run another one."""
    stored, asked = configuration.flatten(begun), configuration.flatten(wanted)
    for name in sorted(stored.keys() | asked.keys()):
        if stored.get(name) != asked.get(name) and name not in CHANGEABLE:
            raise UserError(
                f"{name} is {stored.get(name)!r} in {where}, not {asked.get(name)!r}: "
                "it can't change on resuming, train a new run instead"
            )


def _environment(ranks: Ranks) -> dict[str, str]:
    """What bit-exact continuation depends on beside the checkpoint."""
    return {"torch": str(torch.__version__), "threads": str(torch.get_num_threads()), "ranks": str(ranks.count)}
