"""Gradient penalties: from D's gradient towards images, sample by sample, to one number. And gradient-normalised scores.

    n_b = |grad_b|                     the l2 norm over all values of sample b
    penalty = m phi(n)                 m the mean over the batch; the term that adds it has the weight

    kind           phi(n)                used by
    two-sided      (n - target)^2        WGAN-GP (Gulrajani et al., "Improved training of Wasserstein GANs", 2017, eq. 3),
                                         DRAGAN (Kodali et al., "On convergence and stability of GANs", arXiv 1705.07215)
    one-sided      max(0, n - target)^2  WGAN-LP (Petzka et al., "On the regularization of Wasserstein GANs", ICLR 2018)
    zero-centred   n^2                   R1, R2 (Mescheder et al., "Which training methods for GANs do actually converge?",
                                         ICML 2018, eq. 9; with the weight gamma / 2), MEG
    power          n^power               WGAN-div (Wu et al., "Wasserstein divergence for GANs", ECCV 2018; weight 2, power 6)
    max            (max_b n_b)^2         max-GP; not a mean. Its gradient goes to the first sample that has the largest norm

    form
    gn             D / (n + |D|)         GN-GAN (Wu et al., "Gradient normalization for generative adversarial networks", 2021)
    gran           D n / (n^2 + eps)     GraN-GAN (Bhaskara et al., "GraN-GAN: piecewise gradient normalization for generative
                                         adversarial networks", WACV 2022)

Where n is 0 every derivative of n counts as 0, to any order; n^2 is smooth there and has its own.

Where D is sure of itself its gradient is 1e-22 and less, and the squares of that are nothing in float32. Squares are therefore
added up in float64, as is all that is done with one number a sample: on the GPUs this is for that is hidden behind memory
(an H100 converts 3.6e12 numbers a second and can read 1.7e12 bfloat16 ones). The penalty and the norms are float32 (float64 for
float64). A derivative phi'(n) / n beyond float32's range is cut to its largest number: seen where n itself is below 1e-38.
Autocast changes nothing.

Everything is made of two operations on a sample's row, closed under differentiation, so any order exists:

    row_dot(x, y)_b = sum_i x_bi y_bi         row_scale(x, s)_b = s_b x_b

The penalty is a row_dot of grad with itself (a launch), finished by one small program that also writes phi'(n) / (n B), with
which the backward pass is a row_scale (a launch).

Bytes per element, e to the element of grad (4 in float32), and what eager code moves: grad.flatten(1).norm(2, dim=1), or
grad.square().flatten(1).sum(1) for R1:

                kernel    norm                                            square
    forward      e        e                                               3 e   (square: 2, sum: 1)
    backward     2 e      6 e   (divided by the norm: 2, masked where     6 e   (to the power 1: 2, doubled: 2, times the
                                that is 0: 2, times the gradient: 2)            gradient: 2)

Channels-last costs the kernels no more; eager code first copies, 2 e.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, taken
from .layout import dense_rows, like
from .operation import Example, Operation
from .operator import operator
from .reduction import WARPS, accumulator

KINDS = ("two-sided", "one-sided", "zero-centred", "power", "max")
FORMS = ("gn", "gran")

BLOCK = 2048
"""Numbers of a row that a program has in hand, at most: 16 a thread, so that four 16-byte loads of float32 are under way."""

SHORT = 512
"""Numbers in hand where rows are short and several go together; these are read 4 bytes at a time."""

PROGRAMS = 1024
"""Programs among which rows are split: some eight for each multiprocessor, what one holds at a time."""

PIECE = 1024
"""Numbers that the CPU's path adds up in float32 before it goes on in float64."""

COPIED = 2**19
"""Numbers in half precision that it widens at a time."""

FINISHING = 512
"""Partial sums that the finishing program has in hand."""


