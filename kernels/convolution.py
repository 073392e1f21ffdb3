"""Two-dimensional convolution and its adjoints, on the CPU by whichever way measured faster; elsewhere torch's own.

    convolve(x, w)[b, o, i] = sum_{c, t}  x[b, c, s i + t - p]  w[o, c, t]          s stride, p padding, t over the k x k taps
    adjoint(y, w)           = d <convolve(x, w), y> / dx                            a transposed convolution
    correlate(x, y)         = d <convolve(x, w), y> / dw

Each is linear in both of its arguments, and its two gradients are the other two: three functions closed under differentiation,
to any order. `conv2d` is the first with a bias, `conv_transpose2d` the second.

Four ways. Times are milliseconds on two cores of a CPU with AVX-512 BF16, cache cold, batch 128; side and channels x -> y:

    torch       oneDNN's. At its best on wide maps (1.1 TFLOP/s in bf16, where a matrix product runs at 1.0), not on maps of
                4x4, and not onto three channels, which fill three of the sixteen lanes of a register.
    product     patches of x as the rows of a matrix, copied in some 0.3 ms, and a matrix product; taps that lie in the padding
                (on a 4x4 map a quarter to a third of the work) are left out by rows. In bf16, between wide small maps:
                convolve 8x8 256 -> 4x4 512: 11.8 to 9.0; -> 4x4 256: 6.0 to 5.2; 4x4 256 -> 512, 3x3: 6.3 to 4.9;
                correlate: 17.7 to 9.5, 9.3 to 5.9, 7.6 to 5.4, and from fewer channels on (one core, batch 320, 8x8 64 -> 4x4
                64: 2.6 to 1.8; 4x4 64 -> 128, 3x3: 2.5 to 1.6). In fp32 torch's products run at half the rate of its
                convolutions on this processor; as a convolution of one tap, adjoint 4x4 512 -> 8x8 256: 21.6 to 18.6.
    blocks      a 3x3 convolution onto few channels as a 4x4 one of stride 2 onto four times as many, one set for each pixel of
                a 2x2 block: 16/9 of the work in four times the lanes. 32x32 64 -> 3: 5.8 to 3.4 in fp32, 3.1 to 2.0 in bf16.
                A 7x7 one likewise as 8x8 of stride 2. Onto one channel in blocks of 4x4, where correlating goes so too: one
                core, batch 64, bf16, 7x7 32x32 32 -> 1: convolve 7.5 to 1.4, correlate 9.6 to 3.2, adjoint of 1 -> 32 19.8 to
                1.9; 3x3 16 -> 1: convolve 0.76 to 0.40, correlate 0.77 to 0.56, in fp32 1.30 to 0.53 and 1.09 to 0.52.
    halves      the adjoint of a 4x4 convolution with stride 2 and few channels below as that of a 2x2 one over 2x2 blocks of
                pixels with four times as many. One core, bf16, without padding, batch 192, 16x16 16 -> 34x34 8: 5.4 to 1.5;
                with a padding of 1, batch 64, 16x16 16 -> 32x32 16: 1.1 to 0.6, 32 -> 1: 1.4 to 0.4, 32x32 64 -> 64x64 3: 6.8
                to 2.1.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from .launch import taken
from .reduction import accumulator

SMALL_MAP = 4 * 4
"""Pixels of the smaller map up to which, in bf16, a matrix product over patches is the faster way."""

WIDE, WIDE_CORRELATED = 128 * 256, 64 * 64
"""Pairs of channels from which it is: below, the product is over before the patches are copied."""

NARROW = 16
"""Channels up to which the adjoint of a 4x4 convolution with stride 2 goes by halves; in fp32 with a padding, FEW_CHANNELS."""

FEW_CHANNELS, MANY_CHANNELS, MANY_ONTO_ONE = 4, {3: 32, 7: 8}, 8
"""A convolution onto at most so few channels from at least so many, by the kernel (or onto one), goes by blocks."""


_ONE_TAP = [1, 1], [0, 0], [1, 1], False, [0, 0], 1


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv2d` without groups and dilation.

    Args:
        x: (B, c, h, w).
        weight: (o, c, k, k).
        bias: (o,) or None.
        stride, padding: in pixels, both directions.

    Returns:
        (B, o, h', w'), h' = (h + 2 padding - k) // stride + 1; in the autocast type where autocast is on. Differentiable to any
        order.
    """
    dtype = working_dtype(x.device.type) or x.dtype
    side = _sides(x, weight.shape[2], stride, padding)
    if not _has_own_way(x, weight, dtype, side, x.shape[2:], stride, padding):
        return functional.conv2d(x, weight, bias, stride, padding)
    return _Convolve.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), stride, padding)


