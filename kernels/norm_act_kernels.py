"""`norm_act`'s kernels, and a launcher for each operator. Programs share the maps as in `channels`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activation import activated, empty_output, through_activation
from .channels import (
    LINE,
    Tiles,
    contiguous,
    moments,
    of_channel,
    of_sample,
    per_sample,
    place,
    sample_stride,
    tile,
    tiles_for_elements,
    tiles_for_sums,
)
from .launch import launch
from .layout import dense_rows, memory_format
from .reduction import WARPS, accumulator


@triton.jit
def upsampled(
    base, sample, channel, at, end, inside, channels, pixels, width,
    LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Offsets of the upper left copies (LAST), or of the upper copies in pairs, and which exist; how far the lower ones are."""
    row = tl.arange(0, ROWS)[:, None]
    if LAST:
        pixel = sample * pixels + at
        along = (pixel % width).to(tl.int32) + row
        offset = along // width * (4 * width) + along % width * 2
        start = pixel // width * (4 * width) * channels
        return start + (offset * channels + channel[None, :]), (at + row < end) & inside[None, :], 2 * width * channels
    else:
        pair = (2 * at + tl.arange(0, 2 * COLS)[None, :]).to(tl.int32)
        offset = pair // (2 * WIDTH) * (4 * WIDTH) + pair % (2 * WIDTH)
        return base * 4 + (row * (4 * pixels) + offset), (pair < 2 * end) & inside[:, None], 2 * WIDTH


@triton.jit
def inverse_deviation(var, eps: tl.float64, REAL: tl.constexpr):
    return tl.rsqrt(var + tl.full((), eps, REAL))


@triton.jit
def pooled(
    dy_ptr, offset, exists, below, channels, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, REAL: tl.constexpr
):
    """Sums of the four gradients of each pixel that was upsampled."""
    upper = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
    lower = tl.load(dy_ptr + offset + below, mask=exists, other=0.0).to(REAL)
    if LAST:
        upper += tl.load(dy_ptr + offset + channels, mask=exists, other=0.0).to(REAL)
        lower += tl.load(dy_ptr + offset + below + channels, mask=exists, other=0.0).to(REAL)
        return upper + lower
    else:
        left, right = tl.split(tl.reshape(upper + lower, (ROWS, COLS, 2)))
        return left + right


@triton.jit
def statistics_kernel(
    partial_ptr,
    mean_ptr,
    var_ptr,
    sums_ptr,
    groups,
    channels,
    pixels,
    per,
    splits,
    slots,
    number: tl.float64,
    LINE: tl.constexpr,
):
    """Joins the groups' means and squared deviations, in float64."""
    channel = tl.program_id(0).to(tl.int64) * LINE + tl.arange(0, LINE)[None, :]
    total = tl.full((), number, tl.float64)
    mean = tl.zeros((1, LINE), tl.float64)
    for first in range(0, groups, LINE):
        group = first + tl.arange(0, LINE)[:, None]
        exists = (group < groups) & (channel < channels)
        count = tl.minimum(pixels - group % splits * per, per).to(tl.float64)
        middle = tl.load(partial_ptr + group.to(tl.int64) * channels + channel, mask=exists, other=0.0).to(tl.float64)
        mean += tl.sum(tl.where(exists, count * middle, 0.0), 0, keep_dims=True)
    mean = mean / total
    squares = tl.zeros((1, LINE), tl.float64)
    for first in range(0, groups, LINE):
        group = first + tl.arange(0, LINE)[:, None]
        exists = (group < groups) & (channel < channels)
        count = tl.minimum(pixels - group % splits * per, per).to(tl.float64)
        slot = group.to(tl.int64) * channels + channel
        middle = tl.load(partial_ptr + slot, mask=exists, other=0.0).to(tl.float64)
        own = tl.load(partial_ptr + slots + slot, mask=exists, other=0.0).to(tl.float64)
        squares += tl.sum(tl.where(exists, own + count * (middle - mean) * (middle - mean), 0.0), 0, keep_dims=True)
    inside = channel < channels
    if sums_ptr is not None:
        none = total == 0
        tl.store(sums_ptr + channel, tl.where(none, 0.0, total + tl.zeros_like(mean)), mask=inside)
        tl.store(sums_ptr + channels + channel, tl.where(none, 0.0, total * mean), mask=inside)
        tl.store(sums_ptr + 2 * channels + channel, tl.where(none, 0.0, squares + total * mean * mean), mask=inside)
    else:
        tl.store(mean_ptr + channel, mean.to(mean_ptr.dtype.element_ty), mask=inside)
        tl.store(var_ptr + channel, (squares / total).to(var_ptr.dtype.element_ty), mask=inside)


