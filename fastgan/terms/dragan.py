"""DRAGAN: the gradient penalty in a cloud around real images.

    GP = weight * m (|grad D(x + d)| - target)^2

    normal      d ~ N(0, scale^2) for each number, as the paper writes it
    uniform     d = a scale std(x) u,  a ~ U[0, 1) for each image, u ~ U[0, 1) for each number, std over the batch: its code

Kodali, Abernethy, Hays, Kira, "On convergence and stability of GANs" (2017), equation 2 and algorithm 1.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.gradient_penalty import gradient_penalty
from fastgan.kernels.interpolate import deviation
from fastgan.kernels.reduction import accumulator
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class Dragan(Term):
    """Pulls D's slope towards the target near real images."""

    weight: NonNegativeFloat = 10.0
    target: NonNegativeFloat = 1.0
    """k, the slope asked for."""
    form: Literal["uniform", "normal"] = "uniform"
    """How the cloud is drawn."""
    scale: NonNegativeFloat = 0.5
    """Its size: a share of the images' standard deviation, or the noise's own."""

    @property
    def looks_at(self) -> Literal["real"]:
        """Real images alone."""
        return "real"

    @property
    def couples(self) -> bool:
        """The uniform form's standard deviation is the whole batch's."""
        return self.form == "uniform"

    @property
    def spans_ranks(self) -> bool:
        """It is taken over all ranks."""
        return True

    @property
    def second_order(self) -> bool:
        """The penalty differentiates the slope."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """The points around real images, alone: their gradient is differentiated again."""
        std = _deviation(scene) if self.form == "uniform" else None
        around = scene.draw.perturb("dragan", scene.real.detach(), self.form, self.scale, std)
        return {"dragan": View(around.requires_grad_(), scene.real_labels, alone=True)}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """weight times the batch mean of the squared distance of the gradient norm from the target."""
        view = judged["dragan"]
        (gradient,) = torch.autograd.grad(view.score.sum(), view.images, create_graph=True)
        return self.weight * gradient_penalty(gradient, target=self.target)


def _deviation(scene: Scene) -> Tensor:
    """The standard deviation of the real images of all ranks, a scalar."""
    own, over_ranks = deviation(scene.real), scene.over_ranks
    if over_ranks is None:
        return own
    mean = scene.real.detach().mean(dtype=accumulator(scene.real.dtype))
    return over_ranks(own.square() + (mean - over_ranks(mean)).square()).sqrt()
