"""What autoencoders are worth: how sharp their images are, how near to the originals, and what their codes keep of distances.

Images come as (N, C, H, W) in [-1, 1], and are measured as pixels in [0, 1].
"""

import torch
from torch import Tensor

from fastgan.latent.structure import squared_distances

_FLAT = 1e-12
"""Gradient energy under which images are all of one colour."""


def gradient_energy(images: Tensor) -> float:
    """Mean squared difference of a pixel and its neighbour, over both directions, channels and images.

    Raises:
        ValueError: images of another shape, or smaller than 2x2 pixels.
    """
    if images.dim() != 4 or min(images.shape[2:]) < 2 or not len(images):
        raise ValueError(f"images come as (N, C, H, W) of 2x2 pixels or more, not {tuple(images.shape)}")
    pixels = images.detach().double() / 2
    return float(sum(pixels.diff(dim=dim).square().mean() for dim in (2, 3)) / 2)


def sharpness(images: Tensor, real: Tensor) -> float:
    """Gradient energy over that of real images: below 1 where images are blurred, 1 for a copy; no less for noise, which the
    error tells from sharpness.

    Raises:
        ValueError: as `gradient_energy`, or real images each of one colour, beside which nothing is sharp.
    """
    of_real = gradient_energy(real)
    if of_real < _FLAT:
        raise ValueError("real images of one colour each have no edges to compare with")
    return gradient_energy(images) / of_real


def mean_error(images: Tensor, others: Tensor) -> float:
    """Mean absolute difference of pixels in [0, 1].

    Raises:
        ValueError: other shapes, or no images.
    """
    if images.shape != others.shape or not len(images):
        raise ValueError(f"as many images of the same size are compared, not {tuple(images.shape)}, {tuple(others.shape)}")
    return float((images.double() - others.double()).abs().mean() / 2)


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's: Pearson's correlation of the ranks, equal numbers sharing the mean of theirs; nan where one is constant.

    Args:
        x, y: (N,) of the same N, at least 2.

    Raises:
        ValueError: other shapes.
    """
    if x.dim() != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"two rows of at least 2 numbers are ranked, not {tuple(x.shape)}, {tuple(y.shape)}")
    x, y = (ranks(row) - (len(row) + 1) / 2 for row in (x, y))
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def ranks(x: Tensor) -> Tensor:
    """1 for the smallest of (N,) to N for the largest, equal numbers sharing the mean of theirs; float64."""
    _, group, counts = x.detach().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[group]


def structure_kept(images: Tensor, latents: Tensor) -> float:
    """Rank correlation between the distances of all pairs of images and those of their codes: 1 where codes have the order of
    distances that images have (what the structure loss of Sainburg et al. 2018, section 2.1, asks for, whatever the scale).

    Args:
        images, latents: (N, ...) of the same N, at least 3.

    Raises:
        ValueError: other counts.
    """
    if len(images) != len(latents) or len(images) < 3:
        raise ValueError(f"at least 3 images and as many codes are compared, not {len(images)} and {len(latents)}")
    above = torch.triu_indices(len(images), len(images), 1)
    return rank_correlation(*(squared_distances(rows.detach().double().cpu())[*above] for rows in (images, latents)))
