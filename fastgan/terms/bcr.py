"""Consistency regularisation: D shall give an image and its transformed self one score, real and (balanced) generated ones.

    bCR = real * m |D(x) - D(T(x))|^2 + fake * m |D(G(z)) - D(T(G(z)))|^2

CR (Zhang, Zhang, Odena, Lee, "Consistency regularization for generative adversarial networks", ICLR 2020, equation 4) is the
first half alone; balanced: Zhao, Singh, Lee, Zhang, Odena, Zhang, "Improved consistency regularization for GANs" (AAAI 2021),
section 2.2.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.augment import CONSISTENCY, DIFFAUGMENT, Policy, augment
from fastgan.kernels.consistency import consistency
from fastgan.terms.term import Scene, Term

POLICIES: dict[str, Policy] = {
    "flip-shift": CONSISTENCY,
    "shift": Policy(shift=1 / 8, border="reflect"),
    "cutout": Policy(flip=0.5, shift=1 / 8, border="reflect", cutout=1 / 4),
    "diffaugment": DIFFAUGMENT,
}
"""T: as the papers have it; without the mirror image, for what is not symmetric (digits, letters); with a rectangle cut out;
differentiable augmentation's colours, shift and cutout."""


@dataclass(frozen=True, config=CHECKED)
class BalancedConsistency(Term):
    """T is a mirror image half of the time and a shift of up to an eighth of the side, and what `policy` adds. With `fake` 0 it
    is CR. D's score is compared as it leaves the network, score by score where D gives a map."""

    real: NonNegativeFloat = 10.0
    """Weight of the real images' half."""
    fake: NonNegativeFloat = 10.0
    """Weight of the generated images' half; they have no graph."""
    policy: Literal["flip-shift", "shift", "cutout", "diffaugment"] = "flip-shift"
    """T."""

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
            seen["bcr_real"] = self._transformed(scene, "bcr-real", seen["real"])
        if self.fake:
            seen["fake"] = View(scene.fake.images, scene.fake.labels)
            seen["bcr_fake"] = self._transformed(scene, "bcr-fake", seen["fake"])
        return seen

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """Both halves, weighted."""
        halves = [(weight, name) for weight, name in ((self.real, "real"), (self.fake, "fake")) if weight]
        losses = [consistency(judged[name].score, judged[f"bcr_{name}"].score, weight) for weight, name in halves]
        return sum(losses, start=scene.real.new_zeros(()))

    def _transformed(self, scene: Scene, name: str, view: View) -> View:
        policy = POLICIES[self.policy]
        transforms = scene.draw.transforms(name, policy, tuple(view.images.shape[2:]))
        return View(augment(view.images, transforms, policy.border), view.labels)
