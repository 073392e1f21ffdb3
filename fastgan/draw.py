"""All chance in a training step: numbers drawn per sample of the global batch, so that nobody's share changes them."""

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from fastgan.kernels import philox
from fastgan.kernels.augment import Policy, Transforms, draw_transforms
from fastgan.kernels.interpolate import interpolate_drawn, perturb_drawn


@dataclass(frozen=True)
class Draw:
    """The source of random numbers for one micro-batch of one phase.

    Two ranks, or two micro-batches, that hold the halves of `rows` draw what one process would draw for all of them.
    """

    seed: int
    purpose: str
    """Who draws: the phase's name, "samples", ... Different purposes give independent numbers."""
    step: int
    """The round."""
    rows: Tensor
    """int64 (B,): indices of the samples in the global batch, on the device where the numbers are wanted."""
    turn: int = 0
    """Which of the phase's turns in this round."""
    part: int = 0
    """Which micro-batch of the turn; `rows` tell its samples apart, so no number depends on it."""

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Numbers in [0, 1), float32 (B, *shape)."""
        return philox.uniform(self.seed, self._stream(name), self.rows, prod(shape), self.step).view(-1, *shape)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers, float32 (B, *shape)."""
        return philox.normal(self.seed, self._stream(name), self.rows, prod(shape), self.step).view(-1, *shape)

    def integers(self, name: str, bound: int) -> Tensor:
        """Whole numbers in [0, bound), each as likely up to 2**-24, int64 (B,)."""
        # 1 - 2**-24, the largest number that may come, times any bound below 2**24 still rounds to less than the bound.
        return (self.uniform(name) * bound).long()

    def interpolate(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """e x + (1 - e) y for (B, ...) tensors, with e = `uniform(name)` for each sample, drawn where it is used."""
        return interpolate_drawn(x, y, self.seed, self._stream(name), self.rows, self.step)

    def perturb(self, name: str, x: Tensor, form: str, scale: float, std: Tensor | None = None) -> Tensor:
        """(B, ...) with noise on top, of one of `kernels.interpolate.FORMS`, drawn where it is used. The uniform form's `std`,
        a scalar, is x's own where none is given."""
        return perturb_drawn(x, self.seed, self._stream(name), self.rows, self.step, form=form, scale=scale, std=std)

    def transforms(self, name: str, policy: Policy, size: tuple[int, int], probability: float | Tensor = 1.0) -> Transforms:
        """What `kernels.augment.augment` shall do to each sample's image of this height and width, each with `probability`."""
        options = {"seed": self.seed, "purpose": self._stream(name), "step": self.step, "probability": probability}
        return draw_transforms(policy, self.rows, size, **options)

    def times(self, factor: int) -> "Draw":
        """The same source for `factor` samples in the place of each one."""
        if factor == 1:
            return self
        rows = self.rows[:, None] * factor + torch.arange(factor, device=self.rows.device)
        return replace(self, rows=rows.flatten())

    def _stream(self, name: str) -> str:
        return f"{self.purpose}/{self.turn}/{name}"
