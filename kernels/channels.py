"""What belongs to channels, or to each sample's channels: gains, biases, moments; and how programs share the maps they are of.

A program has a tile of ROWS x COLS numbers at a time, and goes along `per` pixels with it. Channels last (LAST) its columns
are channels and its rows pixels of one sample, or of all where nothing is a sample's own. Else its rows are planes, each
one channel of one sample, and its columns pixels. What belongs to a channel is loaded as a vector of columns, or of rows:
as part of a tile each thread would load it once for each number it has.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .layout import is_channels_last
from .reduction import WARPS, accumulator

LINE = 32
"""Channels of a channels-last tile, and groups of a finishing one."""
_TILE = 1024  # numbers that a program holds at a time


# --- Gains and biases ------------------------------------------------------------------------------------------------------


def check_parameters(x: Tensor, gain: Tensor | None, bias: Tensor | None) -> None:
    """Refuse gains and biases that are not floating-point (C,) or (B, C) on the device of x (B, C, ...).

    Raises:
        ValueError: another shape, type or device.
    """
    for name, parameter in (("gain", gain), ("bias", bias)):
        if parameter is None:
            continue
        if (
            parameter.shape not in (x.shape[1:2], x.shape[:2])
            or not parameter.is_floating_point()
            or parameter.device != x.device
        ):
            raise ValueError(
                f"{name} must be floating-point {tuple(x.shape[1:2])} or {tuple(x.shape[:2])} on {x.device}, not "
                f"{parameter.dtype} {tuple(parameter.shape)} on {parameter.device}"
            )


def per_sample(*parameters: Tensor | None) -> bool:
    """Whether one of them is (B, C): each sample's own."""
    return any(parameter is not None and parameter.dim() == 2 for parameter in parameters)


def sample_stride(parameter: Tensor | None) -> int:
    """How far one sample's numbers lie from the next one's in a contiguous (B, C); 0 where all share (C,), and for None."""
    return parameter.shape[1] if parameter is not None and parameter.dim() == 2 else 0


