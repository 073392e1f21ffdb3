"""Points in the plane in the place of images: the toys on which a GAN's missing modes and stray samples can be counted.

    grid25      25 Gaussians on a 5x5 grid, spacing 1, centred on 0, sigma 0.05
    ring8       8 Gaussians on a circle of radius 2, sigma 0.02                    (the measures of AdvLatGAN's field)
    swiss-roll  (t cos t, t sin t) / 7.5 with t uniform on [3 pi / 2, 9 pi / 2], sigma 0.25 / 7.5: the roll and the scale of
                Gulrajani et al., "Improved training of Wasserstein GANs" (2017), seen along its axis; it has no modes

Points are drawn, not stored: ordinal k = 0, 1, 2, ... has its own counter-based numbers (`kernels.philox`), so a stream of
points has all that the stream of images has. There are no epochs: no point comes twice.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastgan.data.sources import DataError
from fastgan.data.stream import Batch, checked_device, position
from fastgan.kernels import philox

_AHEAD = 1 << 13  # points drawn at once: a call of philox costs some 0.2 ms, however few they are
_ROLL = (1.5 * math.pi, 4.5 * math.pi)
_ROLL_SCALE = 1 / 7.5


@dataclass(frozen=True, eq=False)
class Distribution:
    """A distribution of points in the plane: a curve or a set of modes, blurred by a round Gaussian.

    Attributes:
        name: its key in `DISTRIBUTIONS`.
        modes: (x, y) of each mode's centre; empty where there are none.
        sigma: standard deviation of each coordinate around its centre.
        centres: uniform numbers on [0, 1), float32 (B,) -> centres float32 (B, 2) and labels int64 (B,), the mode's index.
    """

    name: str
    modes: tuple[tuple[float, float], ...]
    sigma: float
    centres: Callable[[Tensor], tuple[Tensor, Tensor]]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over what defines the distribution, to nine decimals."""
        modes = " ".join(f"{x:.9f},{y:.9f}" for x, y in self.modes)
        return hashlib.sha256(f"{self.name} {self.sigma:.9f} {modes}".encode()).hexdigest()

    def sample(self, seed: int, ordinals: Tensor) -> tuple[Tensor, Tensor]:
        """The points with these ordinals, int64 (B,): float32 (B, 2), and their labels, int64 (B,), all on one device."""
        centres, labels = self.centres(philox.uniform(seed, "points/centre", ordinals, 1)[:, 0])
        return centres.add(philox.normal(seed, "points/noise", ordinals, 2), alpha=self.sigma), labels


class PointStream:
    """An endless iterator of batches of points; to a run it is what `Stream` is for images.

    `next(stream)` gives a dict of
        images: float32 (batch_size, 2), unbounded;
        labels: int64 (batch_size,), the index of the mode that each point was drawn from (0 where there are no modes);
        indices: int64 (batch_size,), the ordinals of these points.
    At step t shard s hands out the ordinals start + (t * shards + s) * batch_size + 0 ... batch_size - 1.

    Args:
        distribution: what to draw from.
        batch_size: points that one shard hands out at a time.
        seed: 0 to 2**64 - 1.
        shard: this process's number, 0 to shards - 1.
        shards: how many processes share the points.
        device: where the points are drawn, "cpu" or a CUDA device.

    Raises:
        DataError: an argument out of its range, or a CUDA device where there is none.
    """

    def __init__(
        self,
        distribution: Distribution,
        *,
        batch_size: int,
        seed: int,
        shard: int = 0,
        shards: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        for name, value in {"batch_size": batch_size, "shards": shards}.items():
            if value < 1:
                raise DataError(f"{name} must be at least 1, but is {value}")
        if not 0 <= shard < shards:
            raise DataError(f"shard must be from 0 to {shards - 1} with {shards} shards, but is {shard}")
        if not 0 <= seed < 2**64:
            raise DataError(f"seed must be from 0 to 2**64 - 1, but is {seed}")
        self._distribution, self._batch_size, self._seed = distribution, batch_size, seed
        self._shard, self._shards, self._device = shard, shards, checked_device(device)
        self._images_seen = 0
        self._ahead: list[Batch] = []  # the next batches, last one first

    def __iter__(self) -> "PointStream":
        return self

    def __next__(self) -> Batch:
        if not self._ahead:
            self._ahead = self._draw(max(1, _AHEAD // self._batch_size))[::-1]
        self._images_seen += self._batch_size * self._shards
        return self._ahead.pop()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the points handed out so far over all shards, the distribution's fingerprint, the seed."""
        return {"images_seen": self._images_seen, "fingerprint": self._distribution.fingerprint, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. Batch size, shards and device may differ from then.

        Raises:
            DataError: the state was taken over other data or with another seed, or is no stream's state. The stream is left
                as it was.
        """
        images_seen = position(state, self._distribution.name, self._distribution.fingerprint, self._seed)
        self.close()
        self._images_seen = images_seen

    def close(self) -> None:
        """Drop what was drawn ahead. The next batch goes on where the last one ended."""
        self._ahead = []

    def _draw(self, batches: int) -> list[Batch]:
        step = torch.arange(batches, device=self._device)[:, None] * self._shards + self._shard
        ordinals = self._images_seen + step * self._batch_size + torch.arange(self._batch_size, device=self._device)
        points, labels = self._distribution.sample(self._seed, ordinals.flatten())
        # Copies: a batch that is held would otherwise hold all of them.
        parts = zip(points.split(self._batch_size), labels.split(self._batch_size), ordinals, strict=True)
        return [{"images": p.clone(), "labels": y.clone(), "indices": k.clone()} for p, y, k in parts]


def _mixture(name: str, modes: tuple[tuple[float, float], ...], sigma: float) -> Distribution:
    """Equally likely Gaussians."""

    def centres(u: Tensor) -> tuple[Tensor, Tensor]:
        labels = (u * len(modes)).long()  # u is at most 1 - 2**-24, which no rounding lifts to a whole share
        return torch.tensor(modes, device=u.device)[labels], labels

    return Distribution(name, modes, sigma, centres)


def _roll(u: Tensor) -> tuple[Tensor, Tensor]:
    t = _ROLL[0] + (_ROLL[1] - _ROLL[0]) * u
    return torch.stack((t * t.cos(), t * t.sin()), dim=1).mul_(_ROLL_SCALE), torch.zeros_like(u, dtype=torch.int64)


_GRID = tuple((float(x), float(y)) for x in range(-2, 3) for y in range(-2, 3))
_RING = tuple((2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)) for k in range(8))

DISTRIBUTIONS: dict[str, Distribution] = {
    "grid25": _mixture("grid25", _GRID, 0.05),
    "ring8": _mixture("ring8", _RING, 0.02),
    "swiss-roll": Distribution("swiss-roll", (), 0.25 * _ROLL_SCALE, _roll),
}
"""The names that `data.source` takes for points."""
