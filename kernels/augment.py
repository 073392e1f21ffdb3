"""Augmentation of images, every sample with its own parameters, composed into one pass. T is, in this order,

    flip          x[..., j] = x[..., W-1-j]                                             where `flip`
    brightness    x = x + b
    saturation    x = s (x - m) + m,     m of each pixel over its channels
    contrast      x = k (x - M) + M,     M of each image
    shift         x[i, j] = x[i - dy, j - dx],     from outside the frame: 0, or the frame's reflection
    cutout        x = f                                                                 in a rectangle

The order of colours, shift and cutout is that of Zhao et al., "Differentiable augmentation for data-efficient GAN training"
(NeurIPS 2020, section 3; its policy "color,translation,cutout"); the flip, which they leave to the data, comes first.
Flip and reflected shift alone are the T of consistency regularisation (Zhang et al., ICLR 2020; Zhao et al., "Improved
consistency regularization for GANs", AAAI 2021). Reflection does not repeat the edge, as torch's pad(mode="reflect") does not,
and goes on to and fro for ever, so that every shift is defined: p mod 2 (n - 1), and where that exceeds n - 1, back from it.

Brightness moves M of the input by b and saturation leaves it, so the colours together are one affine map of each pixel,

    x -> k s x + k (1 - s) m(x) + (1 - k) M(x) + b,

whose linear part A is symmetric. With S for flip and shift and K for what cutout and border keep, T(x) = K S (A x + b), plus f
where it cuts. Its gradient is A S^T K g, and the gradient of that is K S A: two operators, each the other's derivative, to any
order. S^T gathers too: a pixel was seen at two rows and two columns at most, whatever the shift.

Arithmetic is in float32 (float64 for float64); half precision is rounded once, when stored. Autocast changes nothing.

Bytes per element, e to the element (4 in float32); eager code is `augment_reference`, counted with its index tensors:

                                              kernels         eager (an operation of torch for each line above)
    flip and shift, forward / backward        2 e / 2 e       7.2 e / 14.0 e
    DiffAugment, forward / backward           3 e / 3 e       24.3 e / 31.6 e

Kernels write 16 bytes a thread. They read as much where nothing moves; where a sample may be shifted or flipped its addresses
are aligned to a number alone, so that each thread reads number by number, but neighbours side by side: a warp's loads cover a
run of memory (backwards, if flipped) and fetch its sectors whole, once, the first from memory and the rest from L1. With
contrast a sum of the image (of the gradient that is kept) comes first, in wide loads: one more read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .layout import dense_rows, is_channels_last
from .operation import Example, Operation
from .operator import operator
from .philox import uniform
from .reduction import accumulator

BORDERS = ("zero", "reflect")

TILE = 2048  # numbers of a program, 16 a thread: two to four 16-byte vectors
WARPS = 4
MAX_LINE = 512  # of a row's numbers in a program
MAX_MIXED = 8  # channels, where saturation mixes them; more go the way of the CPU on any device
PARTS = 64  # of the sum over an image: every program of that image adds them up itself


def _check_border(border: str) -> None:
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, not {border!r}")


@dataclass(frozen=True, eq=False)
class Transforms:
    """What `augment` does to each sample of a batch. What is None is not done, and costs nothing.

    The same Transforms for two tensors is the same T for both (balanced consistency regularisation needs that).
    """

    flip: Tensor | None = None
    """bool (B,): left and right exchanged."""
    shift: Tensor | None = None
    """int32 or int64 (B, 2): rows down, columns to the right; any number."""
    cutout: Tensor | None = None
    """int32 or int64 (B, 4): top, left, height, width in pixels of the output, below 2**30; may reach over the frame."""
    brightness: Tensor | None = None
    """floating point (B,): what is added."""
    saturation: Tensor | None = None
    """floating point (B,): factor of a pixel's distance to its mean over channels; 1 changes nothing."""
    contrast: Tensor | None = None
    """floating point (B,): factor of the distance to the image's mean; 1 changes nothing."""


@dataclass(frozen=True)
class Policy:
    """What `draw_transforms` draws from. What is left at its default is not drawn: its field in Transforms is None.

    Raises:
        ValueError: a probability outside [0, 1], a negative fraction, an empty range, an unknown border, a fill that isn't
            finite.
    """

    flip: float = 0.0
    """Probability of a flip."""
    shift: float = 0.0
    """Largest shift each way, as a fraction of the side; all whole shifts up to it are equally likely."""
    border: str = "zero"
    """What a shift brings in: `augment`'s border. Kept here for who calls both."""
    cutout: float = 0.0
    """Side of the rectangle as a fraction of the image's. Its centre lies anywhere in the image."""
    fill: float = 0.0
    """What the rectangle is filled with: `augment`'s fill. Kept here as border is."""
    brightness: tuple[float, float] | None = None
    saturation: tuple[float, float] | None = None
    contrast: tuple[float, float] | None = None
    """Uniform on (low, high)."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability, between 0 and 1, not {self.flip}")
        for name in ("shift", "cutout"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a fraction of the side, at least 0, not {getattr(self, name)}")
        for name in ("brightness", "saturation", "contrast"):
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] <= bounds[1]:
                raise ValueError(f"{name} is drawn from (low, high) with low <= high, not {bounds}")
        _check_border(self.border)
        if not math.isfinite(self.fill):
            raise ValueError(f"fill must be finite, not {self.fill}")


CONSISTENCY = Policy(flip=0.5, shift=1 / 8, border="reflect")
"""T of CR, bCR and ICR."""

DIFFAUGMENT = Policy(shift=1 / 8, cutout=1 / 2, brightness=(-0.5, 0.5), saturation=(0.0, 2.0), contrast=(0.5, 1.5))
"""Differentiable augmentation's "color,translation,cutout"."""

