"""An entropy term: G's images shall fill space, and not lie on top of each other.

    L_G  - weight * m_i log( min_{j != i} r(x~_i, x~_j) + e ),    r: root of the mean squared difference, e = 1e-8

what depends on the images in Kozachenko and Leonenko's nearest-neighbour estimate of the entropy H(G(z)), per dimension (1987;
Kraskov, Stögbauer, Grassberger, "Estimating mutual information", Physical Review E 69, 2004, equation 20).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement
from fastgan.terms.term import Scene, Term

_CLOSEST = 1e-8


@dataclass(frozen=True, config=CHECKED)
class Entropy(Term):
    """Of the whole batch, over all ranks. Images that are equal get no gradient from each other."""

    weight: NonNegativeFloat = 0.1

    @property
    def player(self) -> Literal["generator"]:
        """The generator's."""
        return "generator"

    @property
    def couples(self) -> bool:
        """Each image looks for its nearest in the batch."""
        return True

    @property
    def spans_ranks(self) -> bool:
        """Images are gathered."""
        return True

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term; 0 for fewer than two images."""
        images = scene.gather(scene.fake.images).flatten(1)
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        if len(images) < 2:
            return images.sum() * 0
        with torch.no_grad():  # which is nearest; a product of rows is accurate enough for that
            apart = torch.cdist(images, images)
            nearest = apart.fill_diagonal_(torch.inf).argmin(1)
        squared = (images - images[nearest]).square().mean(1)
        touching = squared <= _CLOSEST**2
        distance = torch.where(touching, 1.0, squared).sqrt()
        return -self.weight * torch.where(touching, torch.zeros_like(distance), distance).add(_CLOSEST).log().mean()
