"""Points between real and generated images, and points around real ones: where gradient penalties look.

    interpolate           e x + (1 - e) y,           e ~ U[0, 1) for each sample
    perturb, normal       x + s n,                   n ~ N(0, 1) for each number, s^2 = c
    perturb, uniform      x + a s std(x) u,          a ~ U[0, 1) for each sample, u ~ U[0, 1) for each number
    deviation             std(x) = sqrt m (x - m x)^2,    m over the whole tensor

The first is WGAN-GP's x^ (Gulrajani et al., "Improved training of Wasserstein GANs", NeurIPS 2017, algorithm 1). The others are
DRAGAN's (Kodali, Abernethy, Hays, Kira, "On convergence and stability of GANs", 2017): noise of variance c as the paper writes
it, and what its published code does, with s = 0.5.

The random numbers are given, or drawn where they are used: those of `philox` for the same seed, purpose, rows, count and step,
in the order of the sample's dimensions, whatever its memory order. So no result depends on who holds which sample. Uniform
numbers are equal to the bit everywhere, normal ones up to the device's own logarithm.

Arithmetic is in float32 (float64 for float64); half precision is rounded once, when stored. Autocast changes nothing.
Gradients go to x and y, to any order. Shares, noise and standard deviations are constants: so takes them the usual code.

Bytes per element, e to the element (4 in float32); eager code in float32:

                                        kernel     eager
    interpolate, numbers given          3 e        7 e     e * x + (1 - e) * y
        backward, both sides            3 e        4 e
        backward, one side              2 e        2 e
    interpolate, drawn                  3 e        7 e
    perturb, given                      3 e        5 e     x + s * std * a * noise
    perturb, normal, drawn              2 e        7 e     x + s * torch.randn_like(x)
    perturb, uniform, drawn             2 e        9 e     x + a * (s * std * torch.rand_like(x))
    deviation                           1 e        1 e
    backward of perturb                 0          0

On the CPU a number a sample costs little: 64 take 17 microseconds. A number an element does not: for 64 x 3 x 64 x 64 of them
philox takes 4.2 ms where torch's own generator takes 1.6 (with two threads 2.1, where torch's uses one), so `perturb_drawn` is
slower there than eager code with other numbers: 0.35 to 0.4 times its speed. That is the price of the same numbers everywhere:
ten rounds of five passes over 64-bit integers, no faster in parts that fit the cache (4.5 ms), little faster in NumPy (3.4 ms).
Half precision is level with eager code, which rounds each of its steps, from 128 x 128 images on, and 0.6 to 0.8 times as fast
below; the networks' images are float32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import philox
from .launch import launch, taken
from .layout import dense, dense_rows, is_channels_last, like
from .operation import Example, Operation
from .operator import operator
from .philox import _in_order, _key, _normals, _uniform, _words
from .reduction import BLOCK, PROGRAMS, WARPS, accumulator, parts

FORMS = ("normal", "uniform")

_TILE_BYTES = 4096  # two 16-byte loads a thread
_WIDENED = 2**17  # numbers of half precision that the CPU's path has in float32 at a time
_LONG = 2**14  # numbers of a sample that make one worth a call of its own
_TILE_BLOCKS = 128  # of four words: with float32 one 16-byte load a thread, half precision takes two


def interpolate(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """share * x + (1 - share) * y.

    Args:
        x, y: floating point (B, ...), any layout, the same shape, type and device.
        share: (B,), floating point: each sample's part of x; a constant.

    Returns:
        (B, ...), of their type, computed as `torch.lerp(y, x, share)`: x itself where share is 1, y where it is 0. In memory as
        y is, for generated images lie as the networks want them. Differentiable towards x and y to any order.

    Raises:
        ValueError: tensors that don't match, or a share that requires a gradient.
    """
    _check_pair(x, y)
    _check_samples(x, "share", share, floating=True)
    # On the CPU torch.lerp is one pass, and so is each side of its own derivative: an operator around it only adds 40
    # microseconds of dispatch, forward and backward, to 400 at 64 x 3 x 64 x 64.
    return _interpolate_cpu(x, y, share) if _plain(x) else _interpolate(x, y, share)


def interpolate_drawn(x: Tensor, y: Tensor, seed: int, purpose: str, rows: Tensor, step: int = 0) -> Tensor:
    """`interpolate` with the shares `philox.uniform(seed, purpose, rows, 1, step)`, drawn where they are used.

    Args:
        x, y: as for `interpolate`.
        seed, purpose, step: as for `philox.bits`.
        rows: int64 (B,), the samples' global indices, on x's device.

    Raises:
        ValueError: tensors that don't match.
    """
    _check_pair(x, y)
    _check_samples(x, "rows", rows, floating=False)
    arguments = (x, y, rows, _signed(seed), purpose, step)
    return (_interpolate_drawn_cpu if _plain(x) else _interpolate_drawn)(*arguments)[0]


def perturb(x: Tensor, noise: Tensor, share: Tensor | None = None, std: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
    """x + share * scale * std * noise, with given numbers.

    Args:
        x: floating point (B, ...), any layout.
        noise: of x's shape, type and device; a constant.
        share: floating-point (B,), a factor for each sample, or None for 1; a constant.
        std: a floating-point scalar, say `deviation(x)`, or None for 1; a constant.
        scale: any number.

    Returns:
        (B, ...), of x's type. The gradient towards x is the one towards the result, to any order.

    Raises:
        ValueError: tensors that don't match, or a constant that requires a gradient.
    """
    _check_images(x)
    if noise.shape != x.shape or noise.dtype != x.dtype or noise.device != x.device:
        raise ValueError(
            f"noise must match x ({x.dtype} {tuple(x.shape)} on {x.device}), "
            f"not {noise.dtype} {tuple(noise.shape)} on {noise.device}"
        )
    _check_constant("noise", noise)
    if share is not None:
        _check_samples(x, "share", share, floating=True)
    _check_std(x, std)
    return (_perturb_cpu if _plain(x) else _perturb)(x, noise, share, std, None, float(scale), "given", 0, "", 0)


def perturb_drawn(
    x: Tensor,
    seed: int,
    purpose: str,
    rows: Tensor,
    step: int = 0,
    *,
    form: str,
    scale: float,
    std: Tensor | None = None,
) -> Tensor:
    """`perturb` with numbers drawn where they are used, as DRAGAN does in one of its two forms.

    Args:
        x: floating point (B, ...), any layout; a sample has fewer than 2**31 numbers.
        seed, purpose, step: as for `philox.bits`.
        rows: int64 (B,), the samples' global indices, on x's device.
        form: "normal": x + scale * n, with n = `philox.normal(seed, purpose, rows, count, step)`, count numbers a sample.
            "uniform": x + a * scale * std * u, with u = `philox.uniform` of the same, and a = `philox.uniform(seed, purpose +
            "/share", rows, 1, step)`.
        scale: "normal": the standard deviation, sqrt(c); "uniform": 0.5 in DRAGAN's published code.
        std: for "uniform" alone, a scalar; by default `deviation(x)`. That is over the tensor given: ranks and micro-batches
            that are to agree hand in a common one.

    Returns:
        (B, ...), of x's type. The gradient towards x is the one towards the result, to any order.

    Raises:
        ValueError: an unknown form, a std for "normal", or tensors that don't match.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    if form == "normal" and std is not None:
        raise ValueError("std is of the uniform form: the normal one's noise does not depend on the images")
    _check_images(x)
    if len(x) and x[0].numel() >= 2**31:
        raise ValueError(f"a sample must have fewer than 2**31 numbers, not {x[0].numel()}")
    _check_samples(x, "rows", rows, floating=False)
    _check_std(x, std)
    if form == "uniform" and std is None:
        std = deviation(x)
    arguments = (x, None, None, std, rows, float(scale), form, _signed(seed), purpose, step)
    return (_perturb_cpu if _plain(x) else _perturb)(*arguments)


