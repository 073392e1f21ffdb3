"""f-GAN: the variational bounds of f-divergences.

    L_D = -m g(a) + m f*(g(b)),    L_G = -m f*(g(b))    (with `alternative`: -m g(b))

g maps raw scores into the domain of f*, the convex conjugate of f: f*(t) = sup_u ( u t - f(u) ), u the ratio of the real to the
generated density. Nowozin, Cseke, Tomioka, "f-GAN: training generative neural samplers using variational divergence
minimization" (NeurIPS 2016), tables 1 and 2, section 3.2.

f*(g(v)) is computed in one piece, without the cancellations of its parts. Where it or g grows like exp(v), it goes on along its
tangent beyond exp(30) = 1e13: a stray score costs a finite loss.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import softplus

from fastgan.checked import CHECKED
from fastgan.objectives.objective import Objective, precise

LARGEST = 30.0
"""Argument beyond which exp is continued along its tangent."""


@dataclass(frozen=True, config=CHECKED)
class FGan(Objective):
    """One f-divergence."""

    divergence: ClassVar[str]
    """Its name."""

    alternative: bool = False
    """G descends -m g(b), whose gradient does not vanish while D is far ahead."""

    def activation(self, v: Tensor) -> Tensor:
        """g, of raw scores."""
        raise NotImplementedError

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        """f*(g(v))."""
        raise NotImplementedError

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = precise(real, fake)
        return self.conjugate_of_activation(fake).mean() - self.activation(real).mean()

    def per_score(self, fake: Tensor) -> Tensor:
        (fake,) = precise(fake)
        return -(self.activation(fake) if self.alternative else self.conjugate_of_activation(fake))


class KL(FGan):
    """Kullback-Leibler, f(u) = u log u.

    L_D = -m g(a) + m f*(g(b))
    L_G = -m f*(g(b))

    g(v) = v, f*(t) = exp(t - 1).
    """

    def activation(self, v: Tensor) -> Tensor:
        return v

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return _exp(v - 1)


class ReverseKL(FGan):
    """Reverse Kullback-Leibler, f(u) = -log u.

    L_D = -m g(a) + m f*(g(b))
    L_G = -m f*(g(b))

    g(v) = -exp(-v), f*(t) = -1 - log(-t).
    """

    def activation(self, v: Tensor) -> Tensor:
        return -_exp(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v - 1


class JensenShannon(FGan):
    """Jensen-Shannon, f(u) = u log u - (u + 1) log((u + 1) / 2).

    L_D = -m g(a) + m f*(g(b))
    L_G = -m f*(g(b))

    g(v) = log 2 - softplus(-v), f*(t) = -log(2 - exp t).
    """

    def activation(self, v: Tensor) -> Tensor:
        return math.log(2) - softplus(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return softplus(v) - math.log(2)


class Pearson(FGan):
    """Pearson chi-squared, f(u) = (u - 1)^2.

    L_D = -m g(a) + m f*(g(b))
    L_G = -m f*(g(b))

    g(v) = v, f*(t) = t^2 / 4 + t from t = -2 on, and -1 below it, where no u is wanted.
    """

    def activation(self, v: Tensor) -> Tensor:
        return v

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        v = v.clamp(min=-2)
        return v.square() / 4 + v


class SquaredHellinger(FGan):
    """Squared Hellinger, f(u) = (sqrt u - 1)^2.

    L_D = -m g(a) + m f*(g(b))
    L_G = -m f*(g(b))

    g(v) = 1 - exp(-v), f*(t) = t / (1 - t).
    """

    def activation(self, v: Tensor) -> Tensor:
        return 1 - _exp(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return _exp(v) - 1


class TotalVariation(FGan):
    """Total variation, f(u) = |u - 1| / 2.

    L_D = -m g(a) + m f*(g(b))
    L_G = -m f*(g(b))

    g(v) = tanh(v) / 2, f*(t) = t.
    """

    def activation(self, v: Tensor) -> Tensor:
        return v.tanh() / 2

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        return v.tanh() / 2


@dataclass(frozen=True, config=CHECKED)
class Alpha(FGan):
    """The alpha-divergence, f(u) = (u^alpha - 1 - alpha (u - 1)) / (alpha (alpha - 1)).

    L_D = -m g(a) + m f*(g(b))
    L_G = -m f*(g(b))

    g(v) = v for alpha > 1, 1 / (1 - alpha) - softplus(-v) for alpha < 1;
    f*(t) = max(0, t (alpha - 1) + 1)^(alpha / (alpha - 1)) / alpha - 1 / alpha.
    """

    alpha: float = Field(default=0.5, ge=-10, le=10)
    """Neither 0 nor 1, whose limits are the two Kullback-Leibler divergences; just below 1 losses are huge (3e10 at 0.9)."""

    def __post_init__(self) -> None:
        if self.alpha in (0, 1):
            raise ValueError(f"alpha {self.alpha:g} is a limit: f-gan-{'kl' if self.alpha else 'reverse-kl'} has it")

    def activation(self, v: Tensor) -> Tensor:
        return v if self.alpha > 1 else 1 / (1 - self.alpha) - softplus(-v)

    def conjugate_of_activation(self, v: Tensor) -> Tensor:
        power = self.alpha / (self.alpha - 1)
        if self.alpha > 1:
            base = (self.alpha - 1) * v + 1
            inside = base > 0
            raised = torch.where(inside, _exp(power * torch.where(inside, base, 1.0).log()), 0.0)
        else:  # the base is (1 - alpha) softplus(-v), whose logarithm is taken without its underflow
            near = v < 15
            log = torch.where(near, softplus(-torch.where(near, v, 0.0)).log(), -v) + math.log(1 - self.alpha)
            raised = _exp(power * log)
        return (raised - 1) / self.alpha


def _exp(x: Tensor) -> Tensor:
    return torch.where(x < LARGEST, x.clamp(max=LARGEST).exp(), math.exp(LARGEST) * (1 + x - LARGEST))
