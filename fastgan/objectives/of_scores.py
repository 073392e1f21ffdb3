"""Objectives whose losses are means of a function of each score.

`kernels/scores.py` holds the functions of most, and on CUDA has the loss, its gradient and what is logged in one launch.
"""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED
from fastgan.kernels import scores
from fastgan.objectives.objective import Objective, Scored, precise


@dataclass(frozen=True, config=CHECKED)
class OfEachScore(Objective):
    """An objective that the kernel library has."""

    name: ClassVar[str]
    """Its key there."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return scores.discriminator_loss(real, fake, objective=self.name)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return scores.generator_loss(fake, objective=self.name)

    def per_score(self, fake: Tensor) -> Tensor:
        return scores.per_score(fake, objective=self.name)

    def scored(self, real: Tensor, fake: Tensor) -> Scored:
        return scores.discriminator_scores(real, fake, objective=self.name)


class Hinge(OfEachScore):
    """Hinge.

        L_D = m relu(1 - a) + m relu(1 + b)
        L_G = -m b

    Lim & Ye, "Geometric GAN" (2017), section 3.
    """

    name = "hinge"


class NonSaturating(OfEachScore):
    """The non-saturating logistic game.

        L_D = m softplus(-a) + m softplus(b)
        L_G = m softplus(-b)

    Goodfellow et al., "Generative adversarial nets" (NeurIPS 2014), section 3.
    """

    name = "non-saturating"


class Minimax(OfEachScore):
    """The logistic game as a zero-sum one; G's loss saturates.

        L_D = m softplus(-a) + m softplus(b)
        L_G = -m softplus(b)

    Goodfellow et al., "Generative adversarial nets" (NeurIPS 2014), equation 1.
    """

    name = "minimax"


class Wasserstein(OfEachScore):
    """The dual of the Wasserstein distance; D has to be kept Lipschitz (discriminator.clip_weights, terms.wgan_gp).

        L_D = -m a + m b
        L_G = -m b

    Arjovsky, Chintala, Bottou, "Wasserstein generative adversarial networks" (ICML 2017), equation 2.
    """

    name = "wasserstein"


@dataclass(frozen=True, config=CHECKED)
class LeastSquares(Objective):
    """Least squares.

        L_D = m (a - c1)^2 / 2 + m (b - c0)^2 / 2
        L_G = m (b - cg)^2 / 2

    Mao et al., "Least squares generative adversarial networks" (ICCV 2017), equation 9.
    """

    c0: float = 0.0
    """D's target of generated scores."""
    c1: float = 1.0
    """D's target of real scores."""
    cg: float = 1.0
    """G's target. Refinement moves scores towards it from above, too."""

    @property
    def _fused(self) -> bool:
        """Whether the targets are those that the kernels know."""
        return (self.c0, self.c1, self.cg) == (0.0, 1.0, 1.0)

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        if self._fused:
            return scores.discriminator_loss(real, fake, objective="least-squares")
        real, fake = precise(real, fake)
        return (real - self.c1).square().mean() / 2 + (fake - self.c0).square().mean() / 2

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return scores.generator_loss(fake, objective="least-squares") if self._fused else super().generator(real, fake)

    def per_score(self, fake: Tensor) -> Tensor:
        if self._fused:
            return scores.per_score(fake, objective="least-squares")
        return (precise(fake)[0] - self.cg).square() / 2

    def scored(self, real: Tensor, fake: Tensor) -> Scored:
        if self._fused:
            return scores.discriminator_scores(real, fake, objective="least-squares")
        return super().scored(real, fake)


@dataclass(frozen=True, config=CHECKED)
class BoundarySeeking(Objective):
    """Boundary seeking: G draws what D can't tell, whose sigmoid is 1/2.

        L_D = m softplus(-a) + m softplus(b)
        L_G = m b^2 / 2

    b = log D~ - log(1 - D~) for D~ = sigmoid(b). Hjelm et al., "Boundary-seeking generative adversarial networks" (ICLR 2018).
    Refinement moves scores towards 0, from above too.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return scores.discriminator_loss(real, fake, objective="non-saturating")

    def per_score(self, fake: Tensor) -> Tensor:
        return precise(fake)[0].square() / 2

    def scored(self, real: Tensor, fake: Tensor) -> Scored:
        return scores.discriminator_scores(real, fake, objective="non-saturating")
