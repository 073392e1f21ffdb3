"""A designed dual: losses chosen by what D shall be at its best."""

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED
from fastgan.objectives.objective import Objective, precise


@dataclass(frozen=True, config=CHECKED)
class DesignedDual(Objective):
    """A pair of functions under which the best D is w of the ratio of densities, for an increasing w.

        L_D = -m phi(a) - m psi(b)
        L_G = m psi(b)

    phi' > 0 and psi'(t) = -w^-1(t) phi'(t) for all t. Here w^-1(t) = 1 + t from 0 on and 1 / (1 - t) below (w(r) = r - 1 and
    1 - 1/r), and phi'(t) = w^-1(t)^-alpha: no exponential, and for every alpha G's gradient falls no faster than a power of
    1 - b. At alpha = 1 L_G is -m b. Basioti & Moustakides, "Designing GANs: a likelihood ratio approach" (2020); w and phi
    are ours.
    """

    alpha: float = Field(default=0.5, gt=0, le=1)

    def phi(self, t: Tensor) -> Tensor:
        """phi(t), with phi(0) = 0."""
        above, below = 1 + t.relu(), 1 + (-t).relu()
        return _integral(above, -self.alpha) - _integral(below, self.alpha)

    def psi(self, t: Tensor) -> Tensor:
        """psi(t), with psi(0) = 0."""
        above, below = 1 + t.relu(), 1 + (-t).relu()
        return _integral(below, self.alpha - 1) - _integral(above, 1 - self.alpha)

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = precise(real, fake)
        return -self.phi(real).mean() - self.psi(fake).mean()

    def per_score(self, fake: Tensor) -> Tensor:
        return self.psi(*precise(fake))


def _integral(x: Tensor, power: float) -> Tensor:
    """Of s^power from 1 to x."""
    return x.log() if power == -1 else (x ** (power + 1) - 1) / (power + 1)
