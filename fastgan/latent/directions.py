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
    unit. Where attributes determine each other (classes sum to 1, say) W is the one of least norm over attributes centred and
    divided by their deviations, in units again after that: what they share is divided among them, whatever units they come in.
    Computed in float64.

    Args:
        latents: (N, dim).
        attributes: (N, A), 0 and 1 or other numbers.
        names: of the A attributes, for errors.
        kind: "means" or "least-squares".

    Returns:
        (A, dim), of the latents' type, on their device.

    Raises:
        UserError: latents or attributes that are not finite, an attribute that all of these images have, or none, or one whose
            direction is too short or too long for the latents' type.
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
    if not z.isfinite().all():
        raise UserError("latents of these images are not finite: they have no directions")
    unknown = next((name for name, column in zip(names, y.T, strict=True) if not column.isfinite().all()), None)
    if unknown is not None:
        raise UserError(f"the attribute {unknown} is not finite in all {len(y)} images: it has no direction")
    found = _of_means(z, y) if kind == "means" else _by_least_squares(z, y)
    given = found.to(latents.dtype)
    for name, exact, rounded in zip(names, found, given, strict=True):
        if not rounded.isfinite().all() or (exact.any() and not rounded.any()):
            raise UserError(f"the direction of the attribute {name} is beyond {given.dtype}: give it in other units")
    return given.to(latents.device)


def _of_means(z: Tensor, y: Tensor) -> Tensor:
    having = (y > (y.amin(0) + y.amax(0)) / 2).double()
    return having.T @ z / having.sum(0)[:, None] - (1 - having).T @ z / (1 - having).sum(0)[:, None]


def _by_least_squares(z: Tensor, y: Tensor) -> Tensor:
    # A column of ones fits the means, whatever the others do: centred, the rest is the same problem without it.
    centred = y - y.mean(0)
    # In units of its deviation no column is so small beside the others that it passes for a combination of them.
    largest = centred.abs().amax(0)  # squares of what is left can't overflow
    deviation = largest * (centred / largest).square().mean(0).sqrt()
    return torch.linalg.lstsq(centred / deviation, z - z.mean(0), driver="gelsd").solution / deviation[:, None]