def gradient_penalty(grad: Tensor, kind: str = "two-sided", *, target: float = 1.0, power: float = 2.0) -> Tensor:
    """The penalty on the norms of D's gradient, without its weight.

    Args:
        grad: (B, ...), floating point, any layout: the gradient of each sample's score towards that sample.
        kind: "two-sided", "one-sided", "zero-centred", "power" or "max", see the table above.
        target: the norm asked for by the two-sided kind and allowed by the one-sided one, at least 0. Others ignore it.
        power: of the norm, for the kind "power", at least 1. Others ignore it.

    Returns:
        A scalar, float32 (float64 for float64); NaN for an empty batch, as a mean is. Differentiable to any order.

    Raises:
        ValueError: an unknown kind, a number out of range, or a gradient that is no floating-point (B, ...) tensor.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if not 0 <= target < math.inf:
        raise ValueError(f"target must be finite and at least 0, not {target}")
    if not 1 <= power < math.inf:
        raise ValueError(f"power must be finite and at least 1, not {power}")
    _check_gradient(grad)
    arguments = grad, _plain(kind, target, power), float(target), float(power)
    if type(grad) is Tensor and grad.device.type == "cpu" and not taken() and not torch.compiler.is_compiling():
        return _PenaltyOnCpu.apply(*arguments)
    return _penalty(*arguments)[0]


def gradient_norms(grad: Tensor) -> Tensor:
    """The l2 norm of each sample's gradient.

    Args:
        grad: (B, ...), floating point, any layout.

    Returns:
        (B,), float32 (float64 for float64). Differentiable to any order; where a norm is 0 every derivative is 0.

    Raises:
        ValueError: not a floating-point (B, ...) tensor.
    """
    _check_gradient(grad)
    return _norms(grad)[0]


def gradient_normalised_score(score: Tensor, grad: Tensor, form: str = "gn", eps: float = 0.1) -> Tensor:
    """D's scores divided by what the norm of their gradients says: bounded, and Lipschitz where D is piecewise linear.

    The norms come from the kernel; what follows is a handful of operations on (B,) numbers, in plain torch: D's loss and the
    refinement of latents differentiate it twice in both arguments, and a kernel for each order would save microseconds.

    Args:
        score: (B,), floating point.
        grad: (B, ...), floating point, any layout: the gradient of each score towards its sample.
        form: "gn", D / (n + |D|) in [-1, 1], or "gran", D n / (n^2 + eps).
        eps: of the form "gran", above 0. The other ignores it.

    Returns:
        (B,), float32 (float64 where an argument is); 0 where both D and n are. Differentiable to any order, with derivative 0
        there and with respect to a norm that is 0.

    Raises:
        ValueError: an unknown form, eps out of range, or shapes, types or devices that do not fit.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be finite and above 0, not {eps}")
    _check_gradient(grad)
    if score.shape != grad.shape[:1] or not score.is_floating_point() or score.device != grad.device:
        raise ValueError(
            f"score must be floating-point ({len(grad)},) on {grad.device}, not {score.dtype} {tuple(score.shape)} on "
            f"{score.device}"
        )
    return _normalised(score.to(accumulator(score.dtype)), _norms(grad)[0], form, eps)


def _check_gradient(grad: Tensor) -> None:
    if grad.dim() == 0 or not grad.is_floating_point():
        raise ValueError(f"a gradient is a floating-point (B, ...) tensor, not {grad.dtype} {tuple(grad.shape)}")


def _plain(kind: str, target: float, power: float) -> str:
    """What is n^2 under another name, is n^2: smooth at 0."""
    squared = (kind in ("two-sided", "one-sided") and target == 0) or (kind == "power" and power == 2)
    return "zero-centred" if squared else kind


def _normalised(score: Tensor, norm: Tensor, form: str, eps: float) -> Tensor:
    if form == "gran":
        return score * (norm / (norm.square() + eps))
    size = norm + score.abs()
    nothing = size == 0
    return (score / size.masked_fill(nothing, 1)).masked_fill(nothing, 0)


