"""Balanced consistency regularisation (bCR): D shall give an image and its transformed self one score, real and generated ones.

    bCR = real * m |D(x) - D(T(x))|^2 + fake * m |D(G(z)) - D(T(G(z)))|^2

The first half alone is CR (`fastgan.terms.cr`). Zhao, Singh, Lee, Zhang, Odena, Zhang, "Improved consistency regularization
for GANs" (AAAI 2021), section 2.2.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.consistency import consistency
from fastgan.policies import PolicyName
from fastgan.terms.cr import transformed
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class BalancedConsistency(Term):
    """D's score is compared as it leaves the network, score by score where D gives a map. Either half may be 0."""

    real: NonNegativeFloat = 10.0
    """Weight of the real images' half."""
    fake: NonNegativeFloat = 10.0
    """Weight of the generated images' half; they have no graph."""
    policy: PolicyName = "flip-shift"
    """T, one of `fastgan.policies`."""

    def __post_init__(self) -> None:
        if not self.real and not self.fake:
            raise ValueError("real and fake can't both be 0: set terms.bcr=null to take the term away")

    @property
    def looks_at(self) -> Literal["real", "generated"]:
        """CR is of real images alone."""
        return "generated" if self.fake else "real"

    @property
    def transforms_images(self) -> bool:
        """Points in the plane have no sides to flip."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """T(x) and T(G(z)), each where it has a weight."""
        seen = {}
        if self.real:
            seen["real"] = View(scene.real, scene.real_labels)
            seen["bcr_real"] = transformed(seen["real"], scene, "bcr-real", self.policy)
        if self.fake:
            seen["fake"] = View(scene.fake.images, scene.fake.labels)
            seen["bcr_fake"] = transformed(seen["fake"], scene, "bcr-fake", self.policy)
        return seen

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """Both halves, weighted."""
        halves = [(weight, name) for weight, name in ((self.real, "real"), (self.fake, "fake")) if weight]
        losses = [consistency(judged[name].score, judged[f"bcr_{name}"].score, weight) for weight, name in halves]
        return sum(losses, start=scene.real.new_zeros(()))
