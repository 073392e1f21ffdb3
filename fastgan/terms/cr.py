"""Consistency regularisation (CR): D shall give a real image and its transformed self one score.

    CR = weight * m |D(x) - D(T(x))|^2

Zhang, Zhang, Odena, Lee, "Consistency regularization for generative adversarial networks" (ICLR 2020), equation 4.
Balanced, with generated images too, it is bCR (`fastgan.terms.bcr`), which keeps what T adds out of the generated images.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.augment import augment
from fastgan.kernels.consistency import consistency
from fastgan.policies import POLICIES, PolicyName
from fastgan.terms.term import Scene, Term


def transformed(view: View, scene: Scene, name: str, policy: PolicyName) -> View:
    """T(view), with transforms drawn under this name."""
    chosen = POLICIES[policy]
    transforms = scene.draw.transforms(name, chosen, tuple(view.images.shape[2:]))
    return View(augment(view.images, transforms, chosen.border, chosen.fill), view.labels)


@dataclass(frozen=True, config=CHECKED)
class Consistency(Term):
    """D's score is compared as it leaves the network, score by score where D gives a map."""

    weight: NonNegativeFloat = 10.0
    policy: PolicyName = "flip-shift"
    """T, one of `fastgan.policies`."""

    @property
    def looks_at(self) -> Literal["real"]:
        """Real images alone."""
        return "real"

    @property
    def transforms_images(self) -> bool:
        """Points in the plane have no sides to flip."""
        return True

    def views(self, scene: Scene) -> dict[str, View]:
        """x and T(x)."""
        real = View(scene.real, scene.real_labels)
        return {"real": real, "cr": transformed(real, scene, "cr", self.policy)}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term."""
        return consistency(judged["real"].score, judged["cr"].score, self.weight)
