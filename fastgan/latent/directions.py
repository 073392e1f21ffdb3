"""Directions of latents that change an attribute of the image.

Sainburg, Thielk, Gentner, "Generative adversarial interpolative autoencoding" (2018), section 2.4.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fastgan.checked import UserError

KINDS = ("means", "least-squares")


def directions(
    latents: Tensor, attributes: Tensor, names: Sequence[str], kind: Literal["means", "least-squares"] = "least-squares"
) -> Tensor:
    """One direction an attribute: z + direction has it where z has not.

        means           mean of the z with the attribute - mean of the z without: whatever else goes with it is in there
        least-squares   rows 1 to A of the W that minimises |[1, y] W - z|²: what the others explain is left to them

    Of an attribute of more than two values "means" cuts the range in the middle; "least-squares" gives the direction of one
    unit. Where attributes determine each other (classes sum to 1, say) W is the one of least norm over centred attributes: what
    they share is divided among them. Computed in float64.

    Args:
        latents: (N, dim).
        attributes: (N, A), 0 and 1 or other numbers.
        names: of the A attributes, for errors.
        kind: "means" or "least-squares".

    Returns:
        (A, dim), of the latents' type, on their device.

    Raises:
        UserError: an attribute that all of these images have, or none.
        ValueError: shapes that do not fit, an unknown kind.
    """
    if latents.dim() != 2 or attributes.shape != (len(latents), len(names)):
        raise ValueError(
            f"latents come as (N, dim) with (N, {len(names)}) attributes, not {tuple(latents.shape)}, {tuple(attributes.shape)}"
        )
    if kind not in KINDS:
        raise ValueError(f"kind should be {' or '.join(KINDS)}, not {kind!r}")
    z, y = latents.detach().double().cpu(), attributes.detach().double().cpu()
    constant = next((name for name, column in zip(names, y.T, strict=True) if not len(y) or column.min() == column.max()), None)
    if constant is not None:
        raise UserError(f"the attribute {constant} is the same in all {len(y)} images: it has no direction")
    found = _of_means(z, y) if kind == "means" else _by_least_squares(z, y)
    return found.to(latents.device, latents.dtype)


def _of_means(z: Tensor, y: Tensor) -> Tensor:
    having = (y > (y.amin(0) + y.amax(0)) / 2).double()
    return having.T @ z / having.sum(0)[:, None] - (1 - having).T @ z / (1 - having).sum(0)[:, None]


def _by_least_squares(z: Tensor, y: Tensor) -> Tensor:
    # A column of ones fits the means, whatever the others do: centred, the rest is the same problem without it.
    centred = y - y.mean(0)
    return torch.linalg.lstsq(centred, z - z.mean(0), driver="gelsd").solution
