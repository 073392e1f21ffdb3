"""Finding cutouts in images, by a rule that needs no training: for `python -m bench.icr artefacts`.

A cutout writes 0, mid-grey, into a square. An image's greyness is the least mean of |x| over all its windows of 3/4 of that
square's side; it is flagged below a threshold under which one real image in a hundred lies. On a background of black (-1)
nothing else is as even and as grey.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastgan.kernels.augment import Policy, augment, draw_transforms
from fastgan.policies import POLICIES

CUTOUT = POLICIES["cutout"].cutout
_SHARE = 0.01  # of real images that may be flagged


@dataclass(frozen=True)
class Detector:
    """Flags images that hold a square of mid-grey."""

    window: int
    """Side of the windows in pixels."""
    threshold: float
    """Greyness below which an image is flagged."""

    @classmethod
    def of(cls, real: Tensor) -> "Detector":
        """The one for these real images, (N, C, H, H) in [-1, 1]."""
        window = max(1, round(3 / 4 * CUTOUT * real.shape[-1]))
        return cls(window, greyness(real, window).quantile(_SHARE).item())

    def flags(self, images: Tensor) -> Tensor:
        """bool (N,): which of (N, C, H, W) in [-1, 1] hold a cutout."""
        return greyness(images, self.window) < self.threshold

    def share(self, images: Tensor) -> float:
        """Of images that are flagged."""
        return self.flags(images).double().mean().item()


def greyness(images: Tensor, window: int) -> Tensor:
    """(N,): the least mean of |x| over an image's windows."""
    return avg_pool2d(images.abs().mean(1, keepdim=True), window, stride=1).flatten(1).amin(1)


def with_cutouts(images: Tensor, seed: int = 0) -> Tensor:
    """Each image with a rectangle cut out as the policy "cutout" does it, and nothing else done to it."""
    rows = torch.arange(len(images))
    drawn = draw_transforms(Policy(cutout=CUTOUT), rows, tuple(images.shape[2:]), seed=seed, purpose="cutouts")
    return augment(images, drawn)