def contiguous(*parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    """Each without gaps in memory, as kernels read them; None stays."""
    return tuple(parameter if parameter is None else parameter.contiguous() for parameter in parameters)


def over_pixels(parameter: Tensor, x: Tensor) -> Tensor:
    """(C,) or (B, C) as it broadcasts over x, (B, C, H, W) or (B, C)."""
    return parameter.reshape(*parameter.shape, *[1] * (x.dim() - 2))


# --- For kernels -----------------------------------------------------------------------------------------------------------


@triton.jit
def place(program, planes, channels, pixels, splits, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Its channels, samples, part of the pixels, offset of its first number, which channels exist, where its sums go."""
    if LAST:
        blocks = tl.cdiv(channels, COLS)
        group = program // blocks
        first = program % blocks * COLS
        channel = first + tl.arange(0, COLS)
        sample, split, base = group // splits, group % splits, group // splits * pixels * channels + first
        return channel, sample, split, base, channel < channels, group * channels + channel
    else:
        block = program // splits
        split = program % splits
        plane = block * ROWS + tl.arange(0, ROWS)
        sample, channel = plane // channels, plane % channels
        return channel, sample, split, block * ROWS * pixels, plane < planes, (sample * splits + split) * channels + channel


@triton.jit
def over_tile(vector, LAST: tl.constexpr):
    if LAST:
        return vector[None, :]
    else:
        return vector[:, None]


@triton.jit
def tile(base, at, end, inside, channels, pixels, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Offsets of the numbers from pixel `at` on, and which of them exist."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLS)[None, :]
    if LAST:
        wide = tl.full((), 1, tl.int64) * channels
        return base + at * wide + (row * channels + column), (at + row < end) & inside[None, :]
    else:
        return base + at + (row * pixels + column), (at + column < end) & inside[:, None]


@triton.jit
def of_channel(ptr, channel, inside, other: tl.constexpr, LAST: tl.constexpr, REAL: tl.constexpr):
    return over_tile(tl.load(ptr + channel, mask=inside, other=other).to(REAL), LAST)


@triton.jit
def of_sample(ptr, stride, channel, sample, inside, other: tl.constexpr, LAST: tl.constexpr, REAL: tl.constexpr):
    """A gain or bias; `stride` is 0 where all samples share it."""
    if ptr is None:
        return over_tile(tl.full(channel.shape, other, REAL), LAST)
    else:
        return over_tile(tl.load(ptr + sample * stride + channel, mask=inside, other=other).to(REAL), LAST)


@triton.jit
def moments_kernel(
    x_ptr, partial_ptr, planes, channels, pixels, per, splits, slots, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    _, _, split, base, inside, slot = place(tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS)
    first = base + split * per * (channels if LAST else 1) + tl.arange(0, COLS if LAST else ROWS) * (1 if LAST else pixels)
    shift = tl.load(x_ptr + first, mask=inside & (split * per < pixels), other=0.0).to(REAL)
    mean = tl.zeros((ROWS, COLS), REAL)
    squares = tl.zeros((ROWS, COLS), REAL)  # of deviations from the lane's own mean
    count = tl.zeros((ROWS, COLS), REAL)
    sweep = tl.full((), 0.0, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        x = tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL)
        sweep += 1.0
        away = tl.where(exists, x - over_tile(shift, LAST) - mean, 0.0)  # a lane has seen `sweep` numbers until it sees no more
        step = away * (1.0 / sweep)
        mean += step
        squares += away * (away - step)
        count += tl.where(exists, 1.0, 0.0)
    AXIS: tl.constexpr = 0 if LAST else 1
    middle = tl.sum(count * mean, AXIS) / tl.maximum(tl.sum(count, AXIS), 1.0)
    away = mean - over_tile(middle, LAST)
    tl.store(partial_ptr + slot, shift + middle, mask=inside)
    tl.store(partial_ptr + slots + slot, tl.sum(squares + count * away * away, AXIS), mask=inside)


# --- For launchers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """How programs share a dense tensor: see `place`."""

    last: bool
    rows: int
    columns: int
    samples: int  # that have parts of their own
    channels: int
    pixels: int  # of a sample
    per: int
    splits: int

    @property
    def planes(self) -> int:
        return self.samples * self.channels

    @property
    def programs(self) -> int:
        along = triton.cdiv(self.channels, self.columns) * self.samples if self.last else triton.cdiv(self.planes, self.rows)
        return along * self.splits

    @property
    def groups(self) -> int:
        """Partial sums of each channel."""
        return self.samples * self.splits

    def geometry(self) -> tuple[int, int, int]:
        return self.planes, self.channels, self.pixels

    def constants(self) -> dict:
        return {"LAST": self.last, "ROWS": self.rows, "COLS": self.columns}


def tiles_for_sums(x: Tensor, own: bool, up: bool = False) -> Tiles:
    """Of programs that add up what they go over, few, so that joining them is little work.

    Args:
        x: (B, C, H, W) or (B, C), dense.
        own: whether gains or biases are the samples' own.
        up: whether what stands beside x is upsampled.
    """
    return _tiles(x, own, up, programs=1024, sweeps=8)


def tiles_for_elements(x: Tensor, own: bool, up: bool = False) -> Tiles:
    """Of programs that write what they go over. Arguments as those of `tiles_for_sums`."""
    return _tiles(x, own, up, programs=4096, sweeps=4)


def _tiles(x: Tensor, own: bool, up: bool, programs: int, sweeps: int) -> Tiles:
    """As many as `programs` programs, but none with less than `sweeps` tiles for it."""
    batch, channels = x.shape[:2]
    pixels = math.prod(x.shape[2:])
    last = (pixels == 1 and not up) or is_channels_last(x)
    if last:
        samples, pixels = (batch, pixels) if own or not batch else (1, batch * pixels)
        rows, columns = _TILE // LINE, LINE
        blocks, step = samples * triton.cdiv(channels, columns), rows
    else:
        samples, columns = batch, next(size for size in (16, 64, 256, _TILE) if size >= min(pixels, _TILE))
        rows = _TILE // columns
        blocks, step = triton.cdiv(batch * channels, rows), columns
    splits = max(min(programs // max(blocks, 1), pixels // (step * sweeps)), 1)
    per = triton.cdiv(triton.cdiv(max(pixels, 1), splits), step) * step
    return Tiles(last, rows, columns, samples, channels, pixels, per, max(triton.cdiv(pixels, per), 1))


def moments(x: Tensor, own: bool) -> tuple[Tiles, Tensor]:
    """Launches `moments_kernel` over x, dense: its tiles, and (2, groups, C) means and sums of squared deviations from them."""
    tiles = tiles_for_sums(x, own)
    partial = torch.empty(2, tiles.groups, tiles.channels, dtype=accumulator(x.dtype), device=x.device)
    geometry = (*tiles.geometry(), tiles.per, tiles.splits, partial[0].numel())
    launch(moments_kernel, (tiles.programs,), x, partial, *geometry, warps=WARPS, **tiles.constants())
    return tiles, partial
