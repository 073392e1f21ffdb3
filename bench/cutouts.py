"""Finding cutouts in images, by a rule that needs no training: for `python -m bench.icr artefacts`.

A cutout writes one value, its fill, into a square. An image's distance is the least mean of |x - fill| over all its windows of
3/4 of that square's side; it is flagged below a threshold under which one real image in a hundred lies, or nineteen of twenty
real images with a cutout, whichever is less. On a background of black (-1) nothing else is as even and as grey (0), and among
strokes little is as broad and as white (1).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastgan.kernels.augment import Policy, augment, draw_transforms

LARGEST = 3 / 4
"""Share of the side of the largest squares that are looked for: what an image holds of a larger one has such a one in it."""
_SHARE = 0.01  # of real images that may be flagged
_FOUND = 0.95  # of real images with a cutout: a large one leaves a margin, which blurred images would fall into


def squares(policy: Policy) -> Policy:
    """Of a policy its cutouts alone."""
    return Policy(cutout=policy.cutout, fill=policy.fill)


@dataclass(frozen=True)
class Detector:
    """Flags images that hold a square of one value."""

    window: int
    """Side of the windows in pixels."""
    threshold: float
    """Distance below which an image is flagged."""
    fill: float = 0.0
    """The value."""

    @classmethod
    def of(cls, real: Tensor, policy: Policy) -> "Detector":
        """The one for these real images, (N, C, H, H) in [-1, 1], and the squares of this policy."""
        window = max(1, round(3 / 4 * policy.cutout * real.shape[-1]))
        clean, cut = (distance(images, window, policy.fill) for images in (real, with_cutouts(real, policy)))
        return cls(window, min(clean.quantile(_SHARE), cut.quantile(_FOUND)).item(), policy.fill)

    def flags(self, images: Tensor) -> Tensor:
        """bool (N,): which of (N, C, H, W) in [-1, 1] hold a cutout."""
        return distance(images, self.window, self.fill) < self.threshold

    def share(self, images: Tensor) -> float:
        """Of images that are flagged."""
        return self.flags(images).double().mean().item()


def distance(images: Tensor, window: int, fill: float = 0.0) -> Tensor:
    """(N,): the least mean of |x - fill| over an image's windows."""
    return avg_pool2d((images - fill).abs().mean(1, keepdim=True), window, stride=1).flatten(1).amin(1)


def with_cutouts(images: Tensor, policy: Policy, seed: int = 0) -> Tensor:
    """Each image with a square of this policy cut out as it does it, and nothing else done to it."""
    rows = torch.arange(len(images))
    drawn = draw_transforms(squares(policy), rows, tuple(images.shape[2:]), seed=seed, purpose="cutouts")
    return augment(images, drawn, fill=policy.fill)