def conv_transpose2d(y: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv_transpose2d` without groups, dilation and output padding.

    Args:
        y: (B, o, h', w').
        weight: (o, c, k, k): that of the convolution of which this is the adjoint.
        bias: (c,) or None.
        stride, padding: in pixels, both directions.

    Returns:
        (B, c, h, w), h = (h' - 1) stride - 2 padding + k, as `conv2d` says.
    """
    dtype = working_dtype(y.device.type) or y.dtype
    side = tuple((size - 1) * stride - 2 * padding + weight.shape[2] for size in y.shape[2:])
    if not _has_own_way(y, weight, dtype, y.shape[2:], side, stride, padding):
        return functional.conv_transpose2d(y, weight, bias, stride, padding)
    x = _Adjoint.apply(y.to(dtype), weight.to(dtype), side, stride, padding)
    return x if bias is None else x + bias.to(dtype)[:, None, None]


def working_dtype(kind: str) -> torch.dtype | None:
    """What autocast has convolutions on devices of this kind compute in; None where it is off."""
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


class _Convolve(Function):
    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = stride, padding
        return convolve(x, w, stride, padding, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, w = ctx.saved_tensors
        of_x = _Adjoint.apply(grad, w, tuple(x.shape[2:]), *ctx.geometry) if ctx.needs_input_grad[0] else None
        of_w = _Correlate.apply(x, grad, w.shape[2], *ctx.geometry) if ctx.needs_input_grad[1] else None
        return of_x, of_w, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None


class _Adjoint(Function):
    @staticmethod
    def forward(ctx, y: Tensor, w: Tensor, side: tuple[int, int], stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(y, w)
        ctx.geometry = stride, padding
        return adjoint(y, w, side, stride, padding)

    @staticmethod
    def backward(ctx, grad: Tensor):
        y, w = ctx.saved_tensors
        of_y = _Convolve.apply(grad, w, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
        of_w = _Correlate.apply(grad, y, w.shape[2], *ctx.geometry) if ctx.needs_input_grad[1] else None
        return of_y, of_w, None, None, None


class _Correlate(Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.geometry = stride, padding
        return correlate(x, y, kernel, stride, padding)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, y = ctx.saved_tensors
        of_x = _Adjoint.apply(y, grad, tuple(x.shape[2:]), *ctx.geometry) if ctx.needs_input_grad[0] else None
        of_y = _Convolve.apply(x, grad, None, *ctx.geometry) if ctx.needs_input_grad[1] else None
        return of_x, of_y, None, None, None


def convolve(x: Tensor, w: Tensor, stride: int, padding: int, bias: Tensor | None = None) -> Tensor:
    """(B, c, h, w), (o, c, k, k), (o,) -> (B, o, h', w'). No gradient."""
    side = _sides(x, w.shape[2], stride, padding)
    if size := _by_blocks(*w.shape[:3], stride, padding, side):
        y = blocks_convolve(x, w, padding, size)
    elif _by_product(x.dtype, w.shape, side):
        y = product_convolve(x, w, stride, padding)
    else:
        return functional.conv2d(x, w, bias, stride, padding)
    return y if bias is None else y.add_(bias[:, None, None])


def adjoint(y: Tensor, w: Tensor, side: tuple[int, int], stride: int, padding: int) -> Tensor:
    """(B, o, h', w'), (o, c, k, k) -> (B, c, *side). No gradient."""
    if size := _by_blocks(w.shape[1], w.shape[0], w.shape[2], stride, padding, side):
        return blocks_convolve(y, _turned(w), w.shape[2] - 1 - padding, size)
    if stride == 1 and _by_product(y.dtype, w.shape, y.shape[2:]):
        return product_convolve(y, _turned(w), 1, w.shape[2] - 1 - padding)
    if stride > 1 and y.dtype == torch.float32 and _is_small_and_wide(w.shape, y.shape[2:]):
        return product_adjoint(y, w, side, stride, padding)
    if _by_halves(y.dtype, w.shape, stride, padding, side):
        return halves_adjoint(y, w, padding)
    if stride == 1 and w.shape[2] > 3 and w.shape[0] <= FEW_CHANNELS:  # 64 maps of 32x32, 1 -> 8: 5 ms to 1
        return functional.conv2d(y, _turned(w), None, 1, w.shape[2] - 1 - padding)
    rest = [size - ((small - 1) * stride - 2 * padding + w.shape[2]) for size, small in zip(side, y.shape[2:], strict=True)]
    return functional.conv_transpose2d(y, w, None, stride, padding, rest)


def correlate(x: Tensor, y: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """(B, c, h, w), (B, o, h', w') -> (o, c, k, k). No gradient."""
    shape = y.shape[1], x.shape[1], kernel, kernel
    if _by_product(x.dtype, shape, y.shape[2:], WIDE_CORRELATED):
        return product_correlate(x, y, kernel, stride, padding)
    size = _by_blocks(*shape[:3], stride, padding, y.shape[2:])
    if (size > 2 or (size and kernel > 3)) and not any(side % size for side in y.shape[2:]):
        return blocks_correlate(x, y, kernel, padding, size)
    w = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)  # its layout becomes the result's
    geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
    return torch.ops.aten.convolution_backward(y, x, w, None, *geometry, [False, True, False])[1]


def product_convolve(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """`convolve` as a matrix product for all rows of the result that the same rows of taps reach; channels last."""
    (height, width), kernel, taps = _sides(x, w.shape[2], stride, padding), w.shape[2], w.permute(0, 2, 3, 1)
    y = torch.empty(len(x), len(w), height, width, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding))  # the width alone: no tap above x is multiplied

    def reaching(row: int) -> tuple[int, int]:
        return max(0, padding - row * stride), min(kernel, x.shape[2] + padding - row * stride)

    for (first, end), group in groupby(range(height), reaching):
        rows = list(group)
        top = rows[0] * stride + first - padding
        part = padded[:, top : top + (len(rows) - 1) * stride + end - first]
        patches = part.unfold(1, end - first, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3)
        product = patches.reshape(-1, patches[0, 0, 0].numel()) @ taps[:, first:end].flatten(1).T
        y.permute(0, 2, 3, 1)[:, rows[0] : rows[-1] + 1] = product.view(len(x), len(rows), width, -1)
    return y


def product_adjoint(y: Tensor, w: Tensor, side: tuple[int, int], stride: int, padding: int) -> Tensor:
    """`adjoint` as one matrix product, whose patches are then added where they overlap; channels last."""
    kernel, (height, width) = w.shape[2], y.shape[2:]
    taps = w.permute(0, 2, 3, 1).reshape(len(w), -1, 1, 1)
    # As the adjoint of a convolution of one tap, which in fp32 runs at twice the rate of torch's matrix product.
    shape = torch.empty(len(y), taps.shape[1], height, width, dtype=y.dtype, memory_format=torch.channels_last)
    patches = torch.ops.aten.convolution_backward(y, shape, taps, None, *_ONE_TAP, [True, False, False])[0]
    patches = patches.permute(0, 2, 3, 1).unflatten(3, (kernel, kernel, -1))
    x = torch.empty(len(y), w.shape[1], *side, dtype=y.dtype, memory_format=torch.channels_last).zero_()
    rows, columns = (
        [_reached(tap, *sizes, stride, padding) for tap in range(kernel)] for sizes in zip(y.shape[2:], side, strict=True)
    )
    last = x.permute(0, 2, 3, 1)
    for i, (small_rows, large_rows) in enumerate(rows):
        for j, (small_columns, large_columns) in enumerate(columns):
            last[:, large_rows, large_columns] += patches[:, small_rows, small_columns, i, j]
    return x


def product_correlate(x: Tensor, y: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """`correlate` as a matrix product for each row of taps, over the places where it lies in x; channels last, as the weight
    is."""
    w = torch.empty(y.shape[1], kernel, kernel * x.shape[1], dtype=x.dtype, device=x.device)
    padded, last = functional.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding)), y.permute(0, 2, 3, 1)
    for tap in range(kernel):
        small, large = _reached(tap, y.shape[2], x.shape[2], stride, padding)
        patches = padded[:, large].unfold(2, kernel, stride).permute(0, 1, 2, 4, 3).reshape(-1, w.shape[2])
        w[:, tap] = last[:, small].reshape(-1, len(w)).T @ patches
    return w.unflatten(2, (kernel, -1)).permute(0, 3, 1, 2)


def blocks_convolve(x: Tensor, w: Tensor, padding: int = 1, size: int = 2) -> Tensor:
    """`convolve` with stride 1, by blocks of `size` x `size` pixels; what the map lacks for whole blocks is even and is added
    around it."""
    out, channels, kernel = w.shape[:3]
    wide = kernel + size - 1
    of_block = w.new_zeros(out, size, size, wide, wide, channels)
    # A pixel's taps lie as far down and right among the block's as the pixel does in the block.
    image, down, right, *taps = of_block.stride()
    of_pixels = of_block.as_strided(
        (out, size, size, kernel, kernel, channels), (image, down + taps[0], right + taps[1], *taps)
    )
    of_pixels.copy_(w.permute(0, 2, 3, 1)[:, None, None])
    of_block = of_block.flatten(0, 2).permute(0, 3, 1, 2)
    height, width = _sides(x, kernel, 1, padding)
    above, left = (-side % size // 2 for side in (height, width))
    blocks = functional.conv2d(x, of_block, None, size, (padding + above, padding + left))
    blocks = blocks.permute(0, 2, 3, 1).unflatten(3, (out, size, size))
    sides = [side + 2 * more for side, more in ((height, above), (width, left))]
    y = torch.empty(len(x), out, *sides, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    y.permute(0, 2, 3, 1).unflatten(1, (-1, size)).unflatten(3, (-1, size)).copy_(blocks.permute(0, 1, 4, 2, 5, 3))
    y = y[:, :, above : above + height, left : left + width]
    return y.contiguous(memory_format=torch.channels_last)


def blocks_correlate(x: Tensor, y: Tensor, kernel: int, padding: int, size: int) -> Tensor:
    """`correlate` with stride 1, by blocks of `size` x `size` pixels of y, whose sides they divide; channels last."""
    out, side = y.shape[1], kernel + size - 1
    blocks = y.permute(0, 2, 3, 1).unflatten(2, (-1, size)).unflatten(1, (-1, size)).permute(0, 1, 3, 5, 2, 4).flatten(3)
    shape = blocks.shape[3], x.shape[1], side, side
    w = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    geometry = [size] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
    blocks = blocks.permute(0, 3, 1, 2)
    found = torch.ops.aten.convolution_backward(blocks, x, w, None, *geometry, [False, True, False])[1]
    found = found.to(accumulator(x.dtype)).permute(0, 2, 3, 1).unflatten(0, (out, size, size))
    taps = sum(
        found[:, row, column, row : row + kernel, column : column + kernel] for row in range(size) for column in range(size)
    )
    return taps.to(x.dtype).contiguous().permute(0, 3, 1, 2)


def halves_adjoint(y: Tensor, w: Tensor, padding: int) -> Tensor:
    """`adjoint` of a 4x4 convolution with stride 2 and sides that are even with the padding, as that of a 2x2 one over 2x2
    blocks of pixels; channels last."""
    out, channels = w.shape[:2]
    taps = w.permute(0, 2, 3, 1).unflatten(2, (2, 2)).unflatten(1, (2, 2)).transpose(2, 3)  # block, then pixel in it
    taps = taps.reshape(out, 2, 2, 4 * channels).permute(0, 3, 1, 2)
    blocks = functional.conv_transpose2d(y, taps).permute(0, 2, 3, 1).unflatten(3, (2, 2, channels))
    sides = 2 * blocks.shape[1], 2 * blocks.shape[2]
    x = torch.empty(len(y), channels, *sides, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).copy_(blocks.permute(0, 1, 3, 2, 4, 5))
    del blocks  # before the next copy
    x = x[:, :, padding : sides[0] - padding, padding : sides[1] - padding]
    return x.contiguous(memory_format=torch.channels_last)


def _turned(w: Tensor) -> Tensor:
    """The weight with which convolving is the adjoint, for stride 1."""
    return w.flip(2, 3).transpose(0, 1)


def _reached(tap: int, small: int, large: int, stride: int, padding: int) -> tuple[slice, slice]:
    """The places of the smaller map from which a tap reaches the larger one, and the pixels there, along one axis."""
    first = max(0, -((tap - padding) // stride))
    end = max(first, min(small, (large - 1 + padding - tap) // stride + 1))  # none, where the tap misses a map so small
    start = first * stride + tap - padding
    return slice(first, end), slice(start, start + (end - first) * stride, stride)


def _has_own_way(
    given: Tensor,
    weight: Tensor,
    dtype: torch.dtype,
    small: Sequence[int],
    large: Sequence[int],
    stride: int,
    padding: int,
) -> bool:
    """Whether convolution, adjoint or correlation between these maps goes another way than torch's."""
    if given.device.type != "cpu" or not given.numel() or torch.compiler.is_compiling():  # what is exported is a convolution
        return False
    if taken():  # what is computed, or only counted, as on CUDA
        return False
    if weight.shape[2] != weight.shape[3] or padding >= weight.shape[2]:
        return False
    out, channels, kernel = weight.shape[:3]
    by_blocks = _by_blocks(out, channels, kernel, stride, padding, small)
    by_blocks = by_blocks or _by_blocks(channels, out, kernel, stride, padding, large)
    if by_blocks or _by_halves(dtype, weight.shape, stride, padding, large):
        return True
    return _by_product(dtype, weight.shape, small, WIDE_CORRELATED) or (
        dtype == torch.float32 and _is_small_and_wide(weight.shape, small)
    )


def _by_product(dtype: torch.dtype, weight: Sequence[int], side: Sequence[int], wide: int = WIDE) -> bool:
    return dtype == torch.bfloat16 and _is_small_and_wide(weight, side, wide)


def _is_small_and_wide(weight: Sequence[int], side: Sequence[int], wide: int = WIDE) -> bool:
    is_wide = weight[0] * weight[1] >= wide and weight[2] > 1  # with one tap torch's is a matrix product already
    return is_wide and side[0] * side[1] <= SMALL_MAP


def _by_blocks(after: int, before: int, kernel: int, stride: int, padding: int, side: Sequence[int]) -> int:
    """The side of the blocks by which to convolve onto a map of this side; 0 for another way."""
    if stride > 1 or kernel not in MANY_CHANNELS or after > FEW_CHANNELS or (kernel == 3 and padding != 1):
        return 0

    def fits(size: int) -> bool:
        rest = [-length % size for length in side]
        return not any(rest) if kernel == 3 else all(more % 2 == 0 for more in rest)

    if after == 1 and before >= MANY_ONTO_ONE and fits(4):
        return 4
    return 2 if before >= MANY_CHANNELS[kernel] and fits(2) else 0


def _by_halves(dtype: torch.dtype, weight: Sequence[int], stride: int, padding: int, side: Sequence[int]) -> bool:
    # The padding is cut off in a copy, which on wide maps in fp32 takes what the product gains.
    few = FEW_CHANNELS if dtype == torch.float32 and padding else NARROW
    return weight[1] <= few and (weight[2], stride) == (4, 2) and padding <= 1 and not (side[0] % 2 or side[1] % 2)


def _sides(x: Tensor, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Height and width of the map that x is convolved to."""
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    return height, width
