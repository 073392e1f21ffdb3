"""Mode seeking: how far two images lie apart for the distance of their latents.

    ratio = m |x2 - x1| / ( m |z2 - z1| + offset )        m over batch and elements
    loss  = 1 / ( ratio + eps )

    d ratio / dx2 =  sign(x2 - x1) / ( n d ) = - d ratio / dx1          d the denominator, n and k the counts of images' and
    d ratio / dz2 = -sign(z2 - z1) ratio / ( k d ) = - d ratio / dz1    latents' numbers
    d loss        = -loss^2 d ratio

The loss, with offset 0, is MSGAN's (Mao, Lee, Tseng, Ma, Yang, "Mode seeking generative adversarial networks for diverse image
synthesis", CVPR 2019, equation 2; eps from its published code) and the generator's in AdvLatGAN-div (Li et al., NeurIPS 2022);
the ratio, with offset 1, is what -div's mining of hard pairs makes small. Both are ratios of means over the whole batch: the
distance of one pair is in neither.

sign(0) = 0, so equal images give the loss 1 / eps and no gradient. Where the denominator is 0, latents are equal and a
generator has nothing to push apart: the ratio is infinite, as in the published code, the loss is 0, and so is every derivative,
where the published code has NaN.

Differences and sums are in float32 (float64 for float64), whatever the precision of images and latents; so are loss and ratio.
Autocast changes nothing.

Bytes per element of the images, e to the element (4 in float32); latents are a hundredth of them:

                            kernel              eager 1 / ((x2 - x1).abs().mean() / (z2 - z1).abs().mean() + eps)
    forward                 2 e                 6 e      (subtract: 3, abs: 2, mean: 1)
    backward, both sides    4 e                 8 e      (mean: 1 for what it spreads, sign: 2, their product: 3, x1's sign: 2)
    backward, x2 alone      3 e                 6 e
"""

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .layout import dense, is_dense, like
from .operation import Example, Operation
from .operator import operator
from .reduction import BLOCK, PROGRAMS, WARPS, accumulator, parts

Number = float | Tensor


