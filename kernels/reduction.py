"""Sums over more numbers than one program can hold, the same on every run: each program adds up a part of its own, in a fixed
order, and one program adds up the parts. No atomics."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch

BLOCK = 1024
WARPS = 4
PROGRAMS = 1024
"""Parts of a sum at most: several for each multiprocessor of any GPU, and few enough for one program to finish."""


def parts(count: int) -> int:
    """How many programs share `count` numbers."""
    return min(triton.cdiv(count, BLOCK), PROGRAMS)


def accumulator(*dtypes: torch.dtype) -> torch.dtype:
    """What sums of these are kept in: float32, or float64 where one of them is."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


@triton.jit
def total_kernel(partial_ptr, out_ptr, count, scale: tl.float64, BLOCK: tl.constexpr):
    REAL: tl.constexpr = out_ptr.dtype.element_ty
    at = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(partial_ptr + at, mask=at < count, other=0.0), 0)
    tl.store(out_ptr, total * tl.full((), scale, REAL))


def total(partial: Tensor, scale: float) -> Tensor:
    """scale * sum of at most PROGRAMS partial sums, a scalar of their dtype. One launch."""
    out = partial.new_empty(())
    launch(total_kernel, (1,), partial, out, len(partial), scale, warps=WARPS, BLOCK=PROGRAMS)
    return out
