"""Objectives of D's features: G matches their moments, or all their distribution. D's last layer, its score, is not trained."""

from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, PositiveFloat
from fastgan.judgement import Judgement
from fastgan.objectives.objective import Objective, precise

_EQUAL = 1e-12
"""Squared distance of features that count as equal: without a gradient."""


class _OfFeatures(Objective):
    """A distance of features that D makes large and G small."""

    needs = ("features",)
    real_in_generator, couples, refines = True, True, False

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """A scalar, of features (N, F) and (M, F)."""
        raise NotImplementedError

    def generator(self, real: Judgement, fake: Judgement) -> Tensor:
        sides = (side.flatten(1) for side in precise(real.features, fake.features))
        with torch.autocast(fake.features.device.type, enabled=False):
            return self.distance(*sides)

    def discriminator(self, real: Judgement, fake: Judgement) -> Tensor:
        return -self.generator(real, fake)


@dataclass(frozen=True, config=CHECKED)
class McGan(_OfFeatures):
    """McGAN: means and second moments of the features; D's weights have to be bounded (discriminator.clip_weights).

        L_D = -V
        L_G = V,    V = |m f - m g|_p + |m ff' - m gg'|_nuclear

    F x F matrices: meant for hundreds of features. Mroueh, Sercu, Goel, "McGan: mean and covariance feature matching GAN" (ICML
    2017), sections 3 and 4, in the primal form, without the means taken off.
    """

    p: float = Field(default=2.0, ge=1)
    """Of the norm of the difference of the means."""

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        mean = torch.linalg.vector_norm(real.mean(0) - fake.mean(0), ord=self.p)
        return mean + nuclear_norm(real.T @ real / len(real) - fake.T @ fake / len(fake))


@dataclass(frozen=True, config=CHECKED)
class MMD(_OfFeatures):
    """The maximum mean discrepancy, without bias; D has to be kept from stretching (discriminator.clip_weights).

        L_D = -M2
        L_G = M2,    M2 = m k(f_i, f_j) over i != j + m k(g_i, g_j) over i != j - 2 m k(f_i, g_j)

    k(u, v) = exp(-|u - v|), or a sum of Gaussians exp(-|u - v|^2 / (2 width^2)). Li, Chang, Cheng, Yang, Poczos, "MMD GAN"
    (NeurIPS 2017), section 3 and, for the widths, 5.1.
    """

    kernel: Literal["exponential", "gaussian"] = "exponential"
    widths: tuple[PositiveFloat, ...] = Field(default=(1.0, 2.0, 4.0, 8.0, 16.0), min_length=1)
    """Of the Gaussians."""

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        within = _without_diagonal(self.k(real, real)) + _without_diagonal(self.k(fake, fake))
        return (within - 2 * self.k(real, fake).mean()).to(real.dtype)

    def k(self, u: Tensor, v: Tensor) -> Tensor:
        """(N, M), float64: of squares that nearly cancel out enough digits are left."""
        u, v = u.double(), v.double()
        squared = (u.square().sum(1)[:, None] + v.square().sum(1) - 2 * u @ v.T).clamp(min=_EQUAL)
        if self.kernel == "exponential":
            return (-squared.sqrt()).exp()
        return sum((-squared / (2 * width**2)).exp() for width in self.widths)


def nuclear_norm(symmetric: Tensor) -> Tensor:
    """The sum of the magnitudes of a symmetric matrix's eigenvalues, (F, F) -> a scalar. Its gradient is U sign(s) U', finite
    whatever the eigenvalues; that of the decomposition divides by their differences, which vanish for matrices of low rank."""
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(symmetric)
        sign = (vectors * values.sign()) @ vectors.T
    return (sign * symmetric).sum()


def _without_diagonal(kernel: Tensor) -> Tensor:
    return (kernel.sum() - kernel.diagonal().sum()) / (len(kernel) * (len(kernel) - 1))
