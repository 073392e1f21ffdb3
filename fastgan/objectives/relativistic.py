"""Objectives that compare the scores of real and generated images with each other."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import softplus

from fastgan.checked import CHECKED
from fastgan.objectives.objective import Objective, paired, precise


@dataclass(frozen=True, config=CHECKED)
class Relativistic(Objective):
    """Each generated image against a real one. With R1 and R2 (terms.r1, terms.r2) it is R3GAN's game.

        L_D = m softplus(-(a_i - b_i))
        L_G = m softplus(-(b_i - a_i))

    Jolicoeur-Martineau, "The relativistic discriminator" (ICLR 2019); with R1 and R2: Huang, Gokaslan, Kuleshov, Tompkin,
    "The GAN is dead; long live the GAN!" (NeurIPS 2024), section 2.
    """

    real_in_generator, pairs = True, True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = paired(real, fake)
        return softplus(fake - real).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.discriminator(fake, real)


@dataclass(frozen=True, config=CHECKED)
class RelativisticAverage(Objective):
    """Each image against the mean of the other side.

        L_D = m softplus(-(a - m b)) + m softplus(b - m a)
        L_G = m softplus(-(b - m a)) + m softplus(a - m b)

    Jolicoeur-Martineau, "The relativistic discriminator" (ICLR 2019): RaSGAN.
    """

    real_in_generator, couples = True, True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = precise(real, fake)
        return softplus(fake.mean() - real).mean() + softplus(fake - real.mean()).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.discriminator(fake, real)


@dataclass(frozen=True, config=CHECKED)
class Softmax(Objective):
    """D spreads the batch's probability over its real images, G over all of them.

        L_D = -m a + lZ
        L_G = -(sum a + sum b) / (N + M) + lZ,    lZ = logsumexp of all a and b

    Lin, "Softmax GAN" (2017).
    """

    real_in_generator, couples = True, True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        both = _all(real, fake)
        return both.logsumexp(0) - both[: real.numel()].mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        both = _all(real, fake)
        return both.logsumexp(0) - both.mean()


def _all(real: Tensor, fake: Tensor) -> Tensor:
    return torch.cat([side.flatten() for side in precise(real, fake)])
