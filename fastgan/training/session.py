"""A game being played: everything in a run that changes, and the round that changes it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.engine import ALONE, Ranks
from fastgan.games import Game
from fastgan.games.game import Batch, Phase, Statistics
from fastgan.training.average import MovingAverage
from fastgan.training.spectra import LEADING, leading_singular_values, matrices


class Engine(Protocol):
    """What the round asks of an engine; `fastgan.engine` has them."""

    def autocast(self): ...
    def set_rate(self, factor: float, burnt_in: float = 1.0) -> None: ...
    def backward(self, loss: Tensor) -> None: ...
    def step(self, measured: bool = False) -> Tensor | None: ...
    def whole(self, changed: bool = False) -> AbstractContextManager: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stream(Protocol):
    """What the round asks of a stream of micro-batches; `fastgan.data` has them."""

    def __next__(self) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Rollbacks:
    """How often a session went back to an earlier state of its, and what is otherwise since."""

    count: int = 0
    """What is drawn depends on it."""
    rate: float = 1.0
    """All learning rates are multiplied by it."""
    to: int | None = None
    """The round that it went back to last."""
    saved: tuple[int, ...] = ()
    """The last two rounds that were saved in their turn, and not because a signal ended the process."""

    def saving(self, round_number: int) -> "Rollbacks":
        """The same, as this round is saved in its turn."""
        return replace(self, saved=(*[r for r in self.saved if r < round_number][-1:], round_number))


class Session:
    """The game, its engines, the average of its weights, its stream, and how far it has come.

    Args:
        game: on the device that it is trained on.
        make_engine: (game, player) -> the player's engine.
        make_stream: stage -> this rank's share of the stream of that stage.
        rate: (player, round) -> factor of the player's learning rate.
        burnt_in: round -> the share of the burn-in that has passed when it begins.
        seed: of all random numbers in the round.
        batch_size: samples of one turn, over all ranks and micro-batches.
        accumulate: micro-batches of one turn.
        half_life, rampup, half_life_end: of the moving average, in images (see `MovingAverage`).
        spectra_every: rounds between those whose gradients' norms are taken for `measure`; 0 for none.
        ranks: the processes that share each micro-batch; the state is the same on all of them, where no network computes
            statistics over its share.
    """

    def __init__(
        self,
        game: Game,
        make_engine: Callable[[Game, str], Engine],
        make_stream: Callable[[int], Stream],
        *,
        rate: Callable[[str, int], float] = lambda player, round_number: 1.0,
        burnt_in: Callable[[int], float] = lambda round_number: 1.0,
        seed: int = 0,
        batch_size: int,
        accumulate: int = 1,
        half_life: float = 0.0,
        rampup: float | None = None,
        half_life_end: float | None = None,
        spectra_every: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.game, self.make_engine, self.make_stream, self.rate = game, make_engine, make_stream, rate
        self.burnt_in, self.half_life_end = burnt_in, half_life_end
        self.seed, self.batch_size, self.accumulate = seed, batch_size, accumulate
        self.half_life, self.rampup, self.spectra_every, self.ranks = half_life, rampup, spectra_every, ranks
        self.round = 0
        """Rounds played."""
        self.images = 0
        """Real images shown, over all ranks."""
        self.stage = 0
        self.waited = 0.0
        """Seconds in which this process stood still for the stream, since the session began."""
        self.tally: dict[str, tuple[Tensor, int]] = {}
        """Statistic -> its sum and count since they were last read."""
        self.gradient_norms: dict[str, Tensor] = {}
        """Phase -> the norm of its player's gradients at its last step in the last round that was measured."""
        self.rollbacks = Rollbacks()
        self._begin_stage()

    def play_round(self) -> None:
        """Every phase in its order: draw, judge, backward over the micro-batches, one optimiser step a turn."""
        self._grow()
        before, statistics, measured = self.images, {}, self._is_measured(self.round + 1)
        burnt_in = self.burnt_in(self.round)
        batches: list[Batch] = []
        waiting: list[tuple[Phase, Engine]] = []
        if measured:
            self.gradient_norms = {}
        for phase in self.game.phases():
            if self.round % phase.every:
                continue
            engine = self.engines[phase.player]
            seen: list[Statistics] = []
            for turn in range(phase.times):
                if phase.fresh or not batches:
                    batches = self._next_batches()
                with self.game.turn(phase.player):
                    for part, batch in enumerate(batches):
                        with engine.autocast():
                            loss, observed = phase.loss(batch, self._draw(phase, turn, part))
                        engine.backward(loss / self.accumulate)
                        seen.append(observed)
                statistics[phase.name] = _mean(seen)
                waiting.append((phase, engine))
                if not phase.waits:
                    self._step(waiting, statistics, burnt_in, measured)
        self.ranks.mean_([value for observed in statistics.values() for value in observed.values()])
        self._count(statistics)
        self.game.after(statistics)
        self.round += 1
        with self._whole(*self.game.averaged):
            self.average.update(self.game, self.images - before, self.images, burnt_in)

    def read_tally(self) -> dict[str, float]:
        """Mean of every statistic since the last reading, which waits for the device once."""
        names = list(self.tally)
        sums = torch.stack([self.tally[name][0] for name in names]).tolist() if names else []
        means = {name: total / self.tally[name][1] for name, total in zip(names, sums, strict=True)}
        self.tally = {}
        return means

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """What tells of stability, after a round that is to be measured, {} after any other.

        `PHASE/gradient_norm` of the round's last step of each phase, before clipping, left out where it overflowed;
        `weight_norm/PLAYER`; `sigma_0/WEIGHT`, `sigma_1/...`, `sigma_2/...` of every weight of two or more dimensions (see
        `fastgan.training.spectra`), each computed on one rank. All ranks call it, and get the same.
        """
        if not self._is_measured(self.round):
            return {}
        found = {f"{phase}/gradient_norm": norm for phase, norm in self.gradient_norms.items()}
        with self._whole():
            for player in self.game.players:
                weights = [weight for network in self.game.networks_of(player) for weight in network.parameters()]
                found[f"weight_norm/{player}"] = nn.utils.get_total_norm(weights)
            named = {
                f"{name}.{label}": matrix
                for names in self.game.players.values()
                for name in names
                for label, matrix in matrices(self.game.get_submodule(name)).items()
            }
            counts = [min(LEADING, *matrix.shape) for matrix in named.values()]
            sigmas = torch.zeros(len(named), LEADING, device=next(self.game.parameters()).device)
            for i, matrix in enumerate(named.values()):
                if i % self.ranks.count == self.ranks.rank:
                    sigmas[i] = leading_singular_values(matrix)
        self.ranks.mean_([sigmas])
        sigmas *= self.ranks.count
        for k in range(LEADING):
            found |= {f"sigma_{k}/{name}": sigmas[i, k] for i, name in enumerate(named) if k < counts[i]}
        values = torch.stack(list(found.values())).tolist()
        return {name: value for name, value in zip(found, values, strict=True) if isfinite(value)}

    def is_finite(self) -> bool:
        """Whether every statistic since the last reading, and every tensor of the game, is free of NaN and infinity, on every
        rank."""
        with self._whole():
            tensors = [*self.game.parameters(), *self.game.buffers(), *(total for total, _ in self.tally.values())]
            checks = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
        return not self.ranks.any(not torch.stack(checks).all())

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact continuation needs. Random numbers are functions of the round: they have no state. Whatever the
        engines and however many ranks, it has one form."""
        with self._whole():  # divided again behind it, so copied inside
            game = {name: tensor.clone() for name, tensor in self.game.state_dict().items()}
        return {
            "round": self.round,
            "images": self.images,
            "stage": self.stage,
            "game": game,
            "engines": {player: engine.state_dict() for player, engine in self.engines.items()},
            "average": self.average.state_dict(),
            "stream": self.stream.state_dict(),
            "tally": {name: [total, count] for name, (total, count) in self.tally.items()},
            "rollbacks": asdict(self.rollbacks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`: the stages up to its are entered, then its tensors are taken. An imported run brings no
        state of engines and stream: they begin.

        Raises:
            RuntimeError, ValueError: the state is of another game, of an earlier stage, or of other data.
        """
        if state["stage"] < self.stage:
            raise ValueError(f"the state is of stage {state['stage']}, which this session has left")
        while self.stage < state["stage"]:
            self._enter_next_stage()
        if state["stream"]:
            self.stream.load_state_dict(state["stream"])
        with self._whole(changed=True):
            self.game.load_state_dict(state["game"])
        for player, engine in self.engines.items():
            engine.load_state_dict(state["engines"].get(player) or engine.state_dict())
        self.average.load_state_dict(state["average"])
        self.round, self.images = state["round"], state["images"]
        device = next(self.game.parameters()).device
        self.tally = {name: (total.to(device), count) for name, (total, count) in state["tally"].items()}
        self.rollbacks = Rollbacks(**state.get("rollbacks", {}))

    def go_back(self, state: Mapping[str, Any], rate_factor: float) -> None:
        """Continue from an earlier `state_dict` of this session in another way than before: replayed, it would come to the same
        end. All rates are multiplied by `rate_factor` from here on, and latents, labels and noise are drawn anew. The order of
        the real images stays: each is shown once an epoch."""
        count, rate = self.rollbacks.count + 1, self.rollbacks.rate * rate_factor
        self.load_state_dict(state)
        self.rollbacks = replace(self.rollbacks, count=count, rate=rate, to=self.round)

    def _grow(self) -> None:
        if self.stage < len(self.game.stages) and self.round >= self.game.stages[self.stage]:
            self._enter_next_stage()

    def _enter_next_stage(self) -> None:
        position = self.stream.state_dict()
        self.stage += 1
        self.game.rebuild(self.stage)
        self._begin_stage()
        self.stream.load_state_dict(position)

    def _begin_stage(self) -> None:
        self.average = MovingAverage(
            self.game, self.half_life, self.rampup, self.half_life_end
        )  # a copy of weights that are still whole
        self.engines = {player: self.make_engine(self.game, player) for player in self.game.players}
        self.stream = self.make_stream(self.stage)

    @contextmanager
    def _whole(self, *networks: str, changed: bool = False) -> Iterator[None]:
        """Inside, the weights of these networks are there in full on every rank; of all networks where none are named."""
        with ExitStack() as stack:
            for player, engine in self.engines.items():
                if not networks or not set(networks).isdisjoint(self.game.players[player]):
                    stack.enter_context(engine.whole(changed))
            yield

    def _step(
        self, waiting: list[tuple[Phase, Engine]], statistics: Mapping[str, Statistics], burnt_in: float, measured: bool
    ) -> None:
        paces = self._paces(statistics)
        for phase, engine in waiting:
            factor = self.rate(phase.player, self.round) * self.rollbacks.rate * paces.get(phase.player, 1.0)
            engine.set_rate(factor, burnt_in)
            norm = engine.step(measured)
            if norm is not None:
                self.gradient_norms[phase.name] = norm
        waiting.clear()

    def _paces(self, statistics: Mapping[str, Statistics]) -> dict[str, float]:
        """The game's, equal on all ranks. Where it sets any, the host waits for the device: optimisers take numbers."""
        paces = self.game.paces(statistics)
        if not paces:
            return {}
        values = torch.stack(list(paces.values()))
        self.ranks.mean_([values])
        return dict(zip(paces, values.tolist(), strict=True))

    def _next_batches(self) -> list[Batch]:
        self.images += self.batch_size
        began = time.perf_counter()
        batches = [next(self.stream) for _ in range(self.accumulate)]
        self.waited += time.perf_counter() - began
        return batches

    def _draw(self, phase: Phase, turn: int, part: int) -> Draw:
        size = self.batch_size // (self.accumulate * self.ranks.count)
        first = (part * self.ranks.count + self.ranks.rank) * size
        rows = torch.arange(first, first + size, device=next(self.game.parameters()).device)
        purpose = f"{phase.name} {self.rollbacks.count}" if self.rollbacks.count else phase.name
        return Draw(self.seed, purpose, self.round, rows, turn, part)

    def _is_measured(self, round_number: int) -> bool:
        return self.spectra_every > 0 and round_number % self.spectra_every == 0

    def _count(self, statistics: Mapping[str, Statistics]) -> None:
        for phase, observed in statistics.items():
            for name, value in observed.items():
                total, count = self.tally.get(f"{phase}/{name}", (0.0, 0))
                self.tally[f"{phase}/{name}"] = (total + value, count + 1)


def _mean(seen: list[Statistics]) -> Statistics:
    """Each statistic's mean over a phase's turns and micro-batches."""
    return seen[0] if len(seen) == 1 else {name: torch.stack([s[name] for s in seen]).mean() for name in seen[0]}
