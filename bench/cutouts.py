"""Finding cutouts in images, by a rule that needs no training: for `python -m bench.icr artefacts`.

A cutout writes 0, mid-grey, into a square. An image's greyness is the least mean of |x| over all its windows of 3/4 of that
square's side; it is flagged below a threshold under which one real image in a hundred lies, or nineteen of twenty real images
with a cutout, whichever is less. On a background of black (-1) nothing else is as even and as grey.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastgan.kernels.augment import Policy, augment, draw_transforms
from fastgan.policies import POLICIES

CUTOUT = POLICIES["cutout"].cutout
LARGEST = 3 / 4
"""Share of the side of the largest squares that are looked for: what an image holds of a larger one has such a one in it."""
_SHARE = 0.01  # of real images that may be flagged
_FOUND = 0.95  # of real images with a cutout: a large one leaves a margin, which blurred images would fall into


@dataclass(frozen=True)
class Detector:
    """Flags images that hold a square of mid-grey."""

    window: int
    """Side of the windows in pixels."""
    threshold: float
    """Greyness below which an image is flagged."""

    @classmethod
    def of(cls, real: Tensor, cutout: float = CUTOUT) -> "Detector":
        """The one for these real images, (N, C, H, H) in [-1, 1], and squares of this share of the side."""
        window = max(1, round(3 / 4 * cutout * real.shape[-1]))
        clean, cut = (greyness(images, window) for images in (real, with_cutouts(real, cutout)))
        return cls(window, min(clean.quantile(_SHARE), cut.quantile(_FOUND)).item())

    def flags(self, images: Tensor) -> Tensor:
        """bool (N,): which of (N, C, H, W) in [-1, 1] hold a cutout."""
        return greyness(images, self.window) < self.threshold

    def share(self, images: Tensor) -> float:
        """Of images that are flagged."""
        return self.flags(images).double().mean().item()


def greyness(images: Tensor, window: int) -> Tensor:
    """(N,): the least mean of |x| over an image's windows."""
    return avg_pool2d(images.abs().mean(1, keepdim=True), window, stride=1).flatten(1).amin(1)


def with_cutouts(images: Tensor, cutout: float = CUTOUT, seed: int = 0) -> Tensor:
    """Each image with a square of this share of the side cut out as policies do it, and nothing else done to it."""
    rows = torch.arange(len(images))
    drawn = draw_transforms(Policy(cutout=cutout), rows, tuple(images.shape[2:]), seed=seed, purpose="cutouts")
    return augment(images, drawn)
