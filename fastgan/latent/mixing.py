"""Mixtures of the latents of a batch: what an autoencoder is to decode well besides the latents themselves."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgan.draw import Draw

KINDS = ("pairs", "batch")


def mixing_weights(
    draw: Draw, count: int, kind: Literal["pairs", "batch"] = "pairs", mean: float = 0.5, deviation: float = 0.25
) -> Tensor:
    """In which shares the batch's latents are mixed, a row for each of the draw's samples.

    "pairs" is Sainburg et al. 2018 (GAIA), section 2: row i of the first half mixes latents i and i + h, h half the batch, row
    h + i of the second half mixes h - 1 - i and h + i; a of the first and 1 - a of the second, a ~ N(mean, deviation²), drawn
    for each row (a below 0 or above 1 goes beyond the pair). Of an odd batch the last latent is mixed with the first.
    "batch" mixes them all, with shares drawn evenly from those that are not negative and sum to 1.

    Args:
        draw: whose rows are numbers in the batch.
        count: latents of the whole batch, over all ranks; at least 2.
        mean, deviation: of a, for pairs.

    Returns:
        float32 (B, count); each row sums to 1.
    """
    if kind == "batch":
        shares = -torch.log1p(-draw.uniform("mixture", count))
        return shares / shares.sum(1, keepdim=True)
    half, row = count // 2, draw.rows
    first = torch.where(row < half, row, (2 * half - 1 - row).clamp(min=0))
    second = torch.where(row < half, row + half, row)
    a = mean + deviation * draw.normal("mixture", 1)
    weights = a.new_zeros(len(row), count)
    return weights.scatter_add_(1, first[:, None], a).scatter_add_(1, second[:, None], 1 - a)


def mix(weights: Tensor, latents: Tensor) -> Tensor:
    """Latents (count, ...) mixed in shares (B, count): (B, ...), in the type of the latents, whatever autocast says."""
    with torch.autocast(latents.device.type, enabled=False):
        mixed = weights.to(latents.dtype) @ latents.flatten(1)
    return mixed.view(-1, *latents.shape[1:])


@dataclass(frozen=True, eq=False)
class Mixtures:
    """A distribution of latents that known ones span: a z_i + (1 - a) z_j of two drawn from them, a ~ N(mean, deviation²). It
    takes the place of a `Prior` where latents are codes of images."""

    codes: Tensor
    """(N, dim)."""
    mean: float = 0.5
    deviation: float = 0.25

    kind = "mixtures"

    @property
    def dim(self) -> int:
        """Numbers of a latent."""
        return self.codes.shape[1]

    def __call__(self, draw: Draw, name: str = "latent") -> Tensor:
        """(B, dim) latents, one row for each of the draw's samples."""
        one, other = (self.codes[draw.integers(f"{name}/{which}", len(self.codes))] for which in ("one", "other"))
        a = self.mean + self.deviation * draw.normal(f"{name}/share", 1)
        return a * one + (1 - a) * other
