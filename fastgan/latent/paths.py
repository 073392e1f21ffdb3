"""Ways from one latent to another.

    linear      z(t) = (1 - t) a + t b
    spherical   z(t) = |z(t)| (sin((1 - t) w) a/|a| + sin(t w) b/|b|) / sin(w),   w the angle between a and b,
                |z(t)| = (1 - t) |a| + t |b|

In many dimensions nearly all of a normal prior lies near a sphere of radius sqrt(dim), and the middle of a chord is far inside
it, where the generator was not trained: hence the arc (White, "Sampling generative networks", 2016, section 2).
"""

from typing import Literal

import torch
from torch import Tensor

_PARALLEL = 1e-6  # sin(w) below which arc and chord are one, or there is no one arc


def interpolate(a: Tensor, b: Tensor, steps: int, kind: Literal["linear", "spherical"] = "linear") -> Tensor:
    """Latents on the way from `a` to `b`, both ends included, at equal distances of t.

    Args:
        a, b: (B, dim) latents.
        steps: latents of each way, at least 2.
        kind: "linear" or "spherical"; spherical ways between (anti)parallel latents are linear.

    Returns:
        (B, steps, dim), of the latents' type and device.

    Raises:
        ValueError: shapes that differ or are not (B, dim), fewer than two steps, another kind.
    """
    if a.shape != b.shape or a.dim() != 2:
        raise ValueError(f"a and b must both be (B, dim), but are {tuple(a.shape)} and {tuple(b.shape)}")
    if steps < 2:
        raise ValueError(f"steps must be at least 2, not {steps}")
    if kind not in ("linear", "spherical"):
        raise ValueError(f'kind must be "linear" or "spherical", not {kind!r}')
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[None, :, None]
    a, b = a[:, None], b[:, None]
    chord = (1 - t) * a + t * b
    if kind == "linear":
        return chord
    lengths = [x.norm(dim=2, keepdim=True) for x in (a, b)]
    ends = [x / length.clamp(min=torch.finfo(x.dtype).tiny) for x, length in zip((a, b), lengths, strict=True)]
    angle = (ends[0] * ends[1]).sum(2, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    arc = (((1 - t) * angle).sin() * ends[0] + (t * angle).sin() * ends[1]) / sine.clamp(min=_PARALLEL)
    return torch.where(sine > _PARALLEL, arc * ((1 - t) * lengths[0] + t * lengths[1]), chord)
