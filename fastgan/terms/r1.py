"""R1: the zero-centred gradient penalty on real images.

    R1 = gamma / 2 * m |grad_x D(x)|^2

Mescheder, Geiger, Nowozin, "Which training methods for GANs do actually converge?" (ICML 2018), equation 9.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.annealing import annealed
from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.gradient_penalty import gradient_penalty
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class R1(Term):
    """Keeps D's slope small where the data lies. The norm is over all values of one image, accumulated in fp32
    or better."""

    gamma: NonNegativeFloat = 1.0
    gamma_end: NonNegativeFloat | None = None
    """Where gamma has gone by the end of training.burn_in; it stays where none is named."""

    @property
    def looks_at(self) -> Literal["real"]:
        """Real images alone."""
        return "real"

    @property
    def second_order(self) -> bool:
        """Always."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """The real images, alone: their gradient is differentiated again. It takes the place of the "real" view, so the
        objective's scores come from the same pass: a second one made rounds of digits-r1 and grid25 13 % longer."""
        return {"real": View(scene.real.detach().requires_grad_(), scene.real_labels, alone=True)}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """gamma / 2 times the batch mean of the squared gradient norm."""
        view = judged["real"]
        (gradient,) = torch.autograd.grad(view.score.sum(), view.images, create_graph=True)
        gamma = annealed(self.gamma, self.gamma_end, scene.burnt_in)
        return gamma / 2 * gradient_penalty(gradient, "zero-centred")
