"""WGAN-GP: the gradient penalty between real and generated images.

    x^ = e x + (1 - e) x~,  e ~ U[0, 1) for each sample
    GP = weight * m (|grad D(x^)| - target)^2

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs" (NeurIPS 2017), equation 3 and
algorithm 1.
"""

from collections.abc import Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class WganGP(Term):
    """Pulls D's slope towards the target along lines from generated to real images. The norm is over all values of one image,
    accumulated in fp32 or better; where the slope is 0 the penalty's own derivative counts as 0."""

    weight: NonNegativeFloat = 10.0
    target: NonNegativeFloat = 1.0
    """The slope asked for; 0 gives the zero-centred penalty on the same points."""

    @property
    def second_order(self) -> bool:
        """Always."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """The points x^, alone: their gradient is differentiated again. Where classes differ, x^ has its real image's."""
        share = scene.draw.uniform("wgan-gp", *[1] * (scene.real.dim() - 1)).to(scene.real.dtype)
        between = torch.lerp(scene.fake.images.detach(), scene.real.detach(), share)
        return {"wgan_gp": View(between.requires_grad_(), scene.real_labels, alone=True)}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """weight times the batch mean of the squared distance of the gradient norm from the target."""
        view = judged["wgan_gp"]
        (gradient,) = torch.autograd.grad(view.score.sum(), view.images, create_graph=True)
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        # vector_norm's derivative at 0 is 0, where that of a root of a sum of squares is NaN.
        norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return self.weight * (norm - self.target).square().mean()
