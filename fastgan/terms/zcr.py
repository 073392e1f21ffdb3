"""Latent consistency regularisation: D shall give the images of two latents close by one score, G shall draw them apart.

    D's loss  + weight * m |D(G(z)) - D(G(z + dz))|^2,     G's loss  - weight * m |G(z) - G(z + dz)|^2,     dz ~ N(0, noise^2)

Zhao, Singh, Lee, Zhang, Odena, Zhang, "Improved consistency regularization for GANs" (AAAI 2021), section 2.3; with bCR it is
ICR. Each half has its own noise and its own weight; the weights are those of StudioGAN's CIFAR-10 BigGAN. The paper
finds that with D's half alone G collapses (section 4.3); docs/icr.md has what was seen of it here.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.consistency import consistency
from fastgan.terms.term import Scene, Term


def _close_by(scene: Scene, noise: float) -> Tensor:
    """z + dz; z is refined where refinement is on."""
    z = scene.fake.z
    return z + noise * scene.draw.normal("zcr", *z.shape[1:]).to(z.dtype)


@dataclass(frozen=True, config=CHECKED)
class LatentConsistency(Term):
    """D's half: one score for the images of z and z + dz, which have no graph."""

    weight: NonNegativeFloat = 20.0
    noise: NonNegativeFloat = 0.05
    """Standard deviation of each coordinate of dz."""

    @property
    def compares_latents(self) -> bool:
        """Always."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """G(z) and G(z + dz), of the same labels."""
        fake = scene.fake
        images = scene.generate(_close_by(scene, self.noise), fake.labels)
        return {"fake": View(fake.images, fake.labels), "zcr": View(images, fake.labels)}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term."""
        return consistency(judged["fake"].score, judged["zcr"].score, self.weight)


@dataclass(frozen=True, config=CHECKED)
class LatentDiversity(Term):
    """G's half: images of z and z + dz pushed apart, at the cost of a second pass of G in its phase. Its loss has no bound from
    below, only that images lie in [-1, 1]: at least -4 weight."""

    weight: NonNegativeFloat = 0.5
    noise: NonNegativeFloat = 0.05
    """Standard deviation of each coordinate of dz."""

    @property
    def compares_latents(self) -> bool:
        """Always."""
        return True

    @property
    def player(self) -> Literal["generator"]:
        """The generator's."""
        return "generator"

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term, at most 0."""
        fake = scene.fake
        return consistency(fake.images, scene.generate(_close_by(scene, self.noise), fake.labels), -self.weight)
