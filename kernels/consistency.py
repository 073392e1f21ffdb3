"""The consistency loss: how far two judgements, or two images, of what should be the same thing lie apart.

    L = weight * m (a - b)^2,     m over batch and elements
    dL/da = 2 weight / n (a - b) = -dL/db

It is the |D(x) - D(T(x))|^2 of consistency regularisation (Zhang, Zhang, Odena, Lee, "Consistency regularization for generative
adversarial networks", ICLR 2020, equation 4), of its balanced and latent forms, and zCR's |G(z) - G(T(z))|^2 (Zhao et al.,
"Improved consistency regularization for GANs", AAAI 2021, sections 2.2 and 2.3).

Differences and sums are in float32 (float64 for float64), whatever the precision of a and b; so is L. Autocast changes nothing.

Bytes per element, e to the element of a and b (4 in float32):

                            kernel              eager (a - b).square().mean()
    forward                 2 e                 6 e      (subtract: 3, square: 2, mean: 1)
    backward, both sides    4 e                10 e      (mean: 1, square: 7 in three operations, b's sign: 2)
    backward, one side      3 e                 8 e      (10 e where the side is b)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, taken
from .layout import dense, like
from .operation import Example, Operation
from .operator import operator
from .reduction import BLOCK, WARPS, accumulator, parts, total

SIDES = ("none", "first", "second")

_PIECE = 1024
_SMALL = 2**14
"""Numbers up to which, on the CPU, an operator's dispatch takes longer than it saves: 64 scores took 50 us, plain torch 27."""


def consistency(a: Tensor, b: Tensor, weight: float = 1.0, stop: str = "none") -> Tensor:
    """weight times the mean squared difference of two tensors.

    Args:
        a, b: floating point, any shape and layout, the same for both: scores (B,), feature maps, images.
        weight: any number.
        stop: the side that is taken as a constant, "first", "second" or "none". A side that requires no gradient is one anyway;
            its gradient is neither computed nor written.

    Returns:
        A scalar, float32 (float64 for float64); NaN for empty tensors, as a mean is. Differentiable to any order.

    Raises:
        ValueError: different shapes, types or devices, or an unknown `stop`.
    """
    if stop not in SIDES:
        raise ValueError(f"stop must be one of {', '.join(SIDES)}, not {stop!r}")
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or not a.is_floating_point():
        raise ValueError(
            f"consistency compares two floating-point tensors of one shape, type and device, not {a.dtype} {tuple(a.shape)} on "
            f"{a.device} and {b.dtype} {tuple(b.shape)} on {b.device}"
        )
    if a.device.type == "cpu" and a.dim() < 3 and a.numel() <= _SMALL and not taken():
        return consistency_reference(a, b, weight, stop)
    a, b = (a.detach() if stop == "first" else a), (b.detach() if stop == "second" else b)
    return _loss(a, b, float(weight))


def consistency_reference(a: Tensor, b: Tensor, weight: float = 1.0, stop: str = "none") -> Tensor:
    """`consistency` in plain torch, without its checks."""
    real = accumulator(a.dtype, b.dtype)
    a, b = (a.detach() if stop == "first" else a), (b.detach() if stop == "second" else b)
    return weight * (a.to(real) - b.to(real)).square().mean()


def _loss_cpu(a: Tensor, b: Tensor, weight: float) -> Tensor:
    if a.numel() == 0:
        return torch.full((), torch.nan, dtype=accumulator(a.dtype))
    a = dense(a)
    difference = torch.sub(a.to(accumulator(a.dtype)), like(b, a).to(accumulator(a.dtype)))
    difference = difference.as_strided((a.numel(),), (1,))  # its memory as one row, in whatever order
    whole = a.numel() // _PIECE * _PIECE
    # In pieces: one float32 sum of ten million squares is off by 3e-4.
    squares = torch.linalg.vector_norm(difference[:whole].view(-1, _PIECE), dim=1).double().square_().sum()
    squares += torch.linalg.vector_norm(difference[whole:]).double().square_()
    return squares.mul_(weight / a.numel()).to(difference.dtype)


def _slope_cpu(a: Tensor, b: Tensor, upstream: Tensor, weight: float, first: bool, second: bool) -> list[Tensor]:
    # In half precision the difference is rounded, and the slope again: widened, this took 2.8 times as long.
    slope = torch.sub(a, b).mul_(float(upstream) * 2 * weight / max(a.numel(), 1))
    return ([slope] if first else []) + ([slope.neg()] if second else [])


@triton.jit
def loss_kernel(a_ptr, b_ptr, partial_ptr, count, BLOCK: tl.constexpr):
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    stride = tl.num_programs(0).to(tl.int64) * BLOCK
    squares = tl.zeros((BLOCK,), REAL)
    for sweep in range(0, tl.cdiv(count, stride)):
        at = sweep * stride + program * BLOCK + tl.arange(0, BLOCK)
        a = tl.load(a_ptr + at, mask=at < count, other=0.0).to(REAL)
        b = tl.load(b_ptr + at, mask=at < count, other=0.0).to(REAL)
        squares += (a - b) * (a - b)
    tl.store(partial_ptr + program, tl.sum(squares, 0))


