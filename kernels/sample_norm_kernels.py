"""`sample_norm_act`'s kernels, and a launcher for each operator.

Programs share the maps as in `channels`, with parameters of samples. Mean and inverse deviation are stored for each channel of
each sample, also where all channels share them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activation import activated, through_activation
from .channels import (
    LINE,
    contiguous,
    moments,
    of_sample,
    place,
    sample_stride,
    tile,
    tiles_for_elements,
    tiles_for_sums,
)
from .launch import launch
from .layout import dense_rows, like
from .reduction import WARPS, accumulator


@triton.jit
def join_kernel(
    partial_ptr, mean_ptr, inverse_ptr, channels, pixels, per, splits, slots, eps: tl.float64,
    ALL: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Joins the parts of each sample's channels (`moments_kernel`), and with ALL its channels, in float64."""
    program = tl.program_id(0).to(tl.int64)
    blocks = 1 if ALL else tl.cdiv(channels, LINE)
    sample, first_channel = program // blocks, program % blocks * LINE
    last_channel = channels if ALL else tl.minimum(first_channel + LINE, channels)
    mean = tl.zeros((LINE,), tl.float64)
    number = pixels.to(tl.float64) * (channels if ALL else 1)
    for start in range(first_channel, last_channel, LINE):
        channel = start + tl.arange(0, LINE)
        for split in range(0, splits):
            count = tl.minimum(pixels - split * per, per).to(tl.float64)
            slot = (sample * splits + split) * channels + channel
            mean += count * tl.load(partial_ptr + slot, mask=channel < channels, other=0.0).to(tl.float64)
    mean = (tl.sum(mean, 0) + tl.zeros((LINE,), tl.float64) if ALL else mean) / number
    squares = tl.zeros((LINE,), tl.float64)
    for start in range(first_channel, last_channel, LINE):
        channel = start + tl.arange(0, LINE)
        for split in range(0, splits):
            count = tl.minimum(pixels - split * per, per).to(tl.float64)
            slot = (sample * splits + split) * channels + channel
            inside = channel < channels
            away = tl.load(partial_ptr + slot, mask=inside, other=0.0).to(tl.float64) - mean
            own = tl.load(partial_ptr + slots + slot, mask=inside, other=0.0).to(tl.float64)
            squares += tl.where(inside, own + count * away * away, 0.0)
    squares = (tl.sum(squares, 0) + tl.zeros((LINE,), tl.float64) if ALL else squares) / number
    inverse = 1.0 / tl.sqrt(squares + tl.full((), eps, tl.float64))
    for start in range(first_channel, last_channel, LINE):
        channel = start + tl.arange(0, LINE)
        at = sample * channels + channel
        tl.store(mean_ptr + at, mean.to(mean_ptr.dtype.element_ty), mask=channel < channels)
        tl.store(inverse_ptr + at, inverse.to(inverse_ptr.dtype.element_ty), mask=channel < channels)


