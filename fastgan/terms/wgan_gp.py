"""WGAN-GP: the gradient penalty between real and generated images.

    x^ = e x + (1 - e) x~,  e ~ U[0, 1) for each sample
    GP = weight * m (|grad D(x^)| - target)^2

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, "Improved training of Wasserstein GANs" (NeurIPS 2017), equation 3 and
algorithm 1.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.gradient_penalty import gradient_norms, gradient_penalty
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class WganGP(Term):
    """Pulls D's slope towards the target along lines from generated to real images. The norm is over all values of one image,
    accumulated in fp32 or better; where the slope is 0 the penalty's own derivative counts as 0."""

    weight: NonNegativeFloat = 10.0
    target: NonNegativeFloat = 1.0
    """The slope asked for; 0 gives the zero-centred penalty on the same points."""
    kind: Literal["two-sided", "one-sided", "max", "power"] = "two-sided"
    """What is asked of the norms n of the gradients: (n - target)^2; the same where n is above the target (WGAN-LP); the
    square of the batch's largest (max-GP); n^power (WGAN-div, whose weight is 2)."""
    power: float = Field(default=6.0, ge=1)
    """Of the kind "power"."""

    @property
    def couples(self) -> bool:
        """The largest norm is the whole batch's."""
        return self.kind == "max"

    @property
    def spans_ranks(self) -> bool:
        """The norms are gathered."""
        return True

    @property
    def second_order(self) -> bool:
        """Always."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """The points x^, alone: their gradient is differentiated again. Where classes differ, x^ has its real image's."""
        between = scene.draw.interpolate("wgan-gp", scene.real.detach(), scene.fake.images.detach())
        return {"wgan_gp": View(between.requires_grad_(), scene.real_labels, alone=True)}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """weight times the penalty."""
        view = judged["wgan_gp"]
        (gradient,) = torch.autograd.grad(view.score.sum(), view.images, create_graph=True)
        if self.kind == "max" and scene.over_ranks is not None:
            return self.weight * scene.gather(gradient_norms(gradient)).max(0).values.square()
        return self.weight * gradient_penalty(gradient, self.kind, target=self.target, power=self.power)