def gradient_penalty_reference(grad: Tensor, kind: str = "two-sided", *, target: float = 1.0, power: float = 2.0) -> Tensor:
    """`gradient_penalty` in plain torch, without its checks."""
    rows = grad.to(accumulator(grad.dtype)).reshape(len(grad), grad[:1].numel())
    if _plain(kind, target, power) == "zero-centred":
        return rows.square().sum(1).mean()
    norm = torch.linalg.vector_norm(rows, dim=1)
    if kind == "max":
        return norm.max(0).values.square() if len(norm) else norm.mean()
    if kind == "power":
        return norm.pow(power).mean()
    gap = norm - target
    return (gap if kind == "two-sided" else gap.relu()).square().mean()


def gradient_normalised_score_reference(score: Tensor, grad: Tensor, form: str = "gn", eps: float = 0.1) -> Tensor:
    """`gradient_normalised_score` in plain torch, without its checks."""
    rows = grad.to(accumulator(grad.dtype)).reshape(len(grad), grad[:1].numel())
    return _normalised(score.to(accumulator(score.dtype)), torch.linalg.vector_norm(rows, dim=1), form, eps)


def _slope(norm: Tensor, kind: str, target: float, power: float) -> Tensor:
    """phi'(n) / (n B) of the kinds that are means, for norms that are not 0."""
    batch = max(len(norm), 1)
    if kind == "zero-centred":
        return torch.full_like(norm, 2 / batch)
    if kind == "power":
        return norm.pow(power - 2) * (power / batch)
    slope = (norm - target) / norm * (2 / batch)
    return slope if kind == "two-sided" else slope.relu()


def _rounded_slope(norm: Tensor, real: torch.dtype, kind: str, target: float, power: float) -> Tensor:
    """The same of any norms, in `real`; what is divided by 0 is 0, with derivative 0."""
    nothing = norm == 0
    slope = _slope(norm.masked_fill(nothing, 1), kind, target, power)
    return _rounded(slope if kind == "zero-centred" else slope.masked_fill(nothing, 0), real)


def _rounded_inverse(norm: Tensor, real: torch.dtype) -> Tensor:
    """1 / n in `real`; 0 where n is 0, with derivative 0."""
    nothing = norm == 0
    return _rounded(norm.masked_fill(nothing, 1).reciprocal().masked_fill(nothing, 0), real)


def _rounded(x: Tensor, real: torch.dtype) -> Tensor:
    """float64 numbers in `real`, cut to its range: an infinite factor would make a NaN of 0."""
    limit = torch.finfo(real).max
    return x.clamp(-limit, limit).to(real)


def _columns(x: Tensor) -> int:
    """Values of a sample."""
    return math.prod(x.shape[1:])


def _rows(x: Tensor) -> Tensor:
    """What `dense_rows` gave, as (B, values of a sample) without a copy."""
    return x.as_strided((len(x), _columns(x)), (_columns(x), 1))


