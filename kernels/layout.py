"""Memory as kernels see it: a run of numbers, or a row for each sample, whatever the order of the dimensions in it."""

import torch
from torch import Tensor


def is_dense(x: Tensor) -> bool:
    """Whether x fills its memory without gaps and overlaps, in any order of its dimensions (contiguous, channels-last, ...)."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1):
        if stride != expected and x.numel():
            return False
        expected *= size
    return True


def dense(x: Tensor) -> Tensor:
    """x itself where it is dense, else a contiguous copy."""
    return x if is_dense(x) else x.contiguous()


def dense_rows(x: Tensor) -> Tensor:
    """x (B, ...) as memory in which sample b is the b-th run of x[0].numel() numbers: itself or a contiguous copy."""
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def like(x: Tensor, y: Tensor) -> Tensor:
    """x in the memory order of y, a dense tensor of the same shape: itself or a copy."""
    if x.stride() == y.stride():
        return x
    return torch.empty_like(y, dtype=x.dtype).copy_(x)


def is_channels_last(x: Tensor) -> bool:
    """Whether a (B, C, H, W) tensor lies channels last and not, as with one channel or one pixel, in both orders."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    """The order of the dimensions in which x lies: channels last where it is (`is_channels_last`), else contiguous."""
    return torch.channels_last if x.dim() == 4 and is_channels_last(x) else torch.contiguous_format