def deviation(x: Tensor) -> Tensor:
    """The standard deviation of all numbers of x around their mean, divided by their count (no Bessel's correction, as NumPy
    has it and DRAGAN's published code). The same bits on every run: each program merges the mean and the squared deviations of
    its part (Chan, Golub, LeVeque 1979), one program those of all.

    Args:
        x: floating point, any shape and layout.

    Returns:
        A scalar, float32 (float64 for float64), without a gradient; NaN for an empty tensor.

    Raises:
        ValueError: x is not floating point.
    """
    _check_images(x, least=0)
    return _deviation(x.detach())


def interpolate_reference(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """`interpolate` in plain torch, without its checks."""
    real = accumulator(x.dtype)
    share = share.to(real).view(_column(x))
    return (share * x.to(real) + (1 - share) * y.to(real)).to(x.dtype)


def perturb_reference(
    x: Tensor, noise: Tensor, share: Tensor | None = None, std: Tensor | None = None, *, scale: float = 1.0
) -> Tensor:
    """`perturb` in plain torch, without its checks."""
    real = accumulator(x.dtype)
    share = 1.0 if share is None else share.to(real).view(_column(x))
    return (x.to(real) + share * (scale if std is None else scale * std.to(real)) * noise.to(real)).to(x.dtype)


def deviation_reference(x: Tensor) -> Tensor:
    """`deviation` in plain torch."""
    x = x.detach().to(accumulator(x.dtype))
    return (x - x.mean()).square().mean().sqrt()


def _check_images(x: Tensor, least: int = 1) -> None:
    if x.dim() < least or not x.is_floating_point():
        raise ValueError(f"x must be floating-point{' (B, ...)' if least else ''}, not {x.dtype} {tuple(x.shape)}")


def _check_pair(x: Tensor, y: Tensor) -> None:
    _check_images(x)
    if y.shape != x.shape or y.dtype != x.dtype or y.device != x.device:
        raise ValueError(
            f"y must match x ({x.dtype} {tuple(x.shape)} on {x.device}), not {y.dtype} {tuple(y.shape)} on {y.device}"
        )


def _check_samples(x: Tensor, name: str, tensor: Tensor, floating: bool) -> None:
    right = tensor.is_floating_point() if floating else tensor.dtype == torch.int64
    if tensor.shape != x.shape[:1] or tensor.device != x.device or not right:
        raise ValueError(
            f"{name} must be {'floating-point' if floating else 'int64'} ({len(x)},) on {x.device}, "
            f"not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
    _check_constant(name, tensor)


def _check_std(x: Tensor, std: Tensor | None) -> None:
    if std is None:
        return
    if std.dim() or std.device != x.device or not std.is_floating_point():
        raise ValueError(
            f"std must be a floating-point scalar on {x.device}, not {std.dtype} {tuple(std.shape)} on {std.device}"
        )
    _check_constant("std", std)


def _check_constant(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad:
        raise ValueError(f"{name} is a constant: no gradient goes to it, so it must not require one")


def _plain(x: Tensor) -> bool:
    """Whether to leave differentiation to torch."""
    return x.device.type == "cpu" and not taken()


def _signed(seed: int) -> int:
    """The seed's 64 bits as the integer that an operator takes."""
    return seed if seed < 2**63 else seed - 2**64


def _column(x: Tensor) -> Sequence[int]:
    """The shape of one number a sample that multiplies x."""
    return (-1, *[1] * (x.dim() - 1))


def _room(x: Tensor) -> Tensor:
    """Empty, like `dense_rows(x)`."""
    return torch.empty_like(x, memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)


def _in_rows(x: Tensor) -> Tensor:
    """The memory of x as (B, columns), a copy where it isn't rows yet. Channels last, torch would go pixel by pixel where a
    factor for each sample comes in, which takes twice as long."""
    x = x.permute(0, 2, 3, 1) if x.dim() == 4 and is_channels_last(x) else x.contiguous()
    return x.view(len(x), x.numel() // max(len(x), 1))


def _as(x: Tensor, rows: Tensor) -> Tensor:
    """The inverse of `_in_rows(x)`."""
    if x.dim() == 4 and is_channels_last(x):
        batch, channels, height, width = x.shape
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return rows.view(x.shape)


def _interpolate_cpu(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    real = accumulator(x.dtype)
    if _large_half(x) and type(x) is type(y) is type(share) is Tensor and not torch.compiler.is_compiling():
        return _HalfLerp.apply(x, y, share)
    between = torch.lerp(_in_rows(y).to(real), _in_rows(_ordered(x, y)).to(real), share.to(real)[:, None])
    return _as(y, between).to(y.dtype)


def _interpolate_drawn_cpu(x: Tensor, y: Tensor, rows: Tensor, seed: int, purpose: str, step: int) -> tuple[Tensor, Tensor]:
    share = philox.uniform(seed, purpose, rows, 1, step).flatten()
    return _interpolate_cpu(x, y, share), share


def _large_half(x: Tensor) -> bool:
    return x.dtype.itemsize == 2 and x.numel() > _WIDENED


class _HalfLerp(torch.autograd.Function):
    """torch.lerp of half precision, rounded once. It takes float32 shares as Python's numbers alone, so sample by sample where
    these are long: 1.3 ms at (64, 3, 128, 128). Else between copies in float32 of as many as stay in the cache: 2.0 ms so, and
    2.3 ms in one go."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(share)
        ends, shares = (_in_rows(_ordered(x, y)), _in_rows(y)), share.float()[:, None]
        if ends[1].shape[1] >= _LONG:
            out = ends[1].clone()
            torch._foreach_lerp_(out.unbind(), ends[0].unbind(), share.tolist())
            return _as(y, out)
        out, count = torch.empty_like(ends[1]), max(_WIDENED // ends[1].shape[1], 1)
        wide = torch.empty((2, count, ends[1].shape[1]))
        for first in range(0, len(out), count):
            some = slice(first, first + count)
            a, b = (memory[: len(out) - first].copy_(end[some]) for memory, end in zip(wide, ends, strict=True))
            out[some] = torch.lerp(b, a, shares[some], out=b)
        return _as(y, out)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        (share,), (first, second, _) = ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled():  # to be differentiated again
            sides = iter(_products(upstream, share, first, second))
        else:
            sides = iter(_split_cpu(upstream, share, first, second))
        return next(sides) if first else None, next(sides) if second else None, None


def _split_cpu(grad: Tensor, share: Tensor, first: bool, second: bool) -> list[Tensor]:
    if not _large_half(grad):
        return _products(grad, share, first, second)
    # A batch norm whose channels are the samples scales half precision with numbers in float32 and rounds once.
    share, rows = share.float(), _in_rows(grad)[None]
    nothing, one = torch.zeros_like(share), torch.ones_like(share)
    parts = ([share] if first else []) + ([1 - share] if second else [])
    return [_as(grad, torch.native_batch_norm(rows, part, nothing, nothing, one, False, 0.0, 0.0)[0][0]) for part in parts]


def _products(grad: Tensor, share: Tensor, first: bool, second: bool) -> list[Tensor]:
    real = accumulator(grad.dtype)
    share, rows = share.to(real)[:, None], _in_rows(grad).to(real)
    parts = ([share] if first else []) + ([1 - share] if second else [])
    return [_as(grad, rows * part).to(grad.dtype) for part in parts]


def _perturb_cpu(
    x: Tensor,
    noise: Tensor | None,
    share: Tensor | None,
    std: Tensor | None,
    rows: Tensor | None,
    scale: float,
    form: str,
    seed: int,
    purpose: str,
    step: int,
) -> Tensor:
    real = accumulator(x.dtype)
    if form != "given":
        draw = philox.uniform if form == "uniform" else philox.normal
        noise = draw(seed, purpose, rows, x.numel() // max(len(x), 1), step).view(x.shape)
    if form == "uniform":
        share = philox.uniform(seed, f"{purpose}/share", rows, 1, step).flatten()
    factor = torch.full((1,), scale, dtype=real) if std is None else scale * std.to(real).view(1)
    factor = factor[:, None] if share is None else (factor * share.to(real))[:, None]
    moved = torch.addcmul(_in_rows(x).to(real), _in_rows(_ordered(noise, x)).to(real), factor)
    return _as(x, moved).to(x.dtype)


def _ordered(y: Tensor, x: Tensor) -> Tensor:
    """y in the memory order that `_in_rows` sees x in."""
    last = x.dim() == 4 and is_channels_last(x)
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _deviation_cpu(x: Tensor) -> Tensor:
    x = dense(x).to(accumulator(x.dtype))
    return torch.sub(x, x.mean()).square_().mean().sqrt_()


@triton.jit
def _drawn_share(rows_ptr, row, inside, key, step, ROWS: tl.constexpr):
    word, _, _, _ = _words(rows_ptr, row, tl.arange(0, 1), inside, key, step, ROWS, 1)
    return _uniform(word)


@triton.jit(do_not_specialize=["batch", "key", "step"])
def interpolate_kernel(
    x_ptr,
    y_ptr,
    share_ptr,  # read, or with rows written
    rows_ptr,  # None where the shares are given
    out_ptr,
    batch,
    columns,
    key: tl.uint64,
    step: tl.uint32,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    REAL: tl.constexpr = tl.float64 if out_ptr.dtype.element_ty == tl.float64 else tl.float32
    tiles = tl.cdiv(columns, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)
    column = (program % tiles) * BLOCK + tl.arange(0, BLOCK)
    inside = row < batch
    if rows_ptr is not None:
        drawn = _drawn_share(rows_ptr, row, inside, key, step, ROWS)
        tl.store(share_ptr + row[:, None], drawn, mask=inside[:, None] & (program % tiles == 0))
        share = drawn.to(REAL)
    else:
        share = tl.load(share_ptr + row, mask=inside, other=0.0).to(REAL)[:, None]
    at = row[:, None] * columns + column[None, :]
    mask = inside[:, None] & (column[None, :] < columns)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(REAL)
    y = tl.load(y_ptr + at, mask=mask, other=0.0).to(REAL)
    # From the nearer end, as torch.lerp goes: both ends are met exactly.
    between = tl.where(share < 0.5, y + share * (x - y), x - (x - y) * (1.0 - share))
    tl.store(out_ptr + at, between.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["batch"])
def split_kernel(grad_ptr, share_ptr, to_x_ptr, to_y_ptr, batch, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    REAL: tl.constexpr = tl.float64 if grad_ptr.dtype.element_ty == tl.float64 else tl.float32
    tiles = tl.cdiv(columns, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)
    column = (program % tiles) * BLOCK + tl.arange(0, BLOCK)
    share = tl.load(share_ptr + row, mask=row < batch, other=0.0).to(REAL)[:, None]
    at = row[:, None] * columns + column[None, :]
    mask = (row[:, None] < batch) & (column[None, :] < columns)
    grad = tl.load(grad_ptr + at, mask=mask, other=0.0).to(REAL)
    if to_x_ptr is not None:
        tl.store(to_x_ptr + at, (share * grad).to(to_x_ptr.dtype.element_ty), mask=mask)
    if to_y_ptr is not None:
        tl.store(to_y_ptr + at, ((1.0 - share) * grad).to(to_y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _at(row, column, count, plane, CHANNELS: tl.constexpr):
    """Where a sample's numbers lie that are `column` in the order of its dimensions. Channels last, programs of different
    channels read the same lines of memory, at about the same time: the second-level cache has them."""
    place = column
    if CHANNELS > 1:
        narrow = column.to(tl.int32)
        place = ((narrow % plane) * CHANNELS + narrow // plane).to(tl.int64)
    return row[:, None] * count + place[None, :]


@triton.jit(do_not_specialize=["batch", "key", "share_key", "step"])
def perturb_kernel(
    x_ptr,
    out_ptr,
    noise_ptr,  # None where uniform noise and shares are drawn
    share_ptr,  # given shares; None for 1, or to draw
    std_ptr,  # None for 1
    rows_ptr,
    batch,
    count,
    plane,
    scale: tl.float64,
    key: tl.uint64,
    share_key: tl.uint64,
    step: tl.uint32,
    CHANNELS: tl.constexpr,  # above 1 where they lie last
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    REAL: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    tiles = tl.cdiv(count, 4 * BLOCK)
    program = tl.program_id(0).to(tl.int64)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)
    first = (program % tiles) * BLOCK
    column = 4 * first + tl.arange(0, 4 * BLOCK)
    inside = row < batch
    at = _at(row, column, count, plane, CHANNELS)
    mask = inside[:, None] & (column[None, :] < count)
    factor = tl.full((ROWS, 1), scale, REAL)
    if std_ptr is not None:
        factor = factor * tl.load(std_ptr).to(REAL)
    if share_ptr is not None:
        factor = factor * tl.load(share_ptr + row, mask=inside, other=0.0).to(REAL)[:, None]
    if noise_ptr is not None:
        noise = tl.load(noise_ptr + at, mask=mask, other=0.0).to(REAL)
    else:
        factor = factor * _drawn_share(rows_ptr, row, inside, share_key, step, ROWS).to(REAL)
        w0, w1, w2, w3 = _words(rows_ptr, row, first + tl.arange(0, BLOCK), inside, key, step, ROWS, BLOCK)
        noise = _uniform(_in_order(w0, w1, w2, w3, ROWS, BLOCK)).to(REAL)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(REAL)
    tl.store(out_ptr + at, (x + factor * noise).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["batch", "key", "step"])
def perturb_normal_kernel(
    x_ptr,
    out_ptr,
    rows_ptr,
    batch,
    count,
    pairs,  # count / 2, rounded up
    plane,
    scale: tl.float64,
    key: tl.uint64,
    step: tl.uint32,
    CHANNELS: tl.constexpr,
    SHIFT: tl.constexpr,  # pairs % 4
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    REAL: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    tiles = tl.cdiv(pairs, 4 * BLOCK)
    program = tl.program_id(0).to(tl.int64)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)
    first = (program % tiles) * BLOCK
    inside = row < batch
    cosines, sines = _normals(rows_ptr, row, first, inside, pairs, key, step, SHIFT, ROWS, BLOCK)
    pair = 4 * first + tl.arange(0, 4 * BLOCK)
    factor = tl.full((ROWS, 1), scale, REAL)
    at = _at(row, pair, count, plane, CHANNELS)
    mask = inside[:, None] & (pair[None, :] < pairs)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(REAL)
    tl.store(out_ptr + at, (x + factor * cosines.to(REAL)).to(out_ptr.dtype.element_ty), mask=mask)
    at = _at(row, pairs + pair, count, plane, CHANNELS)
    mask = mask & (pairs + pair[None, :] < count)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(REAL)
    tl.store(out_ptr + at, (x + factor * sines.to(REAL)).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _merged(count, mean, squares):
    """Count, mean, and squared deviations from it, of parts that have these."""
    whole = tl.sum(count, 0)
    average = tl.sum(count * mean, 0) / whole
    off = mean - average
    return whole, average, tl.sum(squares + count * off * off, 0)


@triton.jit
def moments_kernel(x_ptr, partial_ptr, count, parts, BLOCK: tl.constexpr):
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    stride = tl.num_programs(0).to(tl.int64) * BLOCK
    seen = tl.zeros((BLOCK,), REAL)
    mean = tl.zeros((BLOCK,), REAL)
    squares = tl.zeros((BLOCK,), REAL)
    for sweep in range(0, tl.cdiv(count, stride)):
        at = sweep * stride + program * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(REAL)
        off = x - mean
        moved = mean + off * (tl.full((), 1.0, REAL) / (sweep + 1))
        squares = tl.where(inside, squares + off * (x - moved), squares)
        mean = tl.where(inside, moved, mean)
        seen += inside.to(REAL)
    whole, average, total = _merged(seen, mean, squares)
    tl.store(partial_ptr + program, whole)
    tl.store(partial_ptr + parts + program, average)
    tl.store(partial_ptr + 2 * parts + program, total)


@triton.jit
def deviation_kernel(partial_ptr, out_ptr, parts, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    count = tl.load(partial_ptr + at, mask=at < parts, other=0.0)
    mean = tl.load(partial_ptr + parts + at, mask=at < parts, other=0.0)
    squares = tl.load(partial_ptr + 2 * parts + at, mask=at < parts, other=0.0)
    whole, _, total = _merged(count, mean, squares)
    tl.store(out_ptr, tl.sqrt(total / whole))


def _tile(batch: int, columns: int, element_size: int) -> tuple[tuple[int], dict[str, int]]:
    """The grid over a (batch, columns) memory, and the rows and columns that a program handles."""
    most = _TILE_BYTES // element_size
    block = min(triton.next_power_of_2(max(columns, 1)), most)
    rows = most // block
    grid = (triton.cdiv(batch, rows) * triton.cdiv(columns, block),)
    return grid, {"ROWS": rows, "BLOCK": block}


def _counter(seed: int, purpose: str) -> int:
    low, high = _key(seed, purpose)
    return high << 32 | low


def _launch_interpolate(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    y = dense_rows(y)
    out, x, columns = _room(y), like(x, y), y.numel() // max(len(y), 1)
    grid, tile = _tile(len(x), columns, x.element_size())
    launch(interpolate_kernel, grid, x, y, share.contiguous(), None, out, len(x), columns, 0, 0, warps=WARPS, **tile)
    return out


def _launch_interpolate_drawn(x: Tensor, y: Tensor, rows: Tensor, seed: int, purpose: str, step: int) -> tuple[Tensor, Tensor]:
    y = dense_rows(y)
    out, x, columns = _room(y), like(x, y), y.numel() // max(len(y), 1)
    share = torch.empty(len(x), dtype=torch.float32, device=x.device)
    grid, tile = _tile(len(x), columns, x.element_size())
    numbers = (len(x), columns, _counter(seed, purpose), step & philox._MASK)
    launch(interpolate_kernel, grid, x, y, share, rows.contiguous(), out, *numbers, warps=WARPS, **tile)
    return out, share


def _launch_split(grad: Tensor, share: Tensor, first: bool, second: bool) -> list[Tensor]:
    grad = dense_rows(grad)
    columns = grad.numel() // max(len(grad), 1)
    to_x, to_y = (_room(grad) if wanted else None for wanted in (first, second))
    grid, tile = _tile(len(grad), columns, grad.element_size())
    launch(split_kernel, grid, grad, share.contiguous(), to_x, to_y, len(grad), columns, warps=WARPS, **tile)
    return [side for side in (to_x, to_y) if side is not None]


def _launch_perturb(
    x: Tensor,
    noise: Tensor | None,
    share: Tensor | None,
    std: Tensor | None,
    rows: Tensor | None,
    scale: float,
    form: str,
    seed: int,
    purpose: str,
    step: int,
) -> Tensor:
    x = dense_rows(x)
    out, batch, count = _room(x), len(x), x.numel() // max(len(x), 1)
    channels, plane = (x.shape[1], x.shape[2] * x.shape[3]) if form != "given" and is_channels_last(x) else (1, 1)
    blocks = philox.blocks_of(form, count)
    most = _TILE_BLOCKS * 4 // min(x.element_size(), 4)
    tile_blocks = min(triton.next_power_of_2(max(blocks, 1)), most)
    tile_rows = most // tile_blocks
    grid = (triton.cdiv(batch, tile_rows) * triton.cdiv(blocks, tile_blocks),)
    options = {"warps": WARPS, "CHANNELS": channels, "ROWS": tile_rows, "BLOCK": tile_blocks}
    key, step = _counter(seed, purpose), step & philox._MASK
    if form == "normal":
        pairs = -(-count // 2)
        numbers = (batch, count, pairs, plane, scale, key, step)
        launch(perturb_normal_kernel, grid, x, out, rows.contiguous(), *numbers, SHIFT=pairs % 4, **options)
    else:
        given = (like(noise, x), None if share is None else share.contiguous()) if form == "given" else (None, None)
        rows = None if rows is None else rows.contiguous()
        numbers = (batch, count, plane, scale, key, _counter(seed, f"{purpose}/share"), step)
        launch(perturb_kernel, grid, x, out, *given, std, rows, *numbers, **options)
    return out


def _launch_deviation(x: Tensor) -> Tensor:
    x, real = dense(x), accumulator(x.dtype)
    out = torch.empty((), dtype=real, device=x.device)
    if x.numel() == 0:
        return out.fill_(torch.nan)
    programs = parts(x.numel())
    partial = torch.empty((3, programs), dtype=real, device=x.device)
    launch(moments_kernel, (programs,), x, partial, x.numel(), programs, warps=WARPS, BLOCK=BLOCK)
    launch(deviation_kernel, (1,), partial, out, programs, warps=WARPS, BLOCK=PROGRAMS)
    return out


_interpolate = operator("interpolate", cpu=_interpolate_cpu, kernels=_launch_interpolate, fake=lambda x, y, share: _room(y))
_interpolate_drawn = operator(
    "interpolate_drawn",
    cpu=_interpolate_drawn_cpu,
    kernels=_launch_interpolate_drawn,
    fake=lambda x, y, rows, *numbers: (_room(y), torch.empty(len(x), dtype=torch.float32, device=x.device)),
)
_split = operator(
    "interpolate_backward",
    cpu=_split_cpu,
    kernels=_launch_split,
    fake=lambda grad, share, first, second: [_room(grad) for wanted in (first, second) if wanted],
)
_perturb = operator("perturb", cpu=_perturb_cpu, kernels=_launch_perturb, fake=lambda x, *rest: _room(x))
_deviation = operator(
    "deviation",
    cpu=_deviation_cpu,
    kernels=_launch_deviation,
    fake=lambda x: torch.empty((), dtype=accumulator(x.dtype), device=x.device),
)


def _save_share(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1] if isinstance(output, tuple) else inputs[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, upstream: Tensor | None, *unused):
    (share,) = ctx.saved_tensors
    first, second = ctx.needs_input_grad[:2]
    rest = (None,) * (len(ctx.needs_input_grad) - 2)
    if upstream is None or not (first or second):
        return None, None, *rest
    sides = iter(_split(upstream, share, first, second))
    return next(sides) if first else None, next(sides) if second else None, *rest


def _save_sides(ctx, inputs, output) -> None:
    _, share, ctx.first, ctx.second = inputs
    ctx.save_for_backward(share)
    ctx.set_materialize_grads(False)


def _backward_of_split(ctx, upstream: list[Tensor | None]):
    """The derivative of (e g, (1 - e) g) along g: the upstreams interpolated, a missing one as 0."""
    (share,) = ctx.saved_tensors
    sides = iter(upstream)
    to_x, to_y = (next(sides) if wanted else None for wanted in (ctx.first, ctx.second))
    if to_x is not None and to_y is not None:
        return _interpolate(to_x, to_y, share), None, None, None
    if to_x is None and to_y is None:
        return None, None, None, None
    given = to_y if to_x is None else to_x
    return _split(given, share, to_x is not None, to_y is not None)[0], None, None, None


_interpolate.register_autograd(_backward, setup_context=_save_share)
_interpolate_drawn.register_autograd(_backward, setup_context=_save_share)
_split.register_autograd(_backward_of_split, setup_context=_save_sides)
_perturb.register_autograd(lambda ctx, upstream: (upstream, *[None] * 9))


_BIGGAN = (256, 3, 128, 128)
_EXAMPLES = (
    Example("64x64 images", (64, 3, 64, 64)),
    Example("CIFAR images", (64, 3, 32, 32), channels_last=True),
    Example("BigGAN 128x128 images", _BIGGAN, torch.bfloat16),
)
_SMALL = (
    Example("odd", (3, 2, 5, 7)),
    Example("odd", (3, 2, 5, 7), channels_last=True),
    Example("more than a block", (2, 1, 33, 65)),
    Example("points", (5, 2)),
    Example("one number", (1,)),
    Example("empty", (0, 3, 4, 4)),
)


def _rows(example: Example, device: str) -> Tensor:
    return torch.arange(7, 7 + example.shape[0], device=device)


def _interpolate_arguments(example: Example, device: str, seed: int) -> dict:
    x, y = (example.tensor(device, seed + side) for side in range(2))
    share = example.tensor(device, seed + 2, example.shape[0], dtype=accumulator(example.dtype)).sigmoid()
    return {"x": x, "y": y, "share": share}


def _interpolate_drawn_arguments(example: Example, device: str, seed: int) -> dict:
    x, y = (example.tensor(device, seed + side) for side in range(2))
    return {"x": x, "y": y, "seed": seed, "rows": _rows(example, device)}


def _eager_interpolate(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    share = share.to(x.dtype).view(_column(x))
    return share * x + (1 - share) * y


def _interpolate_minimum(example: Example) -> tuple[int, int]:
    elements = torch.Size(example.shape).numel() * example.dtype.itemsize
    return 3 * elements, 3 * elements


def _perturb_arguments(example: Example, device: str, seed: int) -> dict:
    x, noise = (example.tensor(device, seed + side) for side in range(2))
    real = accumulator(example.dtype)
    share = example.tensor(device, seed + 2, example.shape[0], dtype=real).sigmoid()
    std = example.tensor(device, seed + 3, 1, dtype=real).exp().view(())
    return {"x": x, "noise": noise, "share": share, "std": std, "scale": 0.5}


def _perturb_drawn_arguments(example: Example, device: str, seed: int) -> dict:
    return {"x": example.tensor(device, seed), "seed": seed, "rows": _rows(example, device)}


def _perturb_uniform_arguments(example: Example, device: str, seed: int) -> dict:
    # The deviation is given: it is a constant to `perturb_drawn`, and finite differences would differentiate it.
    return _perturb_drawn_arguments(example, device, seed) | {"std": deviation(example.tensor(device, seed))}


def _perturb_drawn_reference(form: str):
    def reference(x: Tensor, seed: int, rows: Tensor, std: Tensor | None = None) -> Tensor:
        rows, count = rows.cpu(), x.numel() // max(len(x), 1)
        if form == "normal":
            return perturb_reference(x, philox.normal(seed, "catalog", rows, count).view(x.shape), scale=0.3)
        noise = philox.uniform(seed, "catalog", rows, count).view(x.shape)
        share = philox.uniform(seed, "catalog/share", rows, 1).flatten()
        return perturb_reference(x, noise, share, std.cpu(), scale=0.5)

    return reference


def _traffic(passes: int):
    return lambda example: (passes * torch.Size(example.shape).numel() * example.dtype.itemsize, 0)


OPERATIONS = (
    Operation(
        name="interpolate",
        summary="points between real and generated images (WGAN-GP), shares given",
        arguments=_interpolate_arguments,
        fused=interpolate,
        eager=_eager_interpolate,
        reference=interpolate_reference,
        minimum=_interpolate_minimum,
        wrt=("x", "y"),
        examples=_EXAMPLES,
        small=_SMALL,
    ),
    Operation(
        name="interpolate_drawn",
        summary="the same, shares drawn in the kernel",
        arguments=_interpolate_drawn_arguments,
        fused=lambda x, y, seed, rows: interpolate_drawn(x, y, seed, "catalog", rows),
        eager=lambda x, y, seed, rows: _eager_interpolate(x, y, torch.rand(len(x), device=x.device)),
        reference=lambda x, y, seed, rows: interpolate_reference(
            x, y, philox.uniform(seed, "catalog", rows.cpu(), 1).flatten()
        ),
        minimum=_interpolate_minimum,
        wrt=("x", "y"),
        examples=_EXAMPLES,
        small=_SMALL,
    ),
    Operation(
        name="perturb",
        summary="noise added to images, numbers given",
        arguments=_perturb_arguments,
        fused=perturb,
        eager=lambda x, noise, share, std, scale: x + scale * std * share.view(_column(x)) * noise,
        reference=perturb_reference,
        minimum=_traffic(3),
        wrt=("x",),
        examples=_EXAMPLES,
        small=_SMALL,
    ),
    Operation(
        name="perturb_normal",
        summary="normal noise added to images (DRAGAN), drawn in the kernel",
        arguments=_perturb_drawn_arguments,
        fused=lambda x, seed, rows: perturb_drawn(x, seed, "catalog", rows, form="normal", scale=0.3),
        eager=lambda x, seed, rows: x + 0.3 * torch.randn_like(x),
        reference=_perturb_drawn_reference("normal"),
        minimum=_traffic(2),
        wrt=("x",),
        examples=_EXAMPLES,
        small=(*_SMALL, *(Example(f"{n} numbers", (3, n)) for n in (10, 12, 13))),  # where the angles begin in a block
        tolerance={torch.float64: (1e-5, 2e-6)},  # the noise is float32, by each device's own logarithm
    ),
    Operation(
        name="perturb_uniform",
        summary="uniform noise in units of the deviation added to images (DRAGAN's code), drawn in the kernel",
        arguments=_perturb_uniform_arguments,
        fused=lambda x, seed, rows, std: perturb_drawn(x, seed, "catalog", rows, form="uniform", scale=0.5, std=std),
        eager=lambda x, seed, rows, std: (
            x + torch.rand_like(x[:, :1, :1, :1]) * (0.5 * std * torch.rand_like(x))  # images alone are timed
        ),
        reference=_perturb_drawn_reference("uniform"),
        minimum=_traffic(2),
        wrt=("x",),
        examples=_EXAMPLES,
        small=_SMALL,
    ),
    Operation(
        name="deviation",
        summary="standard deviation of a whole tensor",
        arguments=lambda example, device, seed: {"x": example.tensor(device, seed)},
        fused=deviation,
        eager=lambda x: x.std(correction=0),
        reference=deviation_reference,
        minimum=_traffic(1),
        wrt=(),
        examples=_EXAMPLES,
        small=_SMALL,
    ),
)