def mode_seeking(
    x1: Tensor,
    x2: Tensor,
    z1: Tensor,
    z2: Tensor,
    eps: float = 1e-5,
    offset: float = 0.0,
    over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The mode-seeking loss of two batches of images, and the ratio of distances that it is made of.

    Args:
        x1, x2: images, floating point (B, ...), any layout, the same shape and type.
        z1, z2: their latents, floating point (B, ...), any layout, the same shape and type.
        eps: above 0, added to the ratio in the loss: 1 / eps bounds the loss.
        offset: at least 0, added to the mean distance of the latents.
        over_ranks: where the batch is shared out in equal parts, what makes this part's means those of the whole: (2,) -> (2,),
            with the gradient of the identity, so that the parts' gradients average to the whole's. Latents must differ then.

    Returns:
        (loss, ratio), scalars, float32 (float64 for float64); NaN for empty tensors, as a mean is. Both are differentiable
        towards all four tensors, to any order; what requires no gradient costs none.

    Raises:
        ValueError: tensors that don't match, eps not above 0, or a negative offset.
    """
    for names, a, b in (("x1 and x2", x1, x2), ("z1 and z2", z1, z2)):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or not a.dim() or not a.is_floating_point():
            raise ValueError(
                f"{names} must be floating-point (B, ...) tensors of one shape, type and device, "
                f"not {a.dtype} {tuple(a.shape)} on {a.device} and {b.dtype} {tuple(b.shape)} on {b.device}"
            )
    if len(x1) != len(z1) or x1.device != z1.device:
        raise ValueError(
            f"images and latents must be as many and on one device, not {len(x1)} on {x1.device} and {len(z1)} on {z1.device}"
        )
    if not eps > 0:  # NaN fails too
        raise ValueError(f"eps must be above 0, not {eps}")
    if not offset >= 0:
        raise ValueError(f"offset must be at least 0, not {offset}")
    loss, ratio, _ = _forward(x1, x2, z1, z2, float(eps), float(offset))
    if over_ranks is None:
        return loss, ratio
    below = (z2.to(ratio.dtype) - z1.to(ratio.dtype)).abs().mean() + offset  # of latents: a hundredth of the images' bytes
    apart, below = over_ranks(torch.stack([ratio * below, below]))
    ratio = apart / below
    return 1 / (ratio + eps), ratio


def mode_seeking_reference(
    x1: Tensor, x2: Tensor, z1: Tensor, z2: Tensor, eps: float = 1e-5, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`mode_seeking` in plain torch, without its checks."""
    real = accumulator(x1.dtype, z1.dtype)
    apart = (x2.to(real) - x1.to(real)).abs().mean()
    ratio, _ = _ratio(apart, (z2.to(real) - z1.to(real)).abs().mean() + offset)
    return 1 / (ratio + eps), ratio


def _ratio(apart: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """apart / below and 1 / below; infinity and 0 where `below` is 0. Derivatives through either are finite."""
    equal = below == 0
    inverse = 1 / below.masked_fill(equal, 1)
    return (apart * inverse).masked_fill(equal, torch.inf), inverse.masked_fill(equal, 0)


def _slopes(apart: Number, inverse: Number, loss: Number, pair: int) -> tuple[Number, Number]:
    """The factors of sign(x2 - x1) / n (pair 0), or of sign(z2 - z1) / k (pair 1), in the gradients of loss and ratio.

    loss^2 alone could vanish, and 1 / below^2 overflow, where latents are close to one another.
    """
    if pair:
        return (loss * (apart * inverse)) * (loss * inverse), -(apart * inverse) * inverse
    return -loss * (loss * inverse), inverse


def _distance(a: Tensor, b: Tensor, real: torch.dtype) -> Tensor:
    return torch.sub(b.to(real), a.to(real)).abs_().mean()


def _forward_cpu(x1: Tensor, x2: Tensor, z1: Tensor, z2: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor, Tensor]:
    real = accumulator(x1.dtype, z1.dtype)
    # Python's numbers: ten operations of torch on scalars would take longer than the distances of small images.
    apart, below = _distance(x1, x2, real).item(), _distance(z1, z2, real).item() + offset
    inverse = 1 / below if below else 0.0
    ratio = apart * inverse if below else math.inf
    loss = 1 / (ratio + eps)
    counts = max(x1.numel(), 1), max(z1.numel(), 1)
    slopes = [slope / counts[pair] for pair in (0, 1) for slope in _slopes(apart, inverse, loss, pair)]
    return tuple(torch.tensor(numbers, dtype=real) for numbers in (loss, ratio, slopes))


def _backward_cpu(
    a: Tensor,
    b: Tensor,
    to_loss: Tensor | None,
    to_ratio: Tensor | None,
    slopes: Tensor,
    pair: int,
    first: bool,
    second: bool,
) -> list[Tensor]:
    slope = _both(to_loss, to_ratio, slopes[2 * pair], slopes[2 * pair + 1])
    if a.dtype == slope.dtype:
        side = torch.sub(b, a, out=_room(a)).sign_().mul_(slope)
    else:
        side = _room(a).copy_(torch.sub(b.to(slope.dtype), a.to(slope.dtype)).sign_().mul_(slope))
    if not first:
        return [side]
    return [side.neg(), side] if second else [side.neg_()]


def _both(to_loss: Tensor | None, to_ratio: Tensor | None, of_loss: Tensor, of_ratio: Tensor) -> Tensor:
    """What comes through the loss and through the ratio, where they were used."""
    through = [slope * to for slope, to in ((of_loss, to_loss), (of_ratio, to_ratio)) if to is not None]
    return through[0] if len(through) == 1 else through[0] + through[1]


def _room(a: Tensor) -> Tensor:
    """Empty, like `dense(a)`."""
    return torch.empty_like(a) if is_dense(a) else torch.empty_like(a, memory_format=torch.contiguous_format)


@triton.jit
def _distances(a_ptr, b_ptr, program, programs, count, REAL: tl.constexpr, BLOCK: tl.constexpr):
    stride = programs.to(tl.int64) * BLOCK
    distances = tl.zeros((BLOCK,), REAL)
    for sweep in range(0, tl.cdiv(count, stride)):
        at = sweep * stride + program * BLOCK + tl.arange(0, BLOCK)
        a = tl.load(a_ptr + at, mask=at < count, other=0.0).to(REAL)
        b = tl.load(b_ptr + at, mask=at < count, other=0.0).to(REAL)
        distances += tl.abs(b - a)
    return tl.sum(distances, 0)


@triton.jit(do_not_specialize=["x_parts", "z_parts"])
def distances_kernel(x1_ptr, x2_ptr, z1_ptr, z2_ptr, partial_ptr, x_count, z_count, x_parts, z_parts, BLOCK: tl.constexpr):
    """The first programs have the images, the others the latents."""
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    if program < x_parts:
        tl.store(partial_ptr + program, _distances(x1_ptr, x2_ptr, program, x_parts, x_count, REAL, BLOCK))
    else:
        part = program - x_parts
        tl.store(partial_ptr + program, _distances(z1_ptr, z2_ptr, part, z_parts, z_count, REAL, BLOCK))


@triton.jit(do_not_specialize=["x_parts", "z_parts"])
def ratio_kernel(
    partial_ptr,
    loss_ptr,
    ratio_ptr,
    slopes_ptr,
    x_parts,
    z_parts,
    x_scale: tl.float64,  # 1 / count
    z_scale: tl.float64,
    eps: tl.float64,
    offset: tl.float64,
    BLOCK: tl.constexpr,
):
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    x_scale = tl.full((), x_scale, REAL)
    z_scale = tl.full((), z_scale, REAL)
    at = tl.arange(0, BLOCK)
    apart = tl.sum(tl.load(partial_ptr + at, mask=at < x_parts, other=0.0), 0) * x_scale
    below = tl.sum(tl.load(partial_ptr + x_parts + at, mask=at < z_parts, other=0.0), 0) * z_scale
    below += tl.full((), offset, REAL)
    equal = below == 0
    inverse = tl.full((), 1.0, REAL) / tl.where(equal, 1.0, below)
    ratio = tl.where(equal, float("inf"), apart * inverse)
    inverse = tl.where(equal, 0.0, inverse)
    loss = tl.full((), 1.0, REAL) / (ratio + tl.full((), eps, REAL))
    tl.store(loss_ptr, loss)
    tl.store(ratio_ptr, ratio)
    # As `_slopes` has them.
    tl.store(slopes_ptr, -loss * (loss * inverse) * x_scale)
    tl.store(slopes_ptr + 1, inverse * x_scale)
    tl.store(slopes_ptr + 2, (loss * (apart * inverse)) * (loss * inverse) * z_scale)
    tl.store(slopes_ptr + 3, -(apart * inverse) * inverse * z_scale)


@triton.jit
def sides_kernel(
    a_ptr,
    b_ptr,
    to_loss_ptr,
    to_ratio_ptr,
    slopes_ptr,
    to_a_ptr,
    to_b_ptr,
    count,
    PAIR: tl.constexpr,  # 0: images, 1: latents
    BLOCK: tl.constexpr,
):
    REAL: tl.constexpr = slopes_ptr.dtype.element_ty
    slope = tl.zeros((), REAL)
    if to_loss_ptr is not None:
        slope += tl.load(to_loss_ptr) * tl.load(slopes_ptr + 2 * PAIR)
    if to_ratio_ptr is not None:
        slope += tl.load(to_ratio_ptr) * tl.load(slopes_ptr + 2 * PAIR + 1)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + at, mask=at < count, other=0.0).to(REAL)
    b = tl.load(b_ptr + at, mask=at < count, other=0.0).to(REAL)
    side = slope * tl.where(b > a, 1.0, tl.where(b < a, -1.0, 0.0)).to(REAL)
    if to_a_ptr is not None:
        tl.store(to_a_ptr + at, (-side).to(to_a_ptr.dtype.element_ty), mask=at < count)
    if to_b_ptr is not None:
        tl.store(to_b_ptr + at, side.to(to_b_ptr.dtype.element_ty), mask=at < count)


def _launch_forward(x1: Tensor, x2: Tensor, z1: Tensor, z2: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor, Tensor]:
    x1, z1 = dense(x1), dense(z1)
    x2, z2, x_count, z_count = like(x2, x1), like(z2, z1), x1.numel(), z1.numel()
    real = accumulator(x1.dtype, z1.dtype)
    loss, ratio, slopes = (torch.empty(shape, dtype=real, device=x1.device) for shape in ((), (), (4,)))
    if x_count == 0 or z_count == 0:
        return tuple(number.fill_(torch.nan) for number in (loss, ratio, slopes))
    split = parts(x_count), parts(z_count)
    partial = torch.empty(sum(split), dtype=real, device=x1.device)
    launch(distances_kernel, partial.shape, x1, x2, z1, z2, partial, x_count, z_count, *split, warps=WARPS, BLOCK=BLOCK)
    numbers = (1 / x_count, 1 / z_count, eps, offset)
    launch(ratio_kernel, (1,), partial, loss, ratio, slopes, *split, *numbers, warps=WARPS, BLOCK=PROGRAMS)
    return loss, ratio, slopes


def _launch_backward(
    a: Tensor,
    b: Tensor,
    to_loss: Tensor | None,
    to_ratio: Tensor | None,
    slopes: Tensor,
    pair: int,
    first: bool,
    second: bool,
) -> list[Tensor]:
    to_a, to_b = (_room(a) if wanted else None for wanted in (first, second))
    a = dense(a)
    b, count = like(b, a), a.numel()
    grid = (triton.cdiv(count, BLOCK),)
    launch(sides_kernel, grid, a, b, to_loss, to_ratio, slopes, to_a, to_b, count, warps=WARPS, PAIR=pair, BLOCK=BLOCK)
    return [side for side in (to_a, to_b) if side is not None]


def _fake_forward(x1: Tensor, x2: Tensor, z1: Tensor, z2: Tensor, *numbers: float) -> tuple[Tensor, Tensor, Tensor]:
    real = accumulator(x1.dtype, z1.dtype)
    return tuple(torch.empty(shape, dtype=real, device=x1.device) for shape in ((), (), (4,)))


def _fake_backward(a: Tensor, b: Tensor, to_loss, to_ratio, slopes, pair, first: bool, second: bool) -> list[Tensor]:
    return [_room(a) for wanted in (first, second) if wanted]


_forward = operator("mode_seeking", cpu=_forward_cpu, kernels=_launch_forward, fake=_fake_forward)
_sides = operator("mode_seeking_backward", cpu=_backward_cpu, kernels=_launch_backward, fake=_fake_backward)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.eps, ctx.offset = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, to_loss: Tensor | None, to_ratio: Tensor | None, _):
    x1, x2, z1, z2, slopes = ctx.saved_tensors
    gradients: list[Tensor | None] = [None] * 6
    if to_loss is None and to_ratio is None:
        return tuple(gradients)
    for pair, (a, b) in enumerate(((x1, x2), (z1, z2))):
        first, second = ctx.needs_input_grad[2 * pair : 2 * pair + 2]
        if not (first or second):
            continue
        if torch.is_grad_enabled():  # to be differentiated again: in operations that torch differentiates
            side = _differentiable_side(ctx, x1, x2, z1, z2, to_loss, to_ratio, pair)
            sides = iter(([-side] if first else []) + ([side] if second else []))
        else:
            sides = iter(_sides(a, b, to_loss, to_ratio, slopes, pair, first, second))
        gradients[2 * pair] = next(sides) if first else None
        gradients[2 * pair + 1] = next(sides) if second else None
    return tuple(gradients)