@triton.jit
def normalise_kernel(
    x_ptr, mean_ptr, var_ptr, gain_ptr, bias_ptr, y_ptr,
    planes, channels, pixels, width, per, splits, gain_stride, bias_stride, eps: tl.float64, slope: tl.float64,
    ACT: tl.constexpr, UP: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, _ = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_channel(mean_ptr, channel, inside, 0.0, LAST, REAL)
    inverse = inverse_deviation(of_channel(var_ptr, channel, inside, 1.0, LAST, REAL), eps, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        x = tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL)
        v = (x - mean) * inverse * gain + bias
        y = activated(v, slope, ACT).to(y_ptr.dtype.element_ty)
        if UP:
            offset, exists, below = upsampled(
                base, sample, channel, at, end, inside, channels, pixels, width, LAST, WIDTH, ROWS, COLS
            )
            if LAST:
                tl.store(y_ptr + offset + channels, y, mask=exists)
                tl.store(y_ptr + offset + below + channels, y, mask=exists)
            else:
                y = tl.interleave(y, y)
            tl.store(y_ptr + offset, y, mask=exists)
            tl.store(y_ptr + offset + below, y, mask=exists)
        else:
            tl.store(y_ptr + offset, y, mask=exists)


@triton.jit
def sums_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, gain_ptr, bias_ptr, partial_ptr, pooled_ptr,
    planes, channels, pixels, width, per, splits, slots, gain_stride, bias_stride, eps: tl.float64, slope: tl.float64,
    ACT: tl.constexpr, UP: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, slot = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_channel(mean_ptr, channel, inside, 0.0, LAST, REAL)
    inverse = inverse_deviation(of_channel(var_ptr, channel, inside, 1.0, LAST, REAL), eps, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    to_bias = tl.zeros((ROWS, COLS), REAL)
    to_gain = tl.zeros((ROWS, COLS), REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        normal = (tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL) - mean) * inverse
        if UP:
            place_of, there, below = upsampled(
                base, sample, channel, at, end, inside, channels, pixels, width, LAST, WIDTH, ROWS, COLS
            )
            dy = pooled(dy_ptr, place_of, there, below, channels, LAST, ROWS, COLS, REAL)
        else:
            dy = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
        dy = through_activation(normal * gain + bias, dy, slope, ACT)
        if pooled_ptr is not None:
            tl.store(pooled_ptr + offset, dy.to(pooled_ptr.dtype.element_ty), mask=exists)
        to_bias += dy
        to_gain += tl.where(exists, dy * normal, 0.0)
    AXIS: tl.constexpr = 0 if LAST else 1
    tl.store(partial_ptr + slot, tl.sum(to_gain, AXIS), mask=inside)
    tl.store(partial_ptr + slots + slot, tl.sum(to_bias, AXIS), mask=inside)


@triton.jit
def totals_kernel(
    partial_ptr, gain_ptr, to_gain_ptr, to_bias_ptr, totals_ptr, samples, channels, splits, slots, gain_stride,
    OWN_GAIN: tl.constexpr, OWN_BIAS: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Joins the groups of each sample, writes what is the samples' own, and joins the samples."""
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    channel = tl.program_id(0).to(tl.int64) * LINE + tl.arange(0, LINE)[None, :]
    inside = channel < channels
    all_to_gain = tl.zeros((1, LINE), REAL)
    all_to_bias = tl.zeros((1, LINE), REAL)
    first_total = tl.zeros((1, LINE), REAL)
    second_total = tl.zeros((1, LINE), REAL)
    for first in range(0, samples, LINE):
        sample = (first + tl.arange(0, LINE)[:, None]).to(tl.int64)
        exists = (sample < samples) & inside
        to_gain = tl.zeros((LINE, LINE), REAL)
        to_bias = tl.zeros((LINE, LINE), REAL)
        for split in range(0, splits):
            slot = (sample * splits + split) * channels + channel
            to_gain += tl.load(partial_ptr + slot, mask=exists, other=0.0)
            to_bias += tl.load(partial_ptr + slots + slot, mask=exists, other=0.0)
        if OWN_GAIN:
            tl.store(to_gain_ptr + sample * channels + channel, to_gain, mask=exists)
        if OWN_BIAS:
            tl.store(to_bias_ptr + sample * channels + channel, to_bias, mask=exists)
        if gain_ptr is not None:
            gain = tl.load(gain_ptr + sample * gain_stride + channel, mask=exists, other=0.0).to(REAL)
            first_total += tl.sum(gain * to_bias, 0, keep_dims=True)
            second_total += tl.sum(gain * to_gain, 0, keep_dims=True)
        all_to_gain += tl.sum(to_gain, 0, keep_dims=True)
        all_to_bias += tl.sum(to_bias, 0, keep_dims=True)
    if not OWN_GAIN:
        tl.store(to_gain_ptr + channel, all_to_gain, mask=inside)
    if not OWN_BIAS:
        tl.store(to_bias_ptr + channel, all_to_bias, mask=inside)
    tl.store(totals_ptr + channel, all_to_bias if gain_ptr is None else first_total, mask=inside)
    tl.store(totals_ptr + channels + channel, all_to_gain if gain_ptr is None else second_total, mask=inside)


@triton.jit
def gradient_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, gain_ptr, bias_ptr, totals_ptr, dx_ptr,
    planes, channels, pixels, width, per, splits, gain_stride, bias_stride,
    eps: tl.float64, slope: tl.float64, scale: tl.float64,
    ACT: tl.constexpr, UP: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """`scale` makes means of totals."""
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, _ = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_channel(mean_ptr, channel, inside, 0.0, LAST, REAL)
    inverse = inverse_deviation(of_channel(var_ptr, channel, inside, 1.0, LAST, REAL), eps, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    if totals_ptr is not None:
        first_mean = of_channel(totals_ptr, channel, inside, 0.0, LAST, REAL) * tl.full((), scale, REAL)
        second_mean = of_channel(totals_ptr + channels, channel, inside, 0.0, LAST, REAL) * tl.full((), scale, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        if UP:
            place_of, there, below = upsampled(
                base, sample, channel, at, end, inside, channels, pixels, width, LAST, WIDTH, ROWS, COLS
            )
            dy = pooled(dy_ptr, place_of, there, below, channels, LAST, ROWS, COLS, REAL)
        else:
            dy = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
        if (totals_ptr is not None) or (ACT != "none"):
            normal = (tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL) - mean) * inverse
            dy = through_activation(normal * gain + bias, dy, slope, ACT)
        dx = dy * gain
        if totals_ptr is not None:
            dx = dx - first_mean - normal * second_mean
        tl.store(dx_ptr + offset, (dx * inverse).to(dx_ptr.dtype.element_ty), mask=exists)


# --- Launchers -------------------------------------------------------------------------------------------------------------


def _launch_statistics(x: Tensor, mean: Tensor | None, var: Tensor | None, sums: Tensor | None) -> None:
    tiles, partial = moments(x, own=False)
    launch(
        statistics_kernel, (triton.cdiv(tiles.channels, LINE),), partial, mean, var, sums, tiles.groups, tiles.channels,
        tiles.pixels, tiles.per, tiles.splits, partial[0].numel(), float(tiles.samples * tiles.pixels), warps=WARPS, LINE=LINE,
    )  # fmt: skip


def _constants(x: Tensor, tiles: Tiles, act: str, up: bool) -> dict:
    width = x.shape[3] if up and not tiles.last else 0
    return {"ACT": act, "UP": up, "WIDTH": width, **tiles.constants()}


def _width(x: Tensor) -> int:
    return x.shape[3] if x.dim() == 4 else 1


def _strides(gain: Tensor | None, bias: Tensor | None) -> tuple[int, int]:
    return sample_stride(gain), sample_stride(bias)


def launch_channel_sums(x: Tensor) -> Tensor:
    sums = torch.empty(3, x.shape[1], dtype=torch.float64, device=x.device)
    _launch_statistics(dense_rows(x), None, None, sums)
    return sums


def launch_given(x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool) -> Tensor:
    x = dense_rows(x)
    gain, bias, mean, var = contiguous(gain, bias, mean, var)
    y = empty_output(x, upsample)
    tiles = tiles_for_elements(x, per_sample(gain, bias), upsample)
    numbers = (*tiles.geometry(), _width(x), tiles.per, tiles.splits, *_strides(gain, bias), eps, slope)
    options = _constants(x, tiles, act, upsample)
    launch(normalise_kernel, (tiles.programs,), x, mean, var, gain, bias, y, *numbers, warps=WARPS, **options)
    return y


def launch_computed(x, gain, bias, eps: float, act: str, slope: float, upsample: bool) -> tuple[Tensor, Tensor, Tensor]:
    x = dense_rows(x)
    mean, var = (torch.empty(x.shape[1], dtype=accumulator(x.dtype), device=x.device) for _ in range(2))
    _launch_statistics(x, mean, var, None)
    return launch_given(x, gain, bias, mean, var, eps, act, slope, upsample), mean, var


def launch_backward_sums(dy, x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool) -> list[Tensor]:
    x = dense_rows(x)
    dy = dy.contiguous(memory_format=memory_format(x))
    gain, bias, mean, var = contiguous(gain, bias, mean, var)
    pool = torch.empty_like(x) if upsample else None
    own = per_sample(gain, bias)
    tiles = tiles_for_sums(x, own, upsample)
    partial = torch.empty(2, tiles.groups, tiles.channels, dtype=mean.dtype, device=x.device)
    slots = partial[0].numel()
    numbers = (*tiles.geometry(), _width(x), tiles.per, tiles.splits, slots, *_strides(gain, bias), eps, slope)
    options = _constants(x, tiles, act, upsample)
    tensors = (dy, x, mean, var, gain, bias, partial, pool)
    launch(sums_kernel, (tiles.programs,), *tensors, *numbers, warps=WARPS, **options)
    own_gain, own_bias = sample_stride(gain) > 0, sample_stride(bias) > 0
    to_gain = torch.empty(x.shape[:2] if own_gain else x.shape[1:2], dtype=mean.dtype, device=x.device)
    to_bias = torch.empty(x.shape[:2] if own_bias else x.shape[1:2], dtype=mean.dtype, device=x.device)
    totals = torch.empty(2, x.shape[1], dtype=mean.dtype, device=x.device)
    # Where nothing is a sample's own, every group may pass for a sample.
    samples, splits = (tiles.samples, tiles.splits) if own else (tiles.groups, 1)
    launch(
        totals_kernel, (triton.cdiv(tiles.channels, LINE),), partial, gain, to_gain, to_bias, totals, samples, tiles.channels,
        splits, slots, sample_stride(gain), warps=WARPS, OWN_GAIN=own_gain, OWN_BIAS=own_bias, LINE=LINE,
    )  # fmt: skip
    return [to_gain, to_bias, totals, *([pool] if upsample else [])]


def launch_input_gradient(dy, x, gain, bias, mean, var, means, eps: float, act: str, slope: float, upsample: bool) -> Tensor:
    x = dense_rows(x)
    if upsample and dy.shape == x.shape:  # pooled and through the activation already
        act, upsample = "none", False
    return _launch_gradient(dy, x, gain, bias, mean, var, means, torch.empty_like(x), eps, act, slope, upsample, 1.0)


def _launch_gradient(dy, x, gain, bias, mean, var, totals, dx, eps, act, slope, upsample, scale: float) -> Tensor:
    dy = dy.contiguous(memory_format=memory_format(x))
    gain, bias, mean, var, totals = contiguous(gain, bias, mean, var, totals)
    tiles = tiles_for_elements(x, per_sample(gain, bias), upsample)
    numbers = (*tiles.geometry(), _width(x), tiles.per, tiles.splits, *_strides(gain, bias), eps, slope, scale)
    options = _constants(x, tiles, act, upsample)
    launch(gradient_kernel, (tiles.programs,), dy, x, mean, var, gain, bias, totals, dx, *numbers, warps=WARPS, **options)
    return dx


def launch_backward(
    dy, x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool, computed: bool, wanted: list[bool]
) -> list[Tensor]:
    x, (to_x, to_gain, to_bias) = dense_rows(x), wanted
    settings = (eps, act, slope, upsample)
    if not (computed or to_gain or to_bias):
        return [_launch_gradient(dy, x, gain, bias, mean, var, None, torch.empty_like(x), *settings, 1.0)]
    for_gain, for_bias, totals, *pool = launch_backward_sums(dy, x, gain, bias, mean, var, *settings)
    gradients = []
    if to_x:
        if pool:  # dx takes the place of what it is made from
            dy, dx, settings = pool[0], pool[0], (eps, "none", slope, False)
        else:
            dx = torch.empty_like(x)
        scale = x.shape[1] / max(x.numel(), 1)
        gradients.append(_launch_gradient(dy, x, gain, bias, mean, var, totals if computed else None, dx, *settings, scale))
    gradients += [for_gain.to(gain.dtype)] if to_gain else []
    return gradients + ([for_bias.to(bias.dtype)] if to_bias else [])