@triton.jit
def slope_kernel(a_ptr, b_ptr, upstream_ptr, to_a_ptr, to_b_ptr, count, scale: tl.float64, BLOCK: tl.constexpr):
    REAL: tl.constexpr = upstream_ptr.dtype.element_ty
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + at, mask=at < count, other=0.0).to(REAL)
    b = tl.load(b_ptr + at, mask=at < count, other=0.0).to(REAL)
    slope = (a - b) * (tl.load(upstream_ptr) * tl.full((), scale, REAL))
    if to_a_ptr is not None:
        tl.store(to_a_ptr + at, slope.to(to_a_ptr.dtype.element_ty), mask=at < count)
    if to_b_ptr is not None:
        tl.store(to_b_ptr + at, (-slope).to(to_b_ptr.dtype.element_ty), mask=at < count)


def _launch_loss(a: Tensor, b: Tensor, weight: float) -> Tensor:
    a = dense(a)
    b, count = like(b, a), a.numel()
    real = accumulator(a.dtype)
    if count == 0:
        return torch.full((), torch.nan, dtype=real, device=a.device)
    partial = torch.empty(parts(count), dtype=real, device=a.device)
    launch(loss_kernel, partial.shape, a, b, partial, count, warps=WARPS, BLOCK=BLOCK)
    return total(partial, weight / count)


def _launch_slope(a: Tensor, b: Tensor, upstream: Tensor, weight: float, first: bool, second: bool) -> list[Tensor]:
    a = dense(a)
    b, count = like(b, a), a.numel()
    to_a, to_b = (torch.empty_like(a) if wanted else None for wanted in (first, second))
    grid = (triton.cdiv(count, BLOCK),)
    scale = 2 * weight / max(count, 1)
    launch(slope_kernel, grid, a, b, upstream, to_a, to_b, count, scale, warps=WARPS, BLOCK=BLOCK)
    return [side for side in (to_a, to_b) if side is not None]


def _fake_slope(a: Tensor, b: Tensor, upstream: Tensor, weight: float, first: bool, second: bool) -> list[Tensor]:
    return [torch.empty_like(a) for wanted in (first, second) if wanted]


_loss = operator(
    "consistency",
    cpu=_loss_cpu,
    kernels=_launch_loss,
    fake=lambda a, b, weight: a.new_empty((), dtype=accumulator(a.dtype)),
)
_slope = operator("consistency_backward", cpu=_slope_cpu, kernels=_launch_slope, fake=_fake_slope)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.weight = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, upstream: Tensor):
    a, b = ctx.saved_tensors
    first, second = ctx.needs_input_grad[:2]
    if torch.is_grad_enabled():  # to be differentiated again: in operations that torch differentiates
        slope = (upstream * (2 * ctx.weight / max(a.numel(), 1)) * (a.to(upstream.dtype) - b.to(upstream.dtype))).to(a.dtype)
        return slope if first else None, -slope if second else None, None
    slopes = iter(_slope(a, b, upstream, ctx.weight, first, second))
    return next(slopes) if first else None, next(slopes) if second else None, None


_loss.register_autograd(_backward, setup_context=_save)


def _arguments(example: Example, device: str, seed: int) -> dict:
    a, b = (example.tensor(device, seed + side) for side in range(2))
    return {"a": a, "b": b, "weight": 10.0, **example.options}


def _minimum(example: Example) -> tuple[int, int]:
    elements = torch.Size(example.shape).numel() * example.dtype.itemsize
    sides = 1 if example.options.get("stop", "none") != "none" else 2
    return 2 * elements, (2 + sides) * elements


OPERATION = Operation(
    name="consistency",
    summary="weighted mean squared difference (CR, bCR, zCR)",
    arguments=_arguments,
    fused=consistency,
    eager=lambda a, b, weight, stop="none": (
        weight * ((a.detach() if stop == "first" else a) - (b.detach() if stop == "second" else b)).square().mean()
    ),
    reference=consistency_reference,
    minimum=_minimum,
    wrt=("a", "b"),
    examples=(
        Example("64x64 images", (64, 3, 64, 64)),
        Example("BigGAN 128x128 images", (256, 3, 128, 128), torch.bfloat16, channels_last=True),
        Example("BigGAN 128x128 images", (256, 3, 128, 128), channels_last=True, options={"stop": "first"}),
        Example("BigGAN features", (256, 1536), options={"stop": "second"}),
    ),
    small=(
        Example("odd", (3, 2, 5, 7)),
        Example("odd", (3, 2, 5, 7), channels_last=True, options={"stop": "second"}),
        Example("more than a block", (5, 1, 33, 17), options={"stop": "first"}),
        Example("one score", (1,)),
        Example("empty", (0, 3, 4, 4)),
    ),
)