def _differentiable_side(ctx, x1, x2, z1, z2, to_loss, to_ratio, pair: int) -> Tensor:
    """The gradient towards x2 or z2. Its own derivatives go through the means: those of the signs are 0."""
    real = accumulator(x1.dtype, z1.dtype)
    images, latents = x2.to(real) - x1.to(real), z2.to(real) - z1.to(real)
    apart = images.abs().mean()
    ratio, inverse = _ratio(apart, latents.abs().mean() + ctx.offset)
    slope = _both(to_loss, to_ratio, *_slopes(apart, inverse, 1 / (ratio + ctx.eps), pair))
    a, difference = (z1, latents) if pair else (x1, images)
    return (difference.sign() * (slope / max(a.numel(), 1))).to(a.dtype)


_forward.register_autograd(_backward, setup_context=_save)


def _arguments(example: Example, device: str, seed: int) -> dict:
    x1, x2 = (example.tensor(device, seed + side) for side in range(2))
    latent = example.shape[0], 128
    z1, z2 = (example.tensor(device, seed + side, *latent, dtype=accumulator(example.dtype)) for side in (2, 3))
    return {"x1": x1, "x2": x2, "z1": z1, "z2": z2, **example.options}


def _eager(x1: Tensor, x2: Tensor, z1: Tensor, z2: Tensor, eps: float = 1e-5, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    ratio = torch.mean(torch.abs(x2 - x1)) / (torch.mean(torch.abs(z2 - z1)) + offset)
    return 1 / (ratio + eps), ratio


def _minimum(example: Example) -> tuple[int, int]:
    images = torch.Size(example.shape).numel() * example.dtype.itemsize
    latents = example.shape[0] * 128 * accumulator(example.dtype).itemsize
    return 2 * (images + latents), 4 * (images + latents)


OPERATION = Operation(
    name="mode_seeking",
    summary="ratio of the distances of images and of latents, and the loss of it (MSGAN, AdvLatGAN-div)",
    arguments=_arguments,
    fused=mode_seeking,
    eager=_eager,
    reference=mode_seeking_reference,
    minimum=_minimum,
    wrt=("x1", "x2", "z1", "z2"),
    examples=(
        Example("64x64 images", (64, 3, 64, 64)),
        Example("CIFAR images", (64, 3, 32, 32), channels_last=True),
        Example("CIFAR images, mining", (64, 3, 32, 32), options={"offset": 1.0}),
        Example("BigGAN 128x128 images", (256, 3, 128, 128), torch.bfloat16),
    ),
    small=(
        Example("odd", (3, 2, 5, 7)),
        Example("odd", (3, 2, 5, 7), channels_last=True, options={"offset": 1.0, "eps": 0.5}),
        Example("more than a block", (5, 1, 33, 17)),
        Example("points", (9, 2)),
        Example("one number", (1,)),
        Example("empty", (0, 3, 4, 4)),
    ),
)
