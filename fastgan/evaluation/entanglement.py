"""What else changes where one attribute of an image is changed: by classifiers of the other attributes.

Sainburg et al. 2018 (GAIA), section 2.4, call directions by least squares less entangled than differences of means; here is a
number for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 16
"""Pixels that linear classifiers look at, on a side; larger images are averaged down to it."""
_DECAY = 1e-2
_HALVINGS = 6
_FARTHEST, _STOPS = 2.0, 8
"""Directions that a walk goes at most, twice the way from without an attribute to with it, and in how many steps."""


@dataclass(frozen=True)
class Entanglement:
    """What moving along each of A directions changes.

    Attributes:
        names: of the attributes.
        changes: changes[i][j], the mean change of classifier j's log-odds along direction i, in standard deviations of that
            classifier over the images where the walks begin.
        steps: how far each went, in directions.
        reached: whether its own attribute has changed as much as was asked for.
        value: of the directions i that reached it, mean |changes[i][j]| over i != j, over the mean changes[i][i]; NaN where
            none did. 0 is perfect; 1 is no better than a direction of any other attribute. It says nothing of a direction that
            does not change its own attribute, or turns it round: how many reached it belongs to it.
    """

    names: tuple[str, ...]
    changes: tuple[tuple[float, ...], ...]
    steps: tuple[float, ...]
    reached: tuple[bool, ...]
    value: float


class AttributeClassifiers:
    """A logistic regression for each attribute, on pixels averaged down to 16x16 at most, with weight decay. An attribute of
    more than two values is cut in the middle of its range.

    Args:
        images: (N, C, H, W) in [-1, 1].
        attributes: (N, A).

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(self, images: Tensor, attributes: Tensor) -> None:
        if attributes.dim() != 2 or len(attributes) != len(images) or not len(images):
            raise ValueError(f"images come with attributes (N, A), not {tuple(images.shape)} with {tuple(attributes.shape)}")
        x, self._cut = self._pixels(images), (attributes.amin(0) + attributes.amax(0)).double().cpu() / 2
        self._mean, self._deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-3)
        x = (x - self._mean) / self._deviation
        self._weight = x.new_zeros(x.shape[1], attributes.shape[1], requires_grad=True)
        self._bias = x.new_zeros(attributes.shape[1], requires_grad=True)
        there = self.has(attributes)
        optimiser = torch.optim.LBFGS([self._weight, self._bias], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            found = F.binary_cross_entropy_with_logits(x @ self._weight + self._bias, there, reduction="none").mean(0).sum()
            found = found + _DECAY / 2 * self._weight.square().sum()
            found.backward()
            return found

        with torch.enable_grad():
            optimiser.step(loss)
        self._weight, self._bias = self._weight.detach(), self._bias.detach()

    def __call__(self, images: Tensor) -> Tensor:
        """Log-odds (N, A) that images have the attributes; float64 on the CPU."""
        return (self._pixels(images) - self._mean) / self._deviation @ self._weight + self._bias

    def has(self, attributes: Tensor) -> Tensor:
        """Whether images have them, (N, A), 0 or 1."""
        return (attributes.double().cpu() > self._cut).double()

    def accuracy(self, images: Tensor, attributes: Tensor) -> Tensor:
        """The share of images that each classifier is right about, (A,), between those with the attribute and those without
        evenly: 0.5 is chance. Where all images are of one kind it is that kind's share."""
        there = self.has(attributes)
        right = (self(images) > 0).eq(there).double()
        kinds = torch.stack([there, 1 - there])
        counts = kinds.sum(1)
        return ((right * kinds).sum(1) / counts.clamp(min=1)).sum(0) / (counts > 0).sum(0)

    @staticmethod
    def seen(images: Tensor) -> Tensor:
        """What they look at of images, and may be given in their place: (N, C, 16, 16) at most, on the CPU."""
        images = images.detach()
        return (F.adaptive_avg_pool2d(images, _SIDE) if max(images.shape[2:]) > _SIDE else images).cpu()

    def _pixels(self, images: Tensor) -> Tensor:
        return self.seen(images).double().flatten(1)


@torch.no_grad()
def entanglement(
    decode: Callable[[Tensor], Tensor],
    codes: Tensor,
    directions: Tensor,
    judge: Callable[[Tensor], Tensor],
    names: Sequence[str],
    target: float = 0.25,
) -> Entanglement:
    """Move codes along each direction until its own attribute's classifier has changed by `target` in the mean, and look what
    the others say. All directions go equally far in what they are for, so their lengths do not matter. One along which that
    much is not reached within 2 directions goes as far as its own attribute changes most, and does not count in the value.

    Args:
        decode: codes (N, dim) -> images.
        codes: (N, dim), where the walks begin.
        directions: (A, dim), one for each of the judge's attributes, A at least 2.
        judge: images -> scores (N, A), log-odds say.
        names: of the A attributes.
        target: in standard deviations of the own attribute's scores over decode(codes).

    Raises:
        ValueError: fewer than two directions, or not one a name, or a target that is not above 0.
    """
    if len(directions) != len(names) or len(names) < 2 or not target > 0:
        raise ValueError(
            f"{len(directions)} directions for {len(names)} names, target {target}: at least 2, one a name, above 0"
        )
    begin = judge(decode(codes)).double()
    spread = begin.std(0, correction=0).clamp(min=1e-12)

    def change(direction: Tensor, step: float) -> Tensor:
        return (judge(decode(codes + step * direction)).double() - begin).mean(0) / spread

    rows, steps = [], []
    for own, direction in enumerate(directions):
        step, moved = _reaching(lambda step, direction=direction: change(direction, step), own, target)
        rows.append(moved)
        steps.append(step)
    changes = torch.stack(rows)
    own = changes.diagonal()
    reached = own >= target
    others = ~torch.eye(len(names), dtype=torch.bool, device=changes.device)
    value = changes[others & reached[:, None]].abs().mean() / own[reached].mean()
    return Entanglement(tuple(names), tuple(map(tuple, changes.tolist())), tuple(steps), tuple(reached.tolist()), float(value))


def _reaching(change: Callable[[float], Tensor], own: int, target: float) -> tuple[float, Tensor]:
    """The first step after which the own score has changed by `target`, halved in on, and all changes there; where none does,
    the one of the largest own change."""
    stops = [_FARTHEST * number / _STOPS for number in range(1, _STOPS + 1)]
    changes = [change(stop) for stop in stops]
    reached = next((number for number, moved in enumerate(changes) if moved[own] >= target), None)
    if reached is None:
        number = max(range(_STOPS), key=lambda number: float(changes[number][own]))
        return stops[number], changes[number]
    far, there = stops[reached], changes[reached]
    near = stops[reached - 1] if reached else 0.0
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        moved = change(middle)
        if moved[own] < target:
            near = middle
        else:
            far, there = middle, moved
    return far, there
