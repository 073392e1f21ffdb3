"""What a round takes, as a function of the micro-batch: two rehearsals, and the line through them for each operation."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from fastgan.config import Config
from fastgan.engine.deepspeed import users
from fastgan.planning.gpus import Gpu
from fastgan.planning.meter import Meter
from fastgan.planning.rehearsal import batch_shape, imagine, rehearse

REHEARSED = 8, 16
"""Micro-batches that are rehearsed."""
DISPATCH = 10e-6
"""Seconds that Python and torch take to start one operation, whatever its size: an assumption."""
SHARE_OF_BANDWIDTH = 0.8
"""What operations that are no products reach of the memory's bandwidth: an assumption."""


@dataclass(frozen=True)
class Player:
    """What one player's optimiser steps."""

    parameters: int
    turns: float
    """Optimiser steps in a round; lazy ones in parts of one."""
    second_order: bool


class Work:
    """A round's work, bytes and memory at any micro-batch: every operation's are a line in it, as the shapes are.

    A round has `accumulate` micro-batches a turn. Where a phase is played every n rounds, its operations count 1/n.

    Args:
        config: what is planned. Its batch, micro-batches and precision are not looked at.
        precision: as `rehearsal.rehearse` takes it.
        on_gpu: as `rehearsal.rehearse` takes it.

    Raises:
        UserError: the networks can't be built, or the DeepSpeed configuration can't be read.
    """

    def __init__(self, config: Config, precision: str, on_gpu: bool = True) -> None:
        self.config = config
        json = config.engine.deepspeed_json
        self.deepspeed = users(json and str(Path(json).expanduser()))
        """What the user's JSON sets, {} where there is none."""
        self.game = game = imagine(config)
        phases = {phase.name: phase for phase in game.phases()}
        self.networks = {name: sum(p.numel() for p in network.parameters()) for name, network in game.played().items()}
        """Network -> parameters."""
        self.averaged = sum(self.networks[name] for name in game.averaged)
        self.players = {
            player: Player(
                sum(self.networks[name] for name in names),
                sum(phase.times / phase.every for phase in phases.values() if phase.player == player),
                any(term.second_order for term in config.terms.values() if term.player == player),
            )
            for player, names in game.players.items()
        }
        self.batches = sum(phase.times for phase in phases.values() if phase.fresh)
        """Of real images, in a round."""
        small, large = (rehearse(game, config, size, precision, on_gpu) for size in REHEARSED)
        if small.places != large.places:
            raise RuntimeError("two micro-batches make rounds of different operations: what they take is no line")
        self._lines = {name: _line(small, large, name) for name in _COLUMNS}
        self.at_rest = small.at_rest
        """Bytes held between rounds: weights, moments, averages."""
        places = small.places
        self._places = places
        self._phases = np.array([place.phase for place in places])
        self._micro = np.array([place.micro for place in places])
        self._convolution = np.array(small.convolution)
        self._started = small.column("started")
        every = {"": 1, **{name: phase.every for name, phase in phases.items()}}
        self._share = np.array([1 / every[place.phase] for place in places])
        self._player = {name: phase.player for name, phase in phases.items()}

    def flops(self, micro_batch: float, accumulate: int = 1) -> dict[tuple[str, str], float]:
        """(phase, part) -> floating-point work of a round on one rank, in convolutions and matrix products."""
        counts = self._times(accumulate) * self._at("flops", micro_batch)
        found: dict[tuple[str, str], float] = {}
        for place, count in zip(self._places, counts.tolist(), strict=True):
            if count:
                found[place.phase, place.part] = found.get((place.phase, place.part), 0.0) + count
        return found

    def total(self, column: str, micro_batch: float, accumulate: int = 1) -> float:
        """Sum over a round on one rank of "flops", "bytes", "kernel_bytes" or "shared" (see `Meter`)."""
        return float(self._times(accumulate) @ self._at(column, micro_batch))

    def started(self, accumulate: int = 1) -> float:
        """Operations that a round starts on a device."""
        return float(self._times(accumulate) @ self._started)

    def reductions(self, accumulate: int = 1) -> float:
        """All-reduces of a round for batch statistics, where ranks share them."""
        return float(self._times(accumulate) @ (self._lines["shared"][0] > 0))

    def device_seconds(self, gpu: Gpu, precision: str, efficiency: float, micro_batch: float, accumulate: int = 1) -> float:
        """Time of a round's operations one after another, each the longer of its products at `efficiency` of the GPU's rate and
        its bytes at `SHARE_OF_BANDWIDTH` of its bandwidth."""
        products, memory = self._seconds(gpu, precision, efficiency, micro_batch)
        return float(self._times(accumulate) @ np.maximum(products, memory))

    def memory_seconds(self, gpu: Gpu, precision: str, efficiency: float, micro_batch: float, accumulate: int = 1) -> float:
        """The part of `device_seconds` in which the memory is waited for."""
        products, memory = self._seconds(gpu, precision, efficiency, micro_batch)
        return float(self._times(accumulate) @ np.where(memory > products, memory, 0.0))

    def host_seconds(self, accumulate: int = 1) -> float:
        """Time in which a round's operations are started, one after another."""
        return DISPATCH * self.started(accumulate)

    def peaks(self, micro_batch: float, accumulate: int = 1) -> dict[str, float]:
        """Player -> bytes at the fullest moment of its phases beyond what rests: activations, gradients, real images."""
        live = self._at("live", micro_batch) - self.at_rest
        played = self._times(accumulate) > 0
        waiting = (accumulate - 2) * self.bytes_of_images(micro_batch)  # two micro-batches were there in the rehearsal
        found: dict[str, float] = dict.fromkeys(self.players, 0.0)
        for phase, player in self._player.items():
            here = live[(self._phases == phase) & played]
            found[player] = max(found[player], float(here.max(initial=0.0)) + waiting)
        return found

    def bytes_of_images(self, micro_batch: float) -> float:
        """Of a micro-batch of real images, fp32."""
        return 4.0 * micro_batch * prod(batch_shape(self.config, 1))

    def _seconds(self, gpu: Gpu, precision: str, efficiency: float, micro_batch: float) -> tuple[np.ndarray, np.ndarray]:
        """Of each operation's products and bytes."""
        rates = np.where(self._convolution, gpu.rate(precision, True), gpu.rate(precision, False)) * efficiency
        return self._at("flops", micro_batch) / rates, self._at("bytes", micro_batch) / (SHARE_OF_BANDWIDTH * gpu.bandwidth)

    def _at(self, column: str, micro_batch: float) -> np.ndarray:
        start, slope = self._lines[column]
        return start + slope * micro_batch

    def _times(self, accumulate: int) -> np.ndarray:
        """How often a round has each operation."""
        return self._share * np.where(self._micro == 1, accumulate - 1, 1)


_COLUMNS = ("flops", "bytes", "kernel_bytes", "live", "shared")


def _line(small: Meter, large: Meter, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Each operation's value at 0 and what a sample adds."""
    first, second = small.column(column), large.column(column)
    slope = (second - first) / (REHEARSED[1] - REHEARSED[0])
    return first - REHEARSED[0] * slope, slope