_NUMBERS = 14
"""Uniform numbers a sample takes, whatever the policy: adding a transform leaves the others as they were."""


def draw_transforms(
    policy: Policy,
    rows: Tensor,
    size: tuple[int, int],
    *,
    seed: int,
    purpose: str,
    step: int = 0,
    probability: float | Tensor = 1.0,
) -> Transforms:
    """Draws each sample's parameters from its own counter-based numbers, which no splitting of the batch changes.

    Args:
        policy: what is drawn, and from where.
        rows: int64 (B,), the samples' global indices; on the images' device.
        size: height and width of the images.
        seed, purpose, step: as for `philox.uniform`.
        probability: with which each transform, on its own, is done to a sample at all: a number or a tensor () or (B,) on
            the device of `rows` (adaptive augmentation moves it; the host need not know it). What is not done to a sample has
            the parameter that changes nothing.

    Returns:
        Transforms on the device of `rows`. Nothing waits for the device.
    """
    return _transforms(policy, uniform(seed, purpose, rows, _NUMBERS, step), size, probability)


def _transforms(policy: Policy, numbers: Tensor, size: tuple[int, int], probability: float | Tensor = 1.0) -> Transforms:
    u = numbers.unbind(1)

    def whole(number: Tensor, count: int) -> Tensor:  # 0 .. count - 1, equally likely; the product may round up to count
        return (number * count).floor_().clamp_(max=count - 1).to(torch.int32)

    def done(gate: int, parameter: Tensor, otherwise: float) -> Tensor:
        gates = u[gate] < probability
        return torch.where(gates.view(-1, *[1] * (parameter.dim() - 1)), parameter, otherwise)

    def between(gate: int, bounds: tuple[float, float] | None, otherwise: float) -> Tensor | None:
        return None if bounds is None else done(gate, u[gate + 1] * (bounds[1] - bounds[0]) + bounds[0], otherwise)

    flip = shift = cutout = None
    if policy.flip:
        flip = (u[0] < probability) & (u[1] < policy.flip)
    if policy.shift:
        reach = [_part(policy.shift, side) for side in size]
        shift = done(2, torch.stack([whole(u[3 + axis], 2 * most + 1) - most for axis, most in enumerate(reach)], dim=1), 0)
    if policy.cutout:
        cut = [_part(policy.cutout, side) for side in size]
        # As published: an even cut's centre is a corner between pixels, of which there is one more.
        corner = [whole(u[6 + axis], size[axis] + 1 - cut[axis] % 2) - cut[axis] // 2 for axis in range(2)]
        cutout = done(5, torch.stack([*corner, *(torch.full_like(corner[0], side) for side in cut)], dim=1), 0)
    return Transforms(
        flip=flip,
        shift=shift,
        cutout=cutout,
        brightness=between(8, policy.brightness, 0.0),
        saturation=between(10, policy.saturation, 1.0),
        contrast=between(12, policy.contrast, 1.0),
    )


def _part(fraction: float, side: int) -> int:
    return int(fraction * side + 0.5)


def augment(x: Tensor, transforms: Transforms, border: str = "zero", fill: float = 0.0) -> Tensor:
    """Flips, shifts, cuts and colours each image as `transforms` says, in one read and one write (contrast: one more read).

    Args:
        x: floating point (B, C, H, W) of any layout, images in [-1, 1]. The result isn't clamped to that.
        transforms: for B samples, on x's device. Parameters are constants: they get no gradient.
        border: what a shift brings in, "zero" or "reflect" (without repeating the edge; a shift beyond the side goes to and
            fro; with one pixel there is nothing else to bring in than that).
        fill: what cut-out rectangles are filled with; 0 is mid-grey. Finite in x's type.

    Returns:
        Of x's shape and type; contiguous or channels last as x, contiguous where x is neither. Differentiable to any order
        towards x. x itself where there is nothing to do.

    Raises:
        ValueError: an x that isn't images, a parameter of another shape, type or device, an unknown border, a fill that
            isn't finite.
    """
    _check_border(border)
    if x.dim() != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError(f"augment takes floating-point images (B, C, H, W) of a pixel or more, not {x.dtype} {tuple(x.shape)}")
    if not abs(fill) <= torch.finfo(x.dtype).max:
        raise ValueError(f"fill must be finite in {x.dtype}, not {fill}")
    parameters = {name: _checked(x, name, getattr(transforms, name)) for name in _PARAMETERS}
    if x.shape[1] == 1:
        parameters["saturation"] = None  # one channel is its own mean
    return x if all(value is None for value in parameters.values()) else _augment(x, **parameters, border=border, fill=fill)


_REAL, _WHOLE = (torch.float32, torch.float64, torch.float16, torch.bfloat16), (torch.int32, torch.int64)
_PARAMETERS = {
    "flip": ((), (torch.bool,)),
    "shift": ((2,), _WHOLE),
    "cutout": ((4,), _WHOLE),
    "brightness": ((), _REAL),
    "saturation": ((), _REAL),
    "contrast": ((), _REAL),
}
"""Shape, after (B,), and types of each field of Transforms, in the operators' order."""


def _checked(x: Tensor, name: str, value: Tensor | None) -> Tensor | None:
    if value is None:
        return None
    shape, dtypes = (len(x), *_PARAMETERS[name][0]), _PARAMETERS[name][1]
    if value.shape != shape or value.dtype not in dtypes or value.device != x.device:
        kind = {_REAL: "floating point", _WHOLE: "int32 or int64"}.get(dtypes, "bool")
        raise ValueError(
            f"{name} must be {kind} {tuple(shape)} on {x.device}, not {value.dtype} {tuple(value.shape)} on {value.device}"
        )
    return value.detach().contiguous()


def augment_reference(x: Tensor, transforms: Transforms, border: str = "zero", fill: float = 0.0) -> Tensor:
    """`augment` as it is usually written, without its checks: an operation of torch for each transform, in x's precision."""
    device, (height, width) = x.device, x.shape[2:]
    t = transforms

    def each(parameter: Tensor) -> Tensor:
        return parameter.to(x.dtype)[:, None, None, None]

    if t.flip is not None:
        x = torch.where(t.flip[:, None, None, None], x.flip(3), x)
    if t.brightness is not None:
        x = x + each(t.brightness)
    if t.saturation is not None:
        mean = x.mean(dim=1, keepdim=True)
        x = (x - mean) * each(t.saturation) + mean
    if t.contrast is not None:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = (x - mean) * each(t.contrast) + mean
    if t.shift is not None:
        rows = torch.arange(height, device=device) - t.shift[:, :1]
        columns = torch.arange(width, device=device) - t.shift[:, 1:]
        if border == "reflect":
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        else:
            x = torch.nn.functional.pad(x, (1, 1, 1, 1))
            rows, columns = (rows + 1).clamp(0, height + 1), (columns + 1).clamp(0, width + 1)
        samples = torch.arange(len(x), device=device)[:, None, None]
        x = x.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if t.cutout is not None:
        top, left, high, wide = t.cutout[:, :, None].unbind(1)
        row, column = torch.arange(height, device=device), torch.arange(width, device=device)
        cut = ((row >= top) & (row < top + high))[:, :, None] & ((column >= left) & (column < left + wide))[:, None, :]
        x = x * (~cut)[:, None].to(x.dtype)
        if fill:
            x = x + fill * cut[:, None].to(x.dtype)
    return x


def _reflected(position: Tensor, size: int) -> Tensor:
    period = max(2 * (size - 1), 1)
    position = position.remainder(period)
    return torch.where(position < size, position, period - position)


def _augment_cpu(
    x: Tensor,
    flip: Tensor | None,
    shift: Tensor | None,
    cutout: Tensor | None,
    brightness: Tensor | None,
    saturation: Tensor | None,
    contrast: Tensor | None,
    border: str,
    fill: float,
) -> Tensor:
    """Operations that run at the speed of memory in both layouts: whole rows of it are chosen, then numbers within a row.
    What they write is written over where it can be: fresh pages cost as much as the arithmetic."""
    x = dense_rows(x)
    lines = _lines(x, mixed=saturation is not None)
    lines = _coloured(lines, x, brightness, saturation, contrast)
    rows, columns = _sources(lines, x.shape, flip, shift, border)
    spare = None if _same(lines, x) else lines
    if rows is not None:
        lines = lines.view(-1, lines.shape[3]).index_select(0, rows).view(lines.shape)
    if columns is not None:
        lines = torch.gather(lines, 3, columns.expand(lines.shape), out=spare if rows is not None else None)
    lines = _kept(lines, x, shift if border == "zero" else None, cutout)
    if cutout is not None and fill:
        lines = _filled(lines, x, cutout, fill)
    return _like(lines, x)


def _augment_backward_cpu(
    upstream: Tensor,
    flip: Tensor | None,
    shift: Tensor | None,
    cutout: Tensor | None,
    saturation: Tensor | None,
    contrast: Tensor | None,
    border: str,
) -> Tensor:
    """Each step of `_augment_cpu` transposed, in reverse order. At most two addends meet in a place: any order has one sum."""
    upstream = dense_rows(upstream)
    lines = _lines(upstream, mixed=saturation is not None)
    lines = _kept(lines, upstream, shift if border == "zero" else None, cutout)
    rows, columns = _sources(lines, upstream.shape, flip, shift, border)
    if columns is not None:
        moved = torch.zeros_like(lines).scatter_add_(3, columns.expand(lines.shape), lines)
        lines, spare = moved, lines
    if rows is not None:  # then columns were moved too
        target = torch.zeros_like(lines) if _same(spare, upstream) else spare.zero_()
        target.view(-1, lines.shape[3]).index_add_(0, rows, lines.view(-1, lines.shape[3]))
        lines = target
    lines = _coloured(lines, upstream, None, saturation, contrast)
    return _like(lines, upstream)


def _same(lines: Tensor, x: Tensor) -> bool:
    """Whether the rows are x's own memory, which must not be written."""
    return lines.data_ptr() == x.data_ptr()


def _lines(x: Tensor, mixed: bool) -> Tensor:
    """x in the precision of its arithmetic, as its memory lies: (B, planes, H, length) with (B, C, H, W), or (B, 1, H, W * C)
    channels last. Where channels are mixed they are taken apart into planes: operations along three numbers take ten times as
    long as between planes, and the two copies cost less."""
    real = x.to(accumulator(x.dtype))  # a copy that changes both type and order is slower than two
    if is_channels_last(x) and not mixed:
        return real.permute(0, 2, 3, 1).flatten(2)[:, None]
    return real.contiguous()


def _like(lines: Tensor, x: Tensor) -> Tensor:
    """Results of `_lines` as a tensor like x."""
    if is_channels_last(x) and lines.shape == x.shape:
        return lines.contiguous(memory_format=torch.channels_last).to(x.dtype)
    return lines.to(x.dtype).as_strided(x.shape, x.stride())


def _coloured(
    lines: Tensor, x: Tensor, brightness: Tensor | None, saturation: Tensor | None, contrast: Tensor | None
) -> Tensor:
    """k s x + k (1 - s) m(x) + (1 - k) M(x) + b, in the rows of x or, where they are a copy, in place."""
    if brightness is None and saturation is None and contrast is None:
        return lines
    target = None if _same(lines, x) else lines
    factor, offset = lines.new_ones(len(x)), lines.new_zeros(len(x))
    if contrast is not None:
        factor = contrast.to(lines.dtype)
        offset = (1 - factor) * lines.flatten(1).mean(1)
    if brightness is not None:
        offset = offset + brightness
    if saturation is None:
        return torch.mul(lines, factor[:, None, None, None], out=target).add_(offset[:, None, None, None])
    first, second, *others = lines.unbind(1)  # planes, and not one alone
    mean = first + second
    for channel in others:
        mean += channel
    mean = mean.mul_(((1 - saturation) * factor / x.shape[1])[:, None, None]).add_(offset[:, None, None])
    return torch.mul(lines, (saturation * factor)[:, None, None, None], out=target).add_(mean[:, None])


def _sources(
    lines: Tensor, shape: Sequence[int], flip: Tensor | None, shift: Tensor | None, border: str
) -> tuple[Tensor | None, Tensor | None]:
    """Where each row of all (N,), and each number of a row (B, 1, 1, length), comes from; None where they stay. What comes from
    outside the frame has some index inside."""
    batch, _, height, width = shape
    planes, inner = lines.shape[1], lines.shape[3] // width
    rows = columns = None
    column = torch.arange(width, device=lines.device)
    if shift is not None:
        row, column = torch.arange(height, device=lines.device) - shift[:, :1], column - shift[:, 1:]
        if border == "reflect":
            row, column = _reflected(row, height), _reflected(column, width)
        else:
            row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
        plane = torch.arange(batch * planes, device=lines.device).view(batch, planes, 1)
        rows = (plane * height + row[:, None, :]).view(-1)
    if flip is not None:
        column = torch.where(flip[:, None], width - 1 - column, column)
    if flip is not None or shift is not None:
        if inner > 1:
            column = (column[:, :, None] * inner + torch.arange(inner, device=lines.device)).flatten(1)
        columns = column[:, None, None, :]
    return rows, columns


def _kept(lines: Tensor, x: Tensor, shift: Tensor | None, cutout: Tensor | None) -> Tensor:
    """The rows of x, in place where they are a copy, with 0 in the cut-out rectangles and where `shift` brings in the border.
    Bits are masked: as fast as a product, and what is cut out is 0 even where it was NaN."""
    if shift is None and cutout is None:
        return lines
    bits = torch.int64 if lines.dtype == torch.float64 else torch.int32
    batch, _, height, length = lines.shape
    width = x.shape[3]
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    seen = left = torch.ones((batch, width), dtype=torch.bool, device=x.device)
    pattern = torch.full(
        (batch, height), 2, device=x.device
    )  # of a row: 0 outside the frame, 1 across the rectangle, 2 neither
    if cutout is not None:
        top, start, high, wide = cutout[:, :, None].unbind(1)
        pattern -= ((row >= top) & (row < top + high)).to(pattern.dtype)
        left = (column < start) | (column >= start + wide)
    if shift is not None:
        down, right = shift[:, :1], shift[:, 1:]
        pattern *= (row >= down) & (row < height + down)
        seen = (column >= right) & (column < width + right)
    pattern += 3 * torch.arange(batch, device=x.device)[:, None]
    patterns = torch.stack((torch.zeros_like(seen), left & seen, seen), dim=1).to(bits).neg_()
    patterns = patterns[..., None].expand(-1, -1, -1, length // width).reshape(3 * batch, length)
    mask = patterns.index_select(0, pattern.view(-1)).view(batch, 1, height, length)
    raw = lines.view(bits)
    return torch.bitwise_and(raw, mask, out=None if _same(lines, x) else raw).view(lines.dtype)


def _filled(lines: Tensor, x: Tensor, cutout: Tensor, fill: float) -> Tensor:
    """The rows of x, in place, with `fill` in the cut-out rectangles: `_kept` has copied what it cut."""
    height, length = lines.shape[2:]
    top, left, high, wide = cutout[:, :, None].unbind(1)
    row, number = torch.arange(height, device=x.device), torch.arange(length, device=x.device)
    column = number // (length // x.shape[3])
    rows, columns = (row >= top) & (row < top + high), (column >= left) & (column < left + wide)
    cut = rows[:, None, :, None] & columns[:, None, None, :]
    return lines.masked_fill_(cut, fill)


@triton.jit
def _turn(shift_ptr, axis, sample, size, REFLECT: tl.constexpr):
    """A sample's shift along an axis, brought to between 0 and the period of the reflections, or to just out of sight."""
    shift = tl.load(shift_ptr + 2 * sample + axis).to(tl.int64)
    if REFLECT:
        period = tl.maximum(2 * (size - 1), 1).to(tl.int64)
        shift = (shift % period + period) % period
    else:
        shift = tl.minimum(tl.maximum(shift, -size), size)
    return shift.to(tl.int32)


@triton.jit
def _source(position, shift, size, REFLECT: tl.constexpr):
    """Where what comes to lie at `position` was, always inside, and whether it was in the frame."""
    at = position - shift
    if REFLECT:
        period = tl.maximum(2 * (size - 1), 1)
        at = tl.where(at < 0, at + period, at)
        at = tl.where(at < size, at, period - at)
        seen = position < size
    else:
        seen = (at >= 0) & (at < size)
    return tl.minimum(tl.maximum(at, 0), size - 1), seen


@triton.jit
def _target(position, shift, size, REFLECT: tl.constexpr):
    """Where what was at `position` comes to lie, inside, and whether it does."""
    at = position + shift
    if REFLECT:
        period = tl.maximum(2 * (size - 1), 1)
        at = tl.where(at >= period, at - period, at)
    seen = (at >= 0) & (at < size) & (position < size)
    return tl.minimum(tl.maximum(at, 0), size - 1), seen


@triton.jit
def _mirrored_target(position, shift, size):
    """Where the reflection of what was at `position` comes to lie, inside, and whether it does: edges are not repeated."""
    at = shift - position
    at = tl.where(at < 0, at + 2 * (size - 1), at)
    seen = (at >= 0) & (at < size) & (position > 0) & (position < size - 1)
    return tl.minimum(tl.maximum(at, 0), size - 1), seen


@triton.jit
def _within(position, cutout_ptr, axis, sample):
    """Whether a row (axis 0) or a column (1) meets the sample's rectangle."""
    start = tl.load(cutout_ptr + 4 * sample + axis).to(tl.int32)
    size = tl.load(cutout_ptr + 4 * sample + 2 + axis).to(tl.int32)
    return (position >= start) & (position < start + size)


@triton.jit
def _tile(
    planes, height, width,
    INNER: tl.constexpr, PLANES: tl.constexpr, ROWS: tl.constexpr, LINE: tl.constexpr, GROUP: tl.constexpr, USED: tl.constexpr,
):  # fmt: skip
    """The program's part of the images: its sample, rows, and numbers of a row; which (planes, rows, numbers) are inside; where
    the planes start."""
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LINE)
    span = LINE // GROUP * USED
    length = width * INNER
    blocks, tiles, groups = tl.cdiv(length, span), tl.cdiv(height, ROWS), tl.cdiv(planes, PLANES)
    at = lane
    if GROUP != USED:
        at = lane // GROUP * USED + lane % GROUP
    at += (program % blocks).to(tl.int32) * span
    row = (program // blocks % tiles).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    plane = (program // blocks // tiles % groups) * PLANES + tl.arange(0, PLANES)
    sample = program // blocks // tiles // groups
    inside = (plane < planes)[:, None, None] & (row < height)[None, :, None] & (at < length)[None, None, :]
    if GROUP != USED:
        inside &= (lane % GROUP < USED)[None, None, :]
    start = (sample * planes + plane)[:, None, None] * height * length
    return sample, row, at, inside, start


@triton.jit
def _colour(
    values, sample, brightness_ptr, saturation_ptr, contrast_ptr, partial_ptr, parts, planes, numbers,
    INNER: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """k s x + k (1 - s) m(x) + (1 - k) M(x) + b of whole pixels in a tile (planes, rows, numbers of a row)."""
    REAL: tl.constexpr = values.dtype
    if saturation_ptr is not None:
        saturation = tl.load(saturation_ptr + sample).to(REAL)
        if INNER > 1:
            # Groups of pixels that begin and end with a vector of 16 bytes, no wider than a warp: a shuffle for each number.
            groups = tl.reshape(values, (values.numel // GROUP, GROUP))
            first = tl.arange(0, GROUP) // INNER * INNER
            mean = tl.zeros_like(groups)
            for channel in tl.static_range(INNER):
                index = tl.minimum(first + channel, GROUP - 1)
                mean += tl.gather(groups, tl.broadcast_to(index[None, :], groups.shape), 1)
            mean = tl.reshape(mean / INNER, values.shape)
        else:
            mean = (tl.sum(values, 0) / planes)[None, :, :]
        values = saturation * values + (1 - saturation) * mean
    if contrast_ptr is not None:
        contrast = tl.load(contrast_ptr + sample).to(REAL)
        part = tl.arange(0, PARTS)
        total = tl.sum(tl.load(partial_ptr + sample * parts + part, mask=part < parts, other=0.0), 0)
        values = contrast * values + (1 - contrast) * (total / numbers)
    if brightness_ptr is not None:
        values += tl.load(brightness_ptr + sample).to(REAL)
    return values


@triton.jit
def sum_kernel(
    x_ptr, partial_ptr, shift_ptr, cutout_ptr, planes, height, width, parts,
    INNER: tl.constexpr, ROWS: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Sums over the parts of each image, of what lies outside the rectangle and was (with a shift) inside the frame."""
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    sample, part = program // parts, (program % parts).to(tl.int32)
    length = width * INNER
    if shift_ptr is not None:
        down, right = _turn(shift_ptr, 0, sample, height, False), _turn(shift_ptr, 1, sample, width, False)
    sums = tl.zeros((ROWS, LINE), REAL)
    for first in range(0, length, LINE):
        at = first + tl.arange(0, LINE)
        column = at // INNER
        for sweep in range(0, tl.cdiv(planes * height, parts * ROWS)):
            line = (sweep * parts + part) * ROWS + tl.arange(0, ROWS)
            row = line % height
            x = tl.load(
                x_ptr + (sample * planes * height + line)[:, None] * length + at[None, :],
                mask=(line < planes * height)[:, None] & (at < length)[None, :],
                other=0.0,
            ).to(REAL)
            if shift_ptr is not None:
                lit, column_lit = _source(row, down, height, False)[1], _source(column, right, width, False)[1]
                x = tl.where(lit[:, None] & column_lit[None, :], x, 0.0)
            if cutout_ptr is not None:
                cut = _within(row, cutout_ptr, 0, sample)[:, None] & _within(column, cutout_ptr, 1, sample)[None, :]
                x = tl.where(cut, 0.0, x)
            sums += x
    tl.store(partial_ptr + program, tl.sum(sums))


@triton.jit
def augment_kernel(
    x_ptr, out_ptr, flip_ptr, shift_ptr, cutout_ptr, brightness_ptr, saturation_ptr, contrast_ptr, partial_ptr,
    planes, height, width, parts, numbers, fill: tl.float64,
    REFLECT: tl.constexpr, INNER: tl.constexpr, PLANES: tl.constexpr, ROWS: tl.constexpr, LINE: tl.constexpr,
    GROUP: tl.constexpr, USED: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    sample, row, at, inside, start = _tile(planes, height, width, INNER, PLANES, ROWS, LINE, GROUP, USED)
    length = width * INNER
    column = at // INNER
    source, column_source, origin, seen = row, column, at, inside
    if shift_ptr is not None:
        source, lit = _source(row, _turn(shift_ptr, 0, sample, height, REFLECT), height, REFLECT)
        column_source, column_lit = _source(column, _turn(shift_ptr, 1, sample, width, REFLECT), width, REFLECT)
        seen = inside & lit[None, :, None] & column_lit[None, None, :]
    if flip_ptr is not None:
        column_source = tl.where(tl.load(flip_ptr + sample), width - 1 - column_source, column_source)
    if flip_ptr is not None or shift_ptr is not None:
        origin = column_source * INNER + at % INNER
    x = tl.load(
        x_ptr + (start + source[None, :, None].to(tl.int64) * length) + origin[None, None, :], mask=seen, other=0.0
    ).to(REAL)  # fmt: skip
    x = _colour(
        x, sample, brightness_ptr, saturation_ptr, contrast_ptr, partial_ptr, parts, planes, numbers, INNER, GROUP, PARTS
    )
    if shift_ptr is not None and not REFLECT:
        x = tl.where(seen, x, 0.0)
    if cutout_ptr is not None:
        cut = _within(row, cutout_ptr, 0, sample)[:, None] & _within(column, cutout_ptr, 1, sample)[None, :]
        x = tl.where(cut[None, :, :], tl.full((1, 1, 1), fill, REAL), x)
    out = out_ptr + (start + row[None, :, None].to(tl.int64) * length) + at[None, None, :]
    tl.store(out, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gradient(
    g_ptr, start, row, row_seen, column, column_seen, origin, inside, length, cutout_ptr, sample, REAL: tl.constexpr
):  # fmt: skip
    """The gradient at rows and columns, where they are seen and not cut out."""
    g = tl.load(
        g_ptr + (start + row[None, :, None].to(tl.int64) * length) + origin[None, None, :],
        mask=inside & row_seen[None, :, None] & column_seen[None, None, :],
        other=0.0,
    ).to(REAL)
    if cutout_ptr is not None:
        cut = _within(row, cutout_ptr, 0, sample)[:, None] & _within(column, cutout_ptr, 1, sample)[None, :]
        g = tl.where(cut[None, :, :], 0.0, g)
    return g


@triton.jit
def augment_backward_kernel(
    g_ptr, out_ptr, flip_ptr, shift_ptr, cutout_ptr, saturation_ptr, contrast_ptr, partial_ptr,
    planes, height, width, parts, numbers,
    REFLECT: tl.constexpr, INNER: tl.constexpr, PLANES: tl.constexpr, ROWS: tl.constexpr, LINE: tl.constexpr,
    GROUP: tl.constexpr, USED: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    sample, row, at, inside, start = _tile(planes, height, width, INNER, PLANES, ROWS, LINE, GROUP, USED)
    length = width * INNER
    column, inner = at // INNER, at % INNER
    if flip_ptr is not None:  # a pixel goes where its mirror image would go unflipped
        column = tl.where(tl.load(flip_ptr + sample), width - 1 - column, column)
    if shift_ptr is not None:
        down, right = _turn(shift_ptr, 0, sample, height, REFLECT), _turn(shift_ptr, 1, sample, width, REFLECT)
        i, i_seen = _target(row, down, height, REFLECT)
        j, j_seen = _target(column, right, width, REFLECT)
        g = _gradient(
            g_ptr, start, i, i_seen, j, j_seen, j * INNER + inner, inside, length, cutout_ptr, sample, REAL
        )  # fmt: skip
        if REFLECT:
            k, k_seen = _mirrored_target(column, right, width)
            g += _gradient(
                g_ptr, start, i, i_seen, k, k_seen, k * INNER + inner, inside, length, cutout_ptr, sample, REAL
            )  # fmt: skip
            i, i_seen = _mirrored_target(row, down, height)
            if tl.max(i_seen.to(tl.int32), 0) > 0:  # rows near an edge alone
                g += _gradient(
                    g_ptr, start, i, i_seen, j, j_seen, j * INNER + inner, inside, length, cutout_ptr, sample, REAL
                )  # fmt: skip
                g += _gradient(
                    g_ptr, start, i, i_seen, k, k_seen, k * INNER + inner, inside, length, cutout_ptr, sample, REAL
                )  # fmt: skip
    else:
        origin = at
        if flip_ptr is not None:
            origin = column * INNER + inner
        g = _gradient(
            g_ptr, start, row, row < height, column, at < length, origin, inside, length, cutout_ptr, sample, REAL
        )  # fmt: skip
    g = _colour(g, sample, None, saturation_ptr, contrast_ptr, partial_ptr, parts, planes, numbers, INNER, GROUP, PARTS)
    out = out_ptr + (start + row[None, :, None].to(tl.int64) * length) + at[None, None, :]
    tl.store(out, g.to(out_ptr.dtype.element_ty), mask=inside)


def _launch_augment(
    x: Tensor,
    flip: Tensor | None,
    shift: Tensor | None,
    cutout: Tensor | None,
    brightness: Tensor | None,
    saturation: Tensor | None,
    contrast: Tensor | None,
    border: str,
    fill: float,
) -> Tensor:
    x = dense_rows(x)
    if saturation is not None and x.shape[1] > MAX_MIXED:
        return _augment_cpu(x, flip, shift, cutout, brightness, saturation, contrast, border, fill)
    partial = None if contrast is None else _sums(x, None, None)
    return _launch(augment_kernel, x, partial, border, (flip, shift, cutout, brightness, saturation, contrast), fill)


def _launch_augment_backward(
    upstream: Tensor,
    flip: Tensor | None,
    shift: Tensor | None,
    cutout: Tensor | None,
    saturation: Tensor | None,
    contrast: Tensor | None,
    border: str,
) -> Tensor:
    upstream = dense_rows(upstream)
    if saturation is not None and upstream.shape[1] > MAX_MIXED:
        return _augment_backward_cpu(upstream, flip, shift, cutout, saturation, contrast, border)
    partial = None if contrast is None else _sums(upstream, shift if border == "zero" else None, cutout)
    return _launch(augment_backward_kernel, upstream, partial, border, (flip, shift, cutout, saturation, contrast))


def _inner(x: Tensor) -> int:
    """How many channels lie side by side."""
    return x.shape[1] if is_channels_last(x) else 1


def _rows(height: int, row: int) -> int:
    """How many rows of `row` numbers a program takes."""
    return max(min(triton.next_power_of_2(height), TILE // row), 1)


def _sums(x: Tensor, shift: Tensor | None, cutout: Tensor | None) -> Tensor:
    """Partial sums (B, parts) of each image. One launch."""
    batch, channels, height, width = x.shape
    inner = _inner(x)
    planes = channels // inner
    line = min(triton.next_power_of_2(width * inner), MAX_LINE)
    rows = _rows(planes * height, line)
    parts = min(triton.cdiv(planes * height, rows), PARTS)
    partial = torch.empty((batch, parts), dtype=accumulator(x.dtype), device=x.device)
    launch(
        sum_kernel, (batch * parts,), x, partial, shift, cutout, planes, height, width, parts,
        warps=WARPS, INNER=inner, ROWS=rows, LINE=line,
    )  # fmt: skip
    return partial


def _launch(
    kernel, x: Tensor, partial: Tensor | None, border: str, parameters: Sequence[Tensor | None], *numbers: float
) -> Tensor:
    batch, channels, height, width = x.shape
    inner = _inner(x)
    planes, length = channels // inner, width * inner
    mixed = parameters[-2] is not None
    tile = triton.next_power_of_2(planes) if mixed else 1
    # Where channels that lie side by side are mixed: pixels that fill 16-byte vectors, in lanes that are a power of 2.
    used = inner * 16 // x.element_size() if mixed and inner > 1 else 1
    group = triton.next_power_of_2(used)
    line = min(triton.next_power_of_2(triton.cdiv(length, used)) * group, MAX_LINE)
    rows = _rows(height, tile * line)
    blocks = triton.cdiv(length, line // group * used)
    out = torch.empty_like(x)
    parts = 0 if partial is None else partial.shape[1]
    launch(
        kernel, (batch * triton.cdiv(planes, tile) * triton.cdiv(height, rows) * blocks,),
        x, out, *parameters, partial, planes, height, width, parts, channels * height * width, *numbers,
        warps=WARPS, REFLECT=border == "reflect", INNER=inner, PLANES=tile, ROWS=rows, LINE=line, GROUP=group, USED=used,
        PARTS=PARTS,
    )  # fmt: skip
    return out


_augment = operator("augment", cpu=_augment_cpu, kernels=_launch_augment, fake=lambda x, *rest: torch.empty_like(dense_rows(x)))
_augment_backward = operator(
    "augment_backward",
    cpu=_augment_backward_cpu,
    kernels=_launch_augment_backward,
    fake=lambda upstream, *rest: torch.empty_like(dense_rows(upstream)),
)


def _save(ctx, inputs, output) -> None:
    _, *parameters, ctx.border, _ = inputs
    ctx.save_for_backward(*parameters)


def _save_linear(ctx, inputs, output) -> None:
    _, *parameters, ctx.border = inputs
    ctx.save_for_backward(*parameters)


def _backward(ctx, upstream: Tensor):
    flip, shift, cutout, _, saturation, contrast = parameters = ctx.saved_tensors
    linear = (flip, shift, cutout, saturation, contrast)
    if any(parameter is not None for parameter in linear):
        upstream = _augment_backward(upstream, *linear, ctx.border)
    return upstream, *(None for _ in parameters), None, None


def _backward_again(ctx, upstream: Tensor):
    flip, shift, cutout, saturation, contrast = parameters = ctx.saved_tensors
    again = _augment(upstream, flip, shift, cutout, None, saturation, contrast, ctx.border, 0.0)
    return again, *(None for _ in parameters), None


_augment.register_autograd(_backward, setup_context=_save)
_augment_backward.register_autograd(_backward_again, setup_context=_save_linear)


def _arguments(example: Example, device: str, seed: int) -> dict:
    x, policy = example.tensor(device, seed), example.options["policy"]
    numbers = torch.rand(len(x), _NUMBERS, generator=torch.Generator().manual_seed(seed)).to(device)
    return {
        "x": x,
        "transforms": _transforms(policy, numbers, tuple(x.shape[2:])),
        "border": policy.border,
        "fill": policy.fill,
    }


def _minimum(example: Example) -> tuple[int, int]:
    elements = torch.Size(example.shape).numel() * example.dtype.itemsize
    passes = 2 if example.options["policy"].contrast is None else 3
    return passes * elements, passes * elements


_COLOUR = {name: getattr(DIFFAUGMENT, name) for name in ("brightness", "saturation", "contrast")}

OPERATION = Operation(
    name="augment",
    summary="flip, shift, cutout and colours of each image (CR's T, DiffAugment)",
    arguments=_arguments,
    fused=augment,
    eager=augment_reference,
    minimum=_minimum,
    wrt=("x",),
    examples=(
        Example("64x64 flip, shift", (64, 3, 64, 64), options={"policy": CONSISTENCY}),
        Example("64x64 DiffAugment", (64, 3, 64, 64), options={"policy": DIFFAUGMENT}),
        Example("CIFAR DiffAugment", (64, 3, 32, 32), channels_last=True, options={"policy": DIFFAUGMENT}),
        Example("BigGAN 128x128 flip, shift", (256, 3, 128, 128), torch.bfloat16, options={"policy": CONSISTENCY}),
        Example("BigGAN 128x128 flip, shift", (256, 3, 128, 128), torch.bfloat16, True, {"policy": CONSISTENCY}),
        Example("BigGAN 128x128 DiffAugment", (256, 3, 128, 128), torch.bfloat16, True, {"policy": DIFFAUGMENT}),
        Example("BigGAN 128x128 colours", (256, 3, 128, 128), torch.bfloat16, True, {"policy": Policy(**_COLOUR)}),
    ),
    small=(
        Example("everything", (3, 3, 6, 7), options={"policy": Policy(flip=0.5, shift=0.4, cutout=0.5, **_COLOUR)}),
        Example("everything, reflected", (3, 3, 6, 7), channels_last=True, options={
            "policy": Policy(flip=0.5, shift=0.4, cutout=0.5, border="reflect", **_COLOUR)}),
        Example("flip, shift", (5, 1, 33, 17), channels_last=True, options={"policy": CONSISTENCY}),
        Example("shift beyond the side", (5, 2, 3, 4), options={"policy": Policy(shift=3.0)}),
        Example("shift beyond the side, reflected", (5, 2, 3, 4), channels_last=True, options={
            "policy": Policy(shift=3.0, border="reflect")}),
        Example("flip", (3, 3, 5, 6), channels_last=True, options={"policy": Policy(flip=0.5)}),
        Example("cutout", (3, 2, 5, 6), options={"policy": Policy(cutout=0.6)}),
        Example("cutout, filled", (3, 3, 5, 6), channels_last=True, options={
            "policy": Policy(shift=0.4, cutout=0.6, fill=-0.75, contrast=(0.5, 1.5))}),
        Example("brightness", (3, 2, 5, 6), options={"policy": Policy(brightness=(-1.0, 1.0))}),
        Example("saturation", (3, 5, 5, 6), options={"policy": Policy(saturation=(0.0, 2.0))}),
        Example("contrast, flip", (3, 2, 70, 40), options={"policy": Policy(flip=0.5, contrast=(0.5, 1.5))}),
        Example("one row", (4, 3, 1, 9), options={"policy": CONSISTENCY}),
        Example("one pixel", (2, 1, 1, 1), options={"policy": Policy(shift=2.0, border="reflect", **_COLOUR)}),
        Example("rows of several programs", (1, 2, 1, 1500), channels_last=True, options={"policy": DIFFAUGMENT}),
        Example("rows of several programs, planes", (1, 3, 2, 600), options={
            "policy": Policy(flip=0.5, shift=0.4, border="reflect", **_COLOUR)}),
        Example("many channels", (2, 9, 4, 5), channels_last=True, options={"policy": DIFFAUGMENT}),
        Example("colours of four channels", (2, 4, 3, 5), channels_last=True, options={"policy": Policy(**_COLOUR)}),
        Example("empty", (0, 3, 4, 4), options={"policy": DIFFAUGMENT}),
    ),
    share=0.5,
)  # fmt: skip