def _norms_in_float64(grad: Tensor) -> tuple[Tensor, bool]:
    """Norms, and whether all of them are ordinary numbers, which float32 can square and divide by.

    In float32 where the squares fit. Times of (64, 3, 64, 64) in float32 on one thread: 47 us for `vector_norm`, the fastest of
    torch's reductions (square and sum 90, a dot product for each row 97, einsum and bmm 580), but 179 in float64. It adds up in
    a few long chains, 3e6 numbers with an error of 7e-5: therefore in pieces."""
    rows = _rows(dense_rows(grad))
    if grad.dtype != torch.float64 and rows.numel():
        columns = rows.shape[1]
        piece = min(columns, PIECE)
        whole = columns // piece * piece
        pieces = (rows if whole == columns else rows[:, :whole]).view(len(rows), -1, piece)
        if grad.dtype == torch.float32:
            norms = _float32_norms(pieces)
        else:
            # Through a copy in float32: by the megabyte, for fresh memory costs more than the sums do (forward and backward at
            # (64, 3, 128, 128): 1.4 ms in one copy, 0.9 so).
            norms = torch.cat([_float32_norms(some) for some in pieces.split(max(COPIED // columns, 1))])
        if whole < columns:
            norms = torch.cat((norms, _float32_norms(rows[:, None, whole:])), 1)
        norm = torch.linalg.vector_norm(norms, dim=1, dtype=torch.float64)
        least, most = norm.aminmax()
        if least.item() > 1e-15 and most.item() < 1e18:  # then what left float32's range is too small to count; a NaN fails
            return norm, True
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64), False


def _float32_norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=2, dtype=torch.float32)


def _penalty_cpu(grad: Tensor, kind: str, target: float, power: float) -> tuple[Tensor, Tensor]:
    (norm, ordinary), real = _norms_in_float64(grad), accumulator(grad.dtype)
    if not len(norm):
        return norm.mean().to(real), norm.to(real)
    if kind == "max":
        largest, first = norm.max(0)
        return largest.square().to(real), torch.zeros_like(norm, dtype=real).index_fill_(0, first, 2.0)
    if kind == "power":
        value = norm.pow(power)
    elif kind == "zero-centred":
        value = norm.square()
    else:
        value = (norm - target if kind == "two-sided" else (norm - target).relu_()).square_()
    if ordinary and kind != "power":
        slope = _slope(norm, kind, target, power).to(real)
    else:
        slope = _rounded_slope(norm, real, kind, target, power)
    return value.mean().to(real), slope


def _norms_cpu(grad: Tensor) -> tuple[Tensor, Tensor]:
    (norm, _), real = _norms_in_float64(grad), accumulator(grad.dtype)
    return norm.to(real), _rounded_inverse(norm, real)


def _dot_cpu(x: Tensor, y: Tensor) -> Tensor:
    x = dense_rows(x)
    return (_rows(x).double() * _rows(like(y, x))).sum(1).to(accumulator(x.dtype))


def _scale_cpu(x: Tensor, scale: Tensor, factor: Tensor) -> Tensor:
    x, each = dense_rows(x), (-1, *[1] * (x.dim() - 1))
    both = scale * factor
    if not math.isfinite(both.sum().item()):  # of tiny gradients: one after the other, they may give ordinary numbers
        return (x * scale.view(each) * factor.expand_as(scale).view(each)).to(x.dtype)
    if x.dtype == both.dtype:
        return x * both.view(each)
    # A batch norm whose channels are the samples scales half precision with numbers in float32 and rounds once: in 87 us, where
    # a float32 product that is then rounded takes 162.
    zero, one = torch.zeros_like(both), torch.ones_like(both)
    scaled = torch.native_batch_norm(_rows(x)[None], both, zero, zero, one, False, 0.0, 0.0)[0]
    return scaled.as_strided(x.shape, x.stride())


@triton.jit
def dot_kernel(
    x_ptr,
    y_ptr,  # None: x itself
    partial_ptr,  # (B, PARTS), float64
    batch,
    columns,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = (program // PARTS) * ROWS + tl.arange(0, ROWS)
    part = program % PARTS
    sums = tl.zeros((ROWS, BLOCK), tl.float64)
    for sweep in range(0, tl.cdiv(columns, PARTS * BLOCK)):
        column = (sweep * PARTS + part) * BLOCK + tl.arange(0, BLOCK)
        at = row[:, None] * columns + column[None, :]
        inside = (row < batch)[:, None] & (column < columns)[None, :]
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float64)
        if y_ptr is None:
            sums += x * x
        else:
            sums += x * tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float64)
    tl.store(partial_ptr + row * PARTS + part, tl.sum(sums, 1), mask=row < batch)


@triton.jit
def _sums(partial_ptr, row, batch, PARTS: tl.constexpr):
    at = row[:, None] * PARTS + tl.arange(0, PARTS)[None, :]
    return tl.sum(tl.load(partial_ptr + at, mask=(row < batch)[:, None], other=0.0), 1)


@triton.jit
def _rounded_in(x, dtype: tl.constexpr):
    """float64 numbers, cut to float32's range if they go there. Not tl.clamp, which would make a bound of a NaN."""
    if dtype == tl.float32:
        x = tl.where(x > 3.4028234663852886e38, 3.4028234663852886e38, x)
        x = tl.where(x < -3.4028234663852886e38, -3.4028234663852886e38, x)
    return x.to(dtype)


@triton.jit
def sums_kernel(
    partial_ptr,
    out_ptr,  # the sums, or their roots
    inverse_ptr,  # of the roots; None: sums are wanted
    batch,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = _sums(partial_ptr, row, batch, PARTS)
    if inverse_ptr is not None:
        total = tl.sqrt(total)
        inverse = tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))
        tl.store(inverse_ptr + row, _rounded_in(inverse, inverse_ptr.dtype.element_ty), mask=row < batch)
    tl.store(out_ptr + row, total.to(out_ptr.dtype.element_ty), mask=row < batch)


@triton.jit
def penalty_kernel(
    partial_ptr,
    penalty_ptr,
    slope_ptr,
    batch,
    target: tl.float64,
    power: tl.float64,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One program, which goes over the samples in order."""
    values = tl.zeros((ROWS,), tl.float64)
    largest = tl.full((), -1.0, tl.float64)
    first = tl.full((), 0, tl.int64)
    for start in range(0, batch, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        norm = tl.sqrt(_sums(partial_ptr, row, batch, PARTS))
        nothing = norm == 0
        safe = tl.where(nothing, 1.0, norm)
        if KIND == "max":
            order = tl.where(row < batch, tl.where(norm == norm, norm, float("inf")), -1.0)  # a NaN should be seen
            here = tl.max(order, 0)
            if here > largest:
                first = tl.min(tl.where(order == here, row, batch), 0)
                largest = here
            value = tl.where(norm == norm, 0.0, norm)
        else:
            if KIND == "zero-centred":
                value = norm * norm
                slope = tl.full((ROWS,), 2.0, tl.float64)
            elif KIND == "power":
                value = tl.where(nothing, 0.0, tl.exp2(power * tl.log2(safe)))
                slope = tl.where(nothing, 0.0, power * tl.exp2((power - 2.0) * tl.log2(safe)))
            else:
                gap = norm - target
                if KIND == "one-sided":
                    gap = tl.where(gap < 0, 0.0, gap)
                value = gap * gap
                slope = tl.where(nothing, 0.0, 2.0 * gap / safe)
            slope = _rounded_in(slope / batch, slope_ptr.dtype.element_ty)
            tl.store(slope_ptr + row, slope, mask=row < batch)
        values += tl.where(row < batch, value, 0.0)
    total = tl.sum(values, 0)
    if KIND == "max":
        for start in range(0, batch, ROWS):
            row = start + tl.arange(0, ROWS).to(tl.int64)
            tl.store(slope_ptr + row, tl.where(row == first, 2.0, 0.0).to(slope_ptr.dtype.element_ty), mask=row < batch)
        penalty = largest * largest + total
    else:
        penalty = total / batch
    tl.store(penalty_ptr, penalty.to(penalty_ptr.dtype.element_ty))


@triton.jit
def scale_kernel(
    x_ptr,
    scale_ptr,
    factor_ptr,
    out_ptr,
    batch,
    columns,
    FACTORS: tl.constexpr,  # 1: each sample has a factor of its own; 0: one for all
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(columns, BLOCK)
    row = (program // blocks) * ROWS + tl.arange(0, ROWS)
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = row[:, None] * columns + column[None, :]
    inside = (row < batch)[:, None] & (column < columns)[None, :]
    scale = tl.load(scale_ptr + row, mask=row < batch, other=0.0)[:, None]
    factor = tl.load(factor_ptr + row * FACTORS, mask=row < batch, other=0.0)[:, None]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(scale.dtype)
    # In this order: the scale of a tiny gradient is large, and times the factor it might be infinite.
    tl.store(out_ptr + at, (x * scale * factor).to(out_ptr.dtype.element_ty), mask=inside)


def tile(columns: int, element_size: int) -> tuple[int, int]:
    """Rows and columns that a program handles at a time: several rows where they are short."""
    block = min(triton.next_power_of_2(max(columns, 1)), BLOCK if element_size <= 4 else BLOCK // 2)
    return max(SHORT // block, 1), block


def parts(batch: int, columns: int) -> int:
    """Programs that share a row: a power of 4, for each is a configuration; no more than have a block to add, and than make
    enough programs of all rows."""
    count = 1
    while 4 * count * BLOCK <= columns and count * batch < PROGRAMS:
        count *= 4
    return count


def _launch_dot(x: Tensor, y: Tensor | None) -> Tensor:
    """Partial sums (B, parts) of the products of x's rows with y's, or with themselves."""
    x = dense_rows(x)
    y = y if y is None else like(y, x)
    batch, columns = len(x), _columns(x)
    (rows, block), count = tile(columns, x.element_size()), parts(batch, columns)
    partial = torch.empty(batch, count, dtype=torch.float64, device=x.device)
    grid = (triton.cdiv(batch, rows) * count,)
    launch(dot_kernel, grid, x, y, partial, batch, columns, warps=WARPS, ROWS=rows, BLOCK=block, PARTS=count)
    return partial


def _launch_sums(partial: Tensor, real: torch.dtype, norms: bool) -> tuple[Tensor, Tensor | None]:
    batch, count = partial.shape
    out = partial.new_empty(batch, dtype=real)
    inverse = torch.empty_like(out) if norms else None
    rows = max(FINISHING // count, 1)
    launch(sums_kernel, (triton.cdiv(batch, rows),), partial, out, inverse, batch, warps=WARPS, ROWS=rows, PARTS=count)
    return out, inverse


def _launch_penalty(grad: Tensor, kind: str, target: float, power: float) -> tuple[Tensor, Tensor]:
    batch, real = len(grad), accumulator(grad.dtype)
    slope = grad.new_empty(batch, dtype=real)
    if batch == 0:
        return grad.new_full((), torch.nan, dtype=real), slope
    partial, penalty = _launch_dot(grad, None), grad.new_empty((), dtype=real)
    count = partial.shape[1]
    sizes = {"KIND": kind, "ROWS": max(FINISHING // count, 1), "PARTS": count}
    launch(penalty_kernel, (1,), partial, penalty, slope, batch, target, power, warps=WARPS, **sizes)
    return penalty, slope


def _launch_scale(x: Tensor, scale: Tensor, factor: Tensor) -> Tensor:
    x, scale, factor = dense_rows(x), scale.contiguous(), factor.contiguous()
    out, batch, columns = torch.empty_like(x), len(x), _columns(x)
    rows, block = tile(columns, x.element_size())
    grid = (triton.cdiv(batch, rows) * triton.cdiv(columns, block),)
    sizes = {"FACTORS": factor.dim(), "ROWS": rows, "BLOCK": block}
    launch(scale_kernel, grid, x, scale, factor, out, batch, columns, warps=WARPS, **sizes)
    return out


def _fake_penalty(grad: Tensor, kind: str, target: float, power: float) -> tuple[Tensor, Tensor]:
    real = accumulator(grad.dtype)
    return grad.new_empty((), dtype=real), grad.new_empty(len(grad), dtype=real)


def _fake_norms(grad: Tensor) -> tuple[Tensor, Tensor]:
    norm = grad.new_empty(len(grad), dtype=accumulator(grad.dtype))
    return norm, torch.empty_like(norm)


_penalty = operator("gradient_penalty", cpu=_penalty_cpu, kernels=_launch_penalty, fake=_fake_penalty)
_norms = operator(
    "gradient_norms",
    cpu=_norms_cpu,
    kernels=lambda grad: _launch_sums(_launch_dot(grad, None), accumulator(grad.dtype), norms=True),
    fake=_fake_norms,
)
_row_dot = operator(
    "row_dot",
    cpu=_dot_cpu,
    kernels=lambda x, y: _launch_sums(_launch_dot(x, y), accumulator(x.dtype), norms=False)[0],
    fake=lambda x, y: x.new_empty(len(x), dtype=accumulator(x.dtype)),
)
_row_scale = operator(
    "row_scale",
    cpu=_scale_cpu,
    kernels=_launch_scale,
    fake=lambda x, scale, factor: torch.empty_like(dense_rows(x)),
)


def _save_penalty(ctx, inputs, output) -> None:
    grad, *ctx.rest = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(grad, output[1])


def _penalty_backward(ctx, upstream: Tensor, _):
    grad, slope = ctx.saved_tensors
    kind = ctx.rest[0]
    if torch.is_grad_enabled() and kind not in ("zero-centred", "max"):  # those slopes are constants
        # In float64, for with norms of 1e-22 its derivatives leave float32's range; the gradients that they lead to don't.
        slope = _rounded_slope(_norms(grad)[0].double(), slope.dtype, *ctx.rest)
    return _row_scale(grad, slope, upstream), None, None, None


class _PenaltyOnCpu(torch.autograd.Function):
    """The operator without its dispatch, which takes 10 to 35 us forward and backward; all of eager code takes 25 to 40 for a
    batch of points or digits."""

    @staticmethod
    def forward(ctx, grad: Tensor, *rest) -> Tensor:
        penalty, slope = _penalty_cpu(grad, *rest)
        ctx.save_for_backward(grad, slope)
        ctx.rest = rest
        return penalty

    @staticmethod
    def backward(ctx, upstream: Tensor):
        if torch.is_grad_enabled():
            return _penalty_backward(ctx, upstream, None)
        return _scale_cpu(*ctx.saved_tensors, upstream), None, None, None


def _save_norms(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _norms_backward(ctx, upstream: Tensor, _):
    grad, norm, inverse = ctx.saved_tensors
    if torch.is_grad_enabled():
        inverse = _rounded_inverse(norm.double(), inverse.dtype)
    return _row_scale(grad, inverse, upstream)


def _save_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx, upstream: Tensor):
    x, y = ctx.saved_tensors
    one = upstream.new_ones(())
    to_x, to_y = ctx.needs_input_grad
    return _row_scale(y, upstream, one) if to_x else None, _row_scale(x, upstream, one) if to_y else None


def _scale_backward(ctx, upstream: Tensor):
    x, scale, factor = ctx.saved_tensors
    to_x, to_scale, to_factor = ctx.needs_input_grad
    dot = _row_dot(x, upstream) if to_scale or to_factor else None
    return (
        _row_scale(upstream, scale, factor) if to_x else None,
        dot * factor if to_scale else None,
        (dot * scale).sum_to_size(factor.shape) if to_factor else None,
    )


_penalty.register_autograd(_penalty_backward, setup_context=_save_penalty)
_norms.register_autograd(_norms_backward, setup_context=_save_norms)
_row_dot.register_autograd(_dot_backward, setup_context=_save_inputs)
_row_scale.register_autograd(_scale_backward, setup_context=_save_inputs)


def _eager_penalty(grad: Tensor, kind: str = "two-sided", *, target: float = 1.0, power: float = 2.0) -> Tensor:
    if kind == "zero-centred":
        return grad.square().flatten(1).sum(1).mean()
    norm = grad.flatten(1).norm(2, dim=1)
    if kind == "max":
        return norm.max() ** 2
    if kind == "power":
        return (norm**power).mean()
    gap = norm - target
    return ((gap if kind == "two-sided" else gap.relu()) ** 2).mean()


def _eager_score(score: Tensor, grad: Tensor, form: str = "gn", eps: float = 0.1) -> Tensor:
    norm = grad.flatten(1).norm(2, dim=1)
    return score / (norm + score.abs()) if form == "gn" else score * norm / (norm**2 + eps)


def _arguments(example: Example, device: str, seed: int) -> dict:
    return {"grad": example.tensor(device, seed), **example.options}


def _score_arguments(example: Example, device: str, seed: int) -> dict:
    return {"score": example.tensor(device, seed + 1, example.shape[0]), **_arguments(example, device, seed)}


def _minimum(example: Example) -> tuple[int, int]:
    elements = torch.Size(example.shape).numel() * example.dtype.itemsize
    return elements, 2 * elements


OPERATION = Operation(
    name="gradient_penalty",
    summary="norms of D's gradients, a sample each, to a penalty (WGAN-GP, DRAGAN, R1, R2, WGAN-div, max-GP)",
    arguments=_arguments,
    fused=gradient_penalty,
    eager=_eager_penalty,
    reference=gradient_penalty_reference,
    minimum=_minimum,
    wrt=("grad",),
    examples=(
        Example("64x64 images", (64, 3, 64, 64)),
        Example("CIFAR images, R1", (64, 3, 32, 32), channels_last=True, options={"kind": "zero-centred"}),
        Example("BigGAN 128x128 images", (256, 3, 128, 128), torch.bfloat16, channels_last=True),
        Example("BigGAN 128x128 images, R1", (256, 3, 128, 128), options={"kind": "zero-centred"}),
        Example("BigGAN 128x128 images, WGAN-div", (256, 3, 128, 128), options={"kind": "power", "power": 6.0}),
        Example("BigGAN 128x128 images, WGAN-LP", (256, 3, 128, 128), torch.bfloat16, options={"kind": "one-sided"}),
        Example("512x512 images, max-GP", (8, 3, 512, 512), channels_last=True, options={"kind": "max"}),
    ),
    small=(
        Example("odd", (3, 2, 5, 7)),
        Example("odd", (3, 2, 5, 7), channels_last=True, options={"kind": "zero-centred"}),
        Example("odd, one-sided", (5, 2, 5, 7), options={"kind": "one-sided", "target": 8.0}),
        Example("odd, zero target", (3, 2, 5, 7), options={"target": 0.0}),
        Example("odd, power", (3, 7), options={"kind": "power", "power": 3.5}),
        Example("odd, max", (5, 2, 3, 7), channels_last=True, options={"kind": "max"}),
        Example("rows of several blocks", (2, 3, 29, 61), options={"target": 70.0}),
        Example("rows of several programs", (2, 3, 67, 61), channels_last=True, options={"kind": "power", "power": 1.0}),
        Example("more samples than a block", (1100, 2), options={"kind": "max"}),
        Example("one number", (1, 1)),
        Example("numbers", (5,)),
        Example("empty batch", (0, 3, 4, 4)),
        Example("empty batch", (0, 3, 4, 4), options={"kind": "max"}),
        Example("empty samples", (3, 0)),
    ),
    share=0.5,
)

NORMALISED = Operation(
    name="gradient_normalised_score",
    summary="scores normalised by the norms of their gradients (GN-GAN, GraN-GAN)",
    arguments=_score_arguments,
    fused=gradient_normalised_score,
    eager=_eager_score,
    reference=gradient_normalised_score_reference,
    minimum=_minimum,
    wrt=("score", "grad"),
    examples=(
        Example("64x64 images", (64, 3, 64, 64)),
        Example("BigGAN 128x128 images", (256, 3, 128, 128), torch.bfloat16, channels_last=True),
        Example("BigGAN 128x128 images, GraN", (256, 3, 128, 128), options={"form": "gran"}),
    ),
    small=(
        Example("odd", (3, 2, 5, 7)),
        Example("odd", (3, 2, 5, 7), channels_last=True, options={"form": "gran"}),
        Example("rows of several programs", (2, 3, 67, 61), channels_last=True),
        Example("one number", (1, 1), options={"form": "gran"}),
        Example("empty batch", (0, 3, 4, 4)),
    ),
    share=0.5,
)
OPERATIONS = (OPERATION, NORMALISED)
