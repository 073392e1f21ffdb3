"""R2: the zero-centred gradient penalty on generated images.

    R2 = gamma / 2 * m |grad_x D(G(z))|^2

Mescheder, Geiger, Nowozin, "Which training methods for GANs do actually converge?" (ICML 2018), equation 10; with R1 and the
relativistic objective it is R3GAN's pair (Huang, Gokaslan, Kuleshov, Tompkin, NeurIPS 2024, section 2).
"""

from collections.abc import Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.annealing import annealed
from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.gradient_penalty import gradient_penalty
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class R2(Term):
    """Keeps D's slope small where generated images lie, which have no graph. The norm is over all values of one image,
    accumulated in fp32 or better."""

    gamma: NonNegativeFloat = 1.0
    gamma_end: NonNegativeFloat | None = None
    """Where gamma has gone by the end of training.burn_in; it stays where none is named."""

    @property
    def second_order(self) -> bool:
        """Always."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """The generated images, alone, in the place of the "fake" view: the objective's scores come from the same pass."""
        fake = scene.fake
        return {"fake": View(fake.images.detach().requires_grad_(), fake.labels, alone=True)}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """gamma / 2 times the batch mean of the squared gradient norm."""
        view = judged["fake"]
        (gradient,) = torch.autograd.grad(view.score.sum(), view.images, create_graph=True)
        gamma = annealed(self.gamma, self.gamma_end, scene.burnt_in)
        return gamma / 2 * gradient_penalty(gradient, "zero-centred")
