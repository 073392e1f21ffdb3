"""What every game is made of: players, phases, and the rule that a phase moves nothing but its own player."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.latent.frozen import frozen

Batch = Mapping[str, Tensor]
"""What a stream yields: "images", (B, C, H, W) in [-1, 1] or points (B, 2), and whatever else the game plays with ("labels",
pairs, ...)."""
Statistics = dict[str, Tensor]
"""Scalars for the log, detached, on the device."""


def _alone(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Phase:
    """One turn of one player in a round."""

    name: str
    """Unique in the game, "D", "G", "Dreg": names the phase's random numbers and statistics."""
    player: str
    loss: Callable[[Batch, Draw], tuple[Tensor, Statistics]]
    """The loss over one micro-batch, to be minimised, and statistics for the log."""
    every: int = 1
    """Rounds between turns."""
    times: int = 1
    """Turns in one round, an optimiser step each."""
    fresh: bool = True
    """Whether each turn takes new batches from the stream, or the ones that the round's turn before it had."""
    waits: bool = False
    """Whether the optimiser's step is taken with the next phase's, so that both losses are those of the same networks."""


class Game(nn.Module):
    """Networks, and whatever state is carried between rounds, as buffers: a checkpoint of the module is one of the game."""

    players: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Player -> names of the submodules that its optimiser steps together."""
    averaged: ClassVar[Sequence[str]] = ("generator",)
    """Submodules whose weights are averaged over training (EMA)."""
    stages: ClassVar[Sequence[int]] = ()
    """Rounds at whose beginning the game is rebuilt, rising: progressive growth."""

    over_ranks: Callable[[Tensor], Tensor] | None = None
    """Where ranks share a batch: a mean over them (`engine.distributed.Ranks.mean`)."""
    gather: Callable[[Tensor], Tensor] = staticmethod(_alone)
    """The rows of all ranks, for a loss that is the same on each of them (`Ranks.gather`)."""
    pool: Callable[[Tensor], Tensor] = staticmethod(_alone)
    """The rows of all ranks, for losses of their own (`Ranks.pool`)."""

    def phases(self) -> Sequence[Phase]:
        """The order of play within a round."""
        raise NotImplementedError

    def paces(self, statistics: Mapping[str, Statistics]) -> Mapping[str, Tensor]:
        """What the learning rates of players about to step are multiplied by, scalars on the device, by player; 1 for those
        that are not named. `statistics` are this round's so far, by phase, of this rank."""
        return {}

    def after(self, statistics: Mapping[str, Statistics]) -> None:
        """Bookkeeping at the end of a round; `statistics` by phase. Moves buffers only."""

    def rebuild(self, stage: int) -> None:
        """Change the networks at the beginning of stage 1, 2, ...; engines, averages and the stream are made anew after it.

        It must depend on nothing but the stage: a resumed run rebuilds from 1 to its stage, then loads its tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} has stages but no rebuild")

    def networks_of(self, player: str) -> list[nn.Module]:
        """The submodules that `player` steps."""
        return [self.get_submodule(name) for name in self.players[player]]

    def played(self) -> dict[str, nn.Module]:
        """The networks of all players by name, in the order in which the game has them; not what it remembers beside them."""
        names = {name for names in self.players.values() for name in names}
        return {name: network for name, network in self.named_children() if name in names}

    @contextmanager
    def turn(self, player: str) -> Iterator[None]:
        """Inside, every other player is frozen: no gradient of its parameters is computed, none of its buffers moves."""
        others = (network for other in self.players if other != player for network in self.networks_of(other))
        with frozen(*others):
            yield

    def main_share(self, player: str) -> float:
        """The share of the player's optimiser steps that are not lazy: 16/17 with one lazy step in 16 rounds, 1 with none."""
        phases = [phase for phase in self.phases() if phase.player == player]
        main = sum(phase.times for phase in phases if phase.every == 1)
        return main / sum(phase.times / phase.every for phase in phases) if main else 1.0
