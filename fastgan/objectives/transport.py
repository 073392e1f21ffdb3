"""Objectives that look at how far images are from each other, beside their scores: transport without a Lipschitz constant."""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, PositiveFloat
from fastgan.judgement import Judgement
from fastgan.objectives.objective import Objective, paired, precise


@dataclass(frozen=True, config=CHECKED)
class QuadraticPotential(Objective):
    """GAN-QP: a difference of scores is charged by its square over the distance of the images.

        L_D = m( -(a_i - b_i) + (a_i - b_i)^2 / (2 lam d_i) )
        L_G = m(a) - m(b)

    d_i is the distance of x_i and x~_i, as they are before any augmentation. Of G's loss m(a) is left out: it has no gradient.
    Su, "GAN-QP: a novel GAN framework without gradient vanishing and Lipschitz constraint" (2018).
    """

    needs = ("images",)
    pairs = True

    lam: PositiveFloat = 10.0
    distance: Literal["l1", "rms"] = "l1"
    """Over all values of an image: the mean magnitude of the difference, or its root mean square."""

    def discriminator(self, real: Judgement, fake: Judgement) -> Tensor:
        real_scores, fake_scores = paired(real.score, fake.score)
        difference = real_scores - fake_scores
        images = torch.stack(precise(real.images, fake.images)).detach().diff(dim=0)[0].flatten(1)
        distance = images.abs().mean(1) if self.distance == "l1" else images.square().mean(1).sqrt()
        # Equal images, which have equal scores, would be 0 / 0.
        distance = distance.clamp(min=torch.finfo(torch.float32).eps).view(-1, *[1] * (difference.dim() - 1))
        return (difference.square() / (2 * self.lam * distance) - difference).mean()

    def generator(self, real: Judgement | None, fake: Judgement) -> Tensor:
        loss = -precise(fake.score)[0].mean()
        return loss if real is None else precise(real.score)[0].mean() + loss


@dataclass(frozen=True, config=CHECKED)
class CTransform(Objective):
    """The dual of optimal transport in the batch, whose second potential is the c-transform of D's scores.

        L_D = -m a - m P
        L_G = m P, the gradient through c alone,    P_j = min_i( c(x_i - x~_j) - a_i )

    D judges real images alone. A map of scores counts by its mean. Mallasto, Montufar, Gerolin, "How well do WGANs estimate the
    Wasserstein metric?" (2019).
    """

    needs = ("images",)
    real_in_generator, couples = True, True

    cost: Literal["l1", "l2", "square"] = "l2"
    """c, over all values of an image: the sum of magnitudes, the Euclidean length, or half its square."""

    def discriminator(self, real: Judgement, fake: Judgement) -> Tensor:
        potential = _of_images(real.score)
        return -potential.mean() - self._transform(real.images, fake.images.detach(), potential).mean()

    def generator(self, real: Judgement, fake: Judgement) -> Tensor:
        return self._transform(real.images, fake.images, _of_images(real.score).detach()).mean()

    def _transform(self, real: Tensor, fake: Tensor, potential: Tensor) -> Tensor:
        real, fake = (images.flatten(1) for images in precise(real.detach(), fake))
        with torch.no_grad():  # which i it is; the cost is differentiated for those alone
            nearest = (self._cost(real[:, None] - fake) if real.shape[1] < 16 else self._costs(real, fake)) - potential[:, None]
            nearest = nearest.argmin(0)
        return self._cost(real[nearest] - fake) - potential[nearest]

    def _cost(self, difference: Tensor) -> Tensor:
        if self.cost == "l1":
            return difference.abs().sum(-1)
        return difference.norm(dim=-1) if self.cost == "l2" else difference.square().sum(-1) / 2

    def _costs(self, real: Tensor, fake: Tensor) -> Tensor:
        """All (N, M), without the differences of all pairs in memory."""
        distance = torch.cdist(real, fake, p=1 if self.cost == "l1" else 2, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.square() / 2 if self.cost == "square" else distance


def _of_images(score: Tensor) -> Tensor:
    """One score an image."""
    (score,) = precise(score)
    return score.flatten(1).mean(1) if score.dim() > 1 else score
