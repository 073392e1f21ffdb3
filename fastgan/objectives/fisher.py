"""Fisher GAN: the difference of the mean scores, in units of their second moment.

Om = (m(a^2) + m(b^2)) / 2. Mroueh & Sercu, "Fisher GAN" (NeurIPS 2017).
"""

from collections.abc import Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, PositiveFloat
from fastgan.objectives.objective import Objective, precise


@dataclass(frozen=True, config=CHECKED)
class FisherRatio(Objective):
    """Fisher's distance as a ratio.

        L_D = -(m a - m b) / sqrt(Om)
        L_G = (m a - m b) / sqrt(Om)

    Om = (m a^2 + m b^2) / 2. Mroueh & Sercu, "Fisher GAN" (NeurIPS 2017).
    """

    real_in_generator, couples = True, True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -self.generator(real, fake)

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = precise(real, fake)
        moment = _second_moment(real, fake).clamp(min=torch.finfo(torch.float32).tiny)  # scores that are all 0
        return (real.mean() - fake.mean()) * moment.rsqrt()


@dataclass(frozen=True, config=CHECKED)
class Fisher(Objective):
    """Fisher's distance by an augmented Lagrangian, whose multiplier is part of the game's state.

        L_D = -(m a - m b) - l c + rho c^2 / 2,    c = 1 - Om
        L_G = -m b

    Om = (m a^2 + m b^2) / 2. l begins at 0; l <- l - rho c after each round, c the mean over D's turns of it. Mroueh & Sercu,
    "Fisher GAN" (NeurIPS 2017), algorithm 1.
    """

    couples = True

    rho: PositiveFloat = 1e-6
    """1e-6 as published."""

    def discriminator(self, real: Tensor, fake: Tensor, multiplier: Tensor | float = 0.0) -> Tensor:
        real, fake = precise(real, fake)
        constraint = 1 - _second_moment(real, fake)
        return fake.mean() - real.mean() - multiplier * constraint + self.rho / 2 * constraint.square()

    def generator(self, real: Tensor | None, fake: Tensor, multiplier: Tensor | float = 0.0) -> Tensor:
        return -precise(fake)[0].mean()

    @torch.no_grad()
    def logged(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """c."""
        return {"constraint": 1 - _second_moment(*precise(real, fake))}

    @property
    def memory(self) -> dict[str, float]:
        """l."""
        return {"multiplier": 0.0}

    def remember(self, memory: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """l after a round."""
        return {"multiplier": memory["multiplier"] - self.rho * statistics["constraint"]}


def _second_moment(real: Tensor, fake: Tensor) -> Tensor:
    return (real.square().mean() + fake.square().mean()) / 2
