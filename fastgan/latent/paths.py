"""Paths between latents."""

from typing import Literal

import torch
from torch import Tensor

KINDS = ("linear", "spherical")
_PARALLEL = 1e-4
"""Radians from 0 or pi within which two directions span no plane that rounding leaves alone."""


def interpolate(a: Tensor, b: Tensor, steps: int, kind: Literal["linear", "spherical"] = "linear") -> Tensor:
    """Points from a to b, both ends included, evenly spaced by t = 0, 1 / (steps - 1), ..., 1.

        linear      (1 - t) a + t b
        spherical   sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b,    w the angle between a and b

    Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985), section 3.3; for latents White, "Sampling generative
    networks" (2016), section 2.1: on a straight line between two draws from a normal prior in many dimensions lengths are such
    as the prior hardly ever gives. The two coefficients are applied to a and b as they are, so that lengths which differ are
    passed through as well. Where a and b are parallel, opposite or zero, there is no arc and the line is taken.

    Args:
        a, b: (d,), or (B, d) for B pairs, floating point; of more dimensions where a latent has them, (B, ...).
        steps: at least 2.
        kind: "linear" or "spherical".

    Returns:
        (steps, d) for one pair, (B, steps, ...) for B pairs, of the type that a and b come to; the ends are a and b exactly.
        Differentiable.

    Raises:
        ValueError: shapes that differ, no dimension, fewer than two steps, an unknown kind.
    """
    if a.shape != b.shape or not a.dim():
        raise ValueError(
            f"a and b should have the same shape, of one dimension or more, not {tuple(a.shape)}, {tuple(b.shape)}"
        )
    if steps < 2:
        raise ValueError(f"steps should be at least 2, not {steps}")
    if kind not in KINDS:
        raise ValueError(f"kind should be {' or '.join(KINDS)}, not {kind!r}")
    if a.dim() == 1:
        return interpolate(a[None], b[None], steps, kind)[0]
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype), b.to(dtype)
    t = torch.linspace(0, 1, steps, dtype=dtype, device=a.device).view(1, steps, *[1] * (a.dim() - 1))
    of_a, of_b = 1 - t, t
    if kind == "spherical":
        angle = _angle(a.flatten(1), b.flatten(1)).view(-1, *[1] * a.dim())
        on_an_arc = (angle > _PARALLEL) & (angle < torch.pi - _PARALLEL)
        angle = torch.where(on_an_arc, angle, 1.0)
        of_a = torch.where(on_an_arc, torch.sin(of_a * angle) / torch.sin(angle), of_a)
        of_b = torch.where(on_an_arc, torch.sin(of_b * angle) / torch.sin(angle), of_b)
    path = of_a * a[:, None] + of_b * b[:, None]
    return torch.cat([a[:, None], path[:, 1:-1], b[:, None]], dim=1)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Of each pair of rows (B, d), in [0, pi], by Kahan's formula, exact for small ones too; 0 where a row is zero."""
    a, b = (torch.nn.functional.normalize(row, dim=1, eps=torch.finfo(row.dtype).tiny) for row in (a, b))
    there = (a.norm(dim=1) > 0) & (b.norm(dim=1) > 0)
    return torch.where(there, 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)), 0.0)