@triton.jit
def normalise_kernel(
    x_ptr, mean_ptr, inverse_ptr, gain_ptr, bias_ptr, residual_ptr, y_ptr,
    planes, channels, pixels, per, splits, gain_stride, bias_stride,
    ACT: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, _ = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_sample(mean_ptr, channels, channel, sample, inside, 0.0, LAST, REAL)
    inverse = of_sample(inverse_ptr, channels, channel, sample, inside, 1.0, LAST, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        v = (tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL) - mean) * inverse * gain + bias
        v = activated(v, 0.0, ACT)
        if residual_ptr is not None:
            v += tl.load(residual_ptr + offset, mask=exists, other=0.0).to(REAL)
        tl.store(y_ptr + offset, v.to(y_ptr.dtype.element_ty), mask=exists)


@triton.jit
def sums_kernel(
    dy_ptr, x_ptr, mean_ptr, inverse_ptr, gain_ptr, bias_ptr, partial_ptr,
    planes, channels, pixels, per, splits, slots, gain_stride, bias_stride,
    ACT: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, slot = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_sample(mean_ptr, channels, channel, sample, inside, 0.0, LAST, REAL)
    inverse = of_sample(inverse_ptr, channels, channel, sample, inside, 1.0, LAST, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    to_bias = tl.zeros((ROWS, COLS), REAL)
    to_gain = tl.zeros((ROWS, COLS), REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        normal = (tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL) - mean) * inverse
        dy = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
        dy = through_activation(normal * gain + bias, dy, 0.0, ACT)
        to_bias += dy
        to_gain += tl.where(exists, dy * normal, 0.0)
    AXIS: tl.constexpr = 0 if LAST else 1
    tl.store(partial_ptr + slot, tl.sum(to_gain, AXIS), mask=inside)
    tl.store(partial_ptr + slots + slot, tl.sum(to_bias, AXIS), mask=inside)


@triton.jit
def totals_kernel(
    partial_ptr, gain_ptr, to_gain_ptr, to_bias_ptr, first_ptr, second_ptr, channels, pixels, splits, slots, gain_stride,
    ALL: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Joins the parts of each sample's channels: the gradients of gain and bias; and, with ALL over its channels, the means
    of dxhat and of dxhat xhat."""
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    blocks = 1 if ALL else tl.cdiv(channels, LINE)
    sample, first_channel = program // blocks, program % blocks * LINE
    last_channel = channels if ALL else tl.minimum(first_channel + LINE, channels)
    first = tl.zeros((LINE,), REAL)
    second = tl.zeros((LINE,), REAL)
    for start in range(first_channel, last_channel, LINE):
        channel = start + tl.arange(0, LINE)
        inside = channel < channels
        to_gain = tl.zeros((LINE,), REAL)
        to_bias = tl.zeros((LINE,), REAL)
        for split in range(0, splits):
            slot = (sample * splits + split) * channels + channel
            to_gain += tl.load(partial_ptr + slot, mask=inside, other=0.0)
            to_bias += tl.load(partial_ptr + slots + slot, mask=inside, other=0.0)
        tl.store(to_gain_ptr + sample * channels + channel, to_gain, mask=inside)
        tl.store(to_bias_ptr + sample * channels + channel, to_bias, mask=inside)
        if gain_ptr is not None:
            gain = tl.load(gain_ptr + sample * gain_stride + channel, mask=inside, other=0.0).to(REAL)
            to_gain, to_bias = to_gain * gain, to_bias * gain
        first += to_bias
        second += to_gain
    number = pixels.to(REAL) * (channels if ALL else 1)
    first = (tl.sum(first, 0) + tl.zeros((LINE,), REAL) if ALL else first) / number
    second = (tl.sum(second, 0) + tl.zeros((LINE,), REAL) if ALL else second) / number
    for start in range(first_channel, last_channel, LINE):
        channel = start + tl.arange(0, LINE)
        tl.store(first_ptr + sample * channels + channel, first, mask=channel < channels)
        tl.store(second_ptr + sample * channels + channel, second, mask=channel < channels)


@triton.jit
def gradient_kernel(
    dy_ptr, x_ptr, mean_ptr, inverse_ptr, gain_ptr, bias_ptr, first_ptr, second_ptr, dx_ptr,
    planes, channels, pixels, per, splits, gain_stride, bias_stride,
    ACT: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, _ = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_sample(mean_ptr, channels, channel, sample, inside, 0.0, LAST, REAL)
    inverse = of_sample(inverse_ptr, channels, channel, sample, inside, 1.0, LAST, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    first = of_sample(first_ptr, channels, channel, sample, inside, 0.0, LAST, REAL)
    second = of_sample(second_ptr, channels, channel, sample, inside, 0.0, LAST, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        normal = (tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL) - mean) * inverse
        dy = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
        dy = through_activation(normal * gain + bias, dy, 0.0, ACT)
        dx = (dy * gain - first - normal * second) * inverse
        tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=exists)


# --- Launchers -------------------------------------------------------------------------------------------------------------


def empty_statistics(x: Tensor, count: int) -> list[Tensor]:
    """Memory for so many numbers of each channel of each sample."""
    return [torch.empty(x.shape[:2], dtype=accumulator(x.dtype), device=x.device) for _ in range(count)]


def _joining(x: Tensor, over: str) -> tuple[tuple[int], dict]:
    blocks = 1 if over == "sample" else triton.cdiv(x.shape[1], LINE)
    return (len(x) * blocks if x.numel() else 0,), {"warps": WARPS, "ALL": over == "sample", "LINE": LINE}


def launch_forward(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, residual: Tensor | None, over: str, eps: float, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    x = dense_rows(x)
    y, (mean, inverse), (gain, bias) = torch.empty_like(x), empty_statistics(x, 2), contiguous(gain, bias)
    if not x.numel():
        return y, mean.zero_(), inverse.zero_()
    tiles, partial = moments(x, own=True)
    numbers = tiles.channels, tiles.pixels, tiles.per, tiles.splits, partial[0].numel()
    grid, options = _joining(x, over)
    launch(join_kernel, grid, partial, mean, inverse, *numbers, eps, **options)
    tiles = tiles_for_elements(x, own=True)
    tensors = x, mean, inverse, gain, bias, residual if residual is None else like(residual, x), y
    numbers = *tiles.geometry(), tiles.per, tiles.splits, sample_stride(gain), sample_stride(bias)
    launch(normalise_kernel, (tiles.programs,), *tensors, *numbers, warps=WARPS, ACT=act, **tiles.constants())
    return y, mean, inverse


def launch_backward(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, over: str, act: str
) -> list[Tensor]:
    x = dense_rows(x)
    dy, dx, (gain, bias) = like(dy, x), torch.empty_like(x), contiguous(gain, bias)
    to_gain, to_bias, first, second = empty_statistics(x, 4)
    if not x.numel():
        return [dx, to_gain.zero_(), to_bias.zero_()]
    tiles = tiles_for_sums(x, own=True)
    partial = torch.empty(2, tiles.groups, tiles.channels, dtype=mean.dtype, device=x.device)
    slots, strides = partial[0].numel(), (sample_stride(gain), sample_stride(bias))
    given = dy, x, mean, inverse, gain, bias
    numbers = *tiles.geometry(), tiles.per, tiles.splits, slots, *strides
    launch(sums_kernel, (tiles.programs,), *given, partial, *numbers, warps=WARPS, ACT=act, **tiles.constants())
    grid, options = _joining(x, over)
    numbers = tiles.channels, tiles.pixels, tiles.splits, slots, strides[0]
    launch(totals_kernel, grid, partial, gain, to_gain, to_bias, first, second, *numbers, **options)
    tiles = tiles_for_elements(x, own=True)
    numbers = *tiles.geometry(), tiles.per, tiles.splits, *strides
    launch(
        gradient_kernel, (tiles.programs,), *given, first, second, dx, *numbers, warps=WARPS, ACT=act, **tiles.constants()
    )  # fmt: skip
    return [dx, to_gain, to_bias]
