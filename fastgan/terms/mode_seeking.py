"""Mode seeking: images of two latents shall lie as far apart as the latents do.

    MS = weight / ( m |G(z2, y) - G(z1, y)| / m |z2 - z1| + 1e-5 ),    the same labels y

z1 and z2 are the game's pair where it plays with pairs (`latent.pair`: random is MSGAN; hard is AdvLatGAN-div, Li et al.,
NeurIPS 2022); elsewhere z1 is the phase's latent and z2 another one from the prior, which D does not see.

Mao, Lee, Tseng, Ma, Yang, "Mode seeking generative adversarial networks for diverse image synthesis" (CVPR 2019), equation 2;
1e-5 and the means over batch and elements as in its published code.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement
from fastgan.kernels.mode_seeking import mode_seeking
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class ModeSeeking(Term):
    """Pushes G away from giving one image for every latent. In a game without pairs at the cost of a second pass of G in its
    phase; D judges the images of the first latents alone there, where the published code shows it both halves."""

    weight: NonNegativeFloat = 1.0
    """1 as published for class-conditional images."""

    @property
    def compares_latents(self) -> bool:
        """Always."""
        return True

    @property
    def player(self) -> Literal["generator"]:
        """The generator's: z1 and z2 are constants, the gradient goes through both images."""
        return "generator"

    @property
    def looks_at(self) -> Literal["pair"]:
        """Both halves: it is part of G's loss once."""
        return "pair"

    @property
    def couples(self) -> bool:
        """It is a ratio of means over the whole batch."""
        return True

    @property
    def spans_ranks(self) -> bool:
        """Both means are taken over all ranks."""
        return True

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term, at most 1e5 weight: where all images are alike."""
        first = scene.fake
        if scene.partner is not None:
            z, images = scene.partner.fake.z, scene.partner.fake.images
        else:
            z = scene.latents("mode-seeking")
            images = scene.generate(z, first.labels)
        loss, _ = mode_seeking(first.images, images, first.z, z, over_ranks=scene.over_ranks)
        return self.weight * loss
