"""Finding what an augmentation leaves in images, by a rule that needs no training: for `python -m bench.icr artefacts`.

A cutout writes 0, mid-grey, into a square; a shift with border "zero" brings in bands of the same. An image's square is the
least mean of |x| over all its windows of 3/4 of the cutout's side, its band that over the four lines along the image's edge.
Each is found where it lies below a threshold under which one real image in a hundred lies. On a background of black (-1)
nothing else is as even and as grey.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastgan.kernels.augment import Policy, augment, draw_transforms

_SHARE = 0.01  # of real images that may be flagged


@dataclass(frozen=True)
class Detector:
    """Flags images that hold a square, or a band along the edge, of mid-grey."""

    window: int
    """Side of the windows in pixels."""
    square: float
    """Threshold of squares."""
    band: float
    """Threshold of bands."""

    @classmethod
    def of(cls, real: Tensor, cutout: float) -> "Detector":
        """The one for these real images, (N, C, H, H) in [-1, 1], and a cutout of this fraction of their side."""
        window = max(1, round(3 / 4 * cutout * real.shape[-1]))
        return cls(window, *(found.quantile(_SHARE).item() for found in (square(real, window), band(real))))

    def shares(self, images: Tensor) -> dict[str, float]:
        """Of images (N, C, H, W) in [-1, 1] that hold a square, and a band."""
        found = {"square": square(images, self.window) < self.square, "band": band(images) < self.band}
        return {name: flags.double().mean().item() for name, flags in found.items()}


def square(images: Tensor, window: int) -> Tensor:
    """(N,): the least mean of |x| over an image's windows."""
    return avg_pool2d(images.abs().mean(1, keepdim=True), window, stride=1).flatten(1).amin(1)


def band(images: Tensor) -> Tensor:
    """(N,): the least mean of |x| over the outermost rows and columns."""
    x = images.abs().mean(1)
    return torch.stack([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], 1).mean(2).amin(1)


def marked(images: Tensor, policy: Policy, seed: int = 0) -> Tensor:
    """T(images) for this T."""
    rows = torch.arange(len(images))
    drawn = draw_transforms(policy, rows, tuple(images.shape[2:]), seed=seed, purpose="marks")
    return augment(images, drawn, policy.border)
