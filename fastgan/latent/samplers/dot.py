"""Discriminator optimal transport in the latent space: each latent goes to where D gains more than the way there costs.

    T(y) = argmin_z  |z - y + delta| - D(G(z)) / k,      k = max |D(G(z1)) - D(G(z2))| / |z1 - z2| over pairs of latents,

by gradient descent from z = y. A D that is trained well is close to the Kantorovich potential of optimal transport from p_G to
the data, divided by its Lipschitz constant. Tanaka, "Discriminator optimal transport" (NeurIPS 2019). A factor or a constant in
D's scores falls out, so no calibration is needed.

Latents of a uniform prior are clipped to its range. Those of a normal one in many dimensions lie near a sphere, so steps are
projected onto its tangent: g - (g.z) z / |z|^2. The published code divides by sqrt(dim) where |z|^2, about dim, makes it a
projection. In few dimensions the radius is no constant: `projection=none`.

Passes: `steps` of G and D and as many backwards a sample, and one of G; 2 `pairs` of G and D once.
"""

from math import sqrt
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat, Positive, PositiveFloat, UserError
from fastgan.draw import Draw
from fastgan.latent.samplers.sampler import Drawn, Pair, Sample, Sampler


@dataclass(frozen=True, config=CHECKED)
class DOT(Sampler):
    """With classes, k is taken over pairs of latents of one class, all classes together; the paper has one k a class."""

    steps: Positive = 20
    step_size: PositiveFloat = 0.01
    """Of gradient descent; 0.01 in the published example."""
    delta: NonNegativeFloat = 0.001
    """Added to every coordinate of z - y, whose length has no slope at 0; as published."""
    k: PositiveFloat | None = None
    """The Lipschitz constant of D(G(z)); estimated where None."""
    pairs: Positive = 100
    """Of latents, from which k is estimated; 100 as published."""
    projection: Literal["sphere", "published", "none"] = "sphere"
    """Of steps under a normal prior: onto the tangent, the published formula, or none."""

    def prepare(self, pair: Pair) -> Sample:
        """Estimate k.

        Raises:
            UserError: D scores all images alike.
        """
        k = self.k or self.constant(pair)

        def sample(draw: Draw, labels: Tensor | None) -> Drawn:
            y = z = pair.prior(draw)
            with pair.slopes() as slopes:
                for _ in range(self.steps):
                    _, rise = slopes(z, labels)
                    away = z - y + self.delta
                    length = away.norm(dim=1, keepdim=True)
                    gradient = torch.where(length > 0, away / length, 0) - rise / k
                    z = self._inside(pair, z - self.step_size * self._projected(pair, gradient, z))
            return Drawn(z, labels)

        return sample

    def constant(self, pair: Pair) -> float:
        """k, estimated.

        Raises:
            UserError: D scores all images alike.
        """
        greatest = 0.0
        for draw, labels in pair.draws("lipschitz", self.pairs):
            one, other = pair.prior(draw, "one"), pair.prior(draw, "other")
            gap = (pair.judge(one, labels)[1] - pair.judge(other, labels)[1]).abs()
            greatest = max(greatest, (gap / (one - other).norm(dim=1)).max().item())
        if not 0 < greatest < float("inf"):
            raise UserError(
                f"dot can't scale the discriminator's scores: between latents they differ by {greatest:g} of the distance"
            )
        return greatest

    def _projected(self, pair: Pair, gradient: Tensor, z: Tensor) -> Tensor:
        if pair.prior.kind in ("uniform", "mixtures") or self.projection == "none":
            return gradient
        along = (gradient * z).sum(1, keepdim=True) * z
        return gradient - along / (sqrt(z.shape[1]) if self.projection == "published" else z.square().sum(1, keepdim=True))

    def _inside(self, pair: Pair, z: Tensor) -> Tensor:
        if pair.prior.kind in ("normal", "mixtures"):
            return z
        bound = pair.prior.truncation if pair.prior.kind == "truncated-normal" else 1.0
        return z.clamp(-bound, bound)
