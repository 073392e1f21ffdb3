"""How far generated images lie from given ones, each image by itself, and the loss's slope towards the generated.

    errors   e = m (y - x)^2                                               m over the n numbers of an image in [-1, 1]
    losses   l = e  (mse)            or   -m [ t log p + (1 - t) log(1 - p) ]  (bce),    p = (y + 1) / 2,  t = (x + 1) / 2
    slope    2 (y - x) / n           or   (p - t) / (2 n p (1 - p))

p is kept EDGE away from 0 and 1, so that loss and slope are finite and the slope points back from there, and t in [0, 1], which
images may overshoot a little. The two losses are those of Creswell and Bharath, "Inverting the generator of a generative
adversarial network" (2018), section II.

Arithmetic and sums are in float32 (float64 for float64), whatever the precision of y and x; losses and errors are float32.

Bytes per number, e to the number of y and x (4 in float32); eager code with autograd towards y:

                            kernel              eager
    mse                     3 e                 14 e
    bce                     3 e                 62 e
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from .launch import launch, taken
from .layout import dense_rows, like
from .operation import Example, Operation
from .operator import operator
from .reduction import BLOCK, WARPS, accumulator

LOSSES = ("mse", "bce")
EDGE = 2.0**-20

_PARTS = 64  # programs that share an image at most


class ImageError(NamedTuple):
    """What `image_error` gives."""

    losses: Tensor
    errors: Tensor
    slope: Tensor


@torch.no_grad()
def image_error(y: Tensor, x: Tensor, loss: str = "mse") -> ImageError:
    """Losses and errors of images, and the slope of the summed losses. Nothing is differentiated.

    Args:
        y: floating point (B, ...), the generated images.
        x: floating point, of y's shape: the given ones, in [-1, 1]. Read fastest where it lies in y's memory order.
        loss: "mse" or "bce".

    Returns:
        losses and errors, (B,), float32 (float64 for float64); slope, of y's shape and type, in y's memory order where that
        is contiguous or channels last.

    Raises:
        ValueError: an unknown loss, different shapes or devices.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    if y.shape != x.shape or y.dim() < 2 or y.device != x.device or not (y.is_floating_point() and x.is_floating_point()):
        raise ValueError(
            f"image_error compares two floating-point (B, ...) tensors of one shape and device, not {y.dtype} {tuple(y.shape)} "
            f"on {y.device} and {x.dtype} {tuple(x.shape)} on {x.device}"
        )
    if y.device.type == "cpu" and not taken():
        return ImageError(*_reference(y, x, loss))
    return ImageError(*torch.ops.fastgan.image_error(y, x, loss))


def _reference(y: Tensor, x: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    real, count = accumulator(y.dtype, x.dtype), max(y[:1].numel(), 1)
    y_rows = dense_rows(y)
    x_rows = like(x, y_rows) if y.numel() else x
    wide, x_wide = y_rows.to(real), x_rows.to(real)
    difference = wide - x_wide
    errors = _means(difference * difference, count)
    if loss == "mse":
        return errors.clone(), errors, difference.mul_(2 / count).to(y.dtype)
    p, t = ((wide + 1) / 2).clamp_(EDGE, 1 - EDGE), ((x_wide + 1) / 2).clamp_(0, 1)
    slope = (p - t).div_(p * (1 - p)).div_(2 * count)
    return functional.binary_cross_entropy(p, t, reduction="none").flatten(1).mean(1), errors, slope.to(y.dtype)


def _means(numbers: Tensor, count: int) -> Tensor:
    return numbers.flatten(1).sum(1).div_(count)


@triton.jit
def image_kernel(
    y_ptr, x_ptr, slope_ptr, loss_ptr, error_ptr, count, parts, turns,
    BCE: tl.constexpr, EDGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = loss_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    image = program // parts
    part = program % parts
    number = tl.full((1,), count, REAL)
    losses = tl.zeros((BLOCK,), REAL)
    errors = tl.zeros((BLOCK,), REAL)
    for turn in range(0, turns):
        place = (part * turns + turn) * BLOCK + tl.arange(0, BLOCK)
        at = image * count + place
        y = tl.load(y_ptr + at, mask=place < count, other=0.0).to(REAL)
        x = tl.load(x_ptr + at, mask=place < count, other=0.0).to(REAL)
        difference = y - x
        errors += difference * difference
        slope = 2 * difference / number
        if BCE:
            p = (y + 1) / 2
            p = tl.where(p < EDGE, EDGE, tl.where(p > 1 - EDGE, 1 - EDGE, p))  # a NaN stays one
            t = (x + 1) / 2
            t = tl.where(t < 0, 0.0, tl.where(t > 1, 1.0, t))
            slope = (p - t) / (p * (1 - p)) / (2 * number)
            loss = -(t * tl.log(p) + (1 - t) * tl.log(1 - p))
            losses += tl.where(place < count, loss, 0.0)
        tl.store(slope_ptr + at, slope.to(slope_ptr.dtype.element_ty), mask=place < count)
    error = tl.sum(errors, 0) / tl.full((), count, REAL)
    tl.store(error_ptr + program, error)
    if BCE:
        tl.store(loss_ptr + program, tl.sum(losses, 0) / tl.full((), count, REAL))
    else:
        tl.store(loss_ptr + program, error)


def _launch(y: Tensor, x: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    real, count = accumulator(y.dtype, x.dtype), max(y[:1].numel(), 1)
    y = dense_rows(y)
    x, slope = like(x, y) if y.numel() else x, torch.empty_like(y)
    if not y.numel():
        return y.new_zeros(len(y), dtype=real), y.new_zeros(len(y), dtype=real), slope
    parts = min(triton.cdiv(count, BLOCK), _PARTS)
    turns = triton.cdiv(count, BLOCK * parts)
    losses, errors = torch.empty(2, len(y), parts, dtype=real, device=y.device)
    options = {"BCE": loss == "bce", "EDGE": EDGE, "BLOCK": BLOCK}
    launch(image_kernel, (len(y) * parts,), y, x, slope, losses, errors, count, parts, turns, warps=WARPS, **options)
    return losses.sum(1), errors.sum(1), slope


def _fake(y: Tensor, x: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    real = accumulator(y.dtype, x.dtype)
    return y.new_empty(len(y), dtype=real), y.new_empty(len(y), dtype=real), torch.empty_like(dense_rows(y))


_operator = operator("image_error", cpu=_reference, kernels=_launch, fake=_fake)


def _eager(y: Tensor, x: Tensor, loss: str = "mse") -> tuple[Tensor, Tensor, Tensor]:
    real = accumulator(y.dtype, x.dtype)
    with torch.enable_grad():
        wide = y.detach().requires_grad_()
        errors = (wide.to(real) - x.to(real)).square().flatten(1).mean(1)
        losses = errors
        if loss == "bce":
            p, t = ((wide.to(real) + 1) / 2).clamp(EDGE, 1 - EDGE), ((x.to(real) + 1) / 2).clamp(0, 1)
            losses = -(t * p.log() + (1 - t) * (1 - p).log()).flatten(1).mean(1)
        (slope,) = torch.autograd.grad(losses.sum(), wide)
    return losses.detach(), errors.detach(), slope


def _formula(y: Tensor, x: Tensor, loss: str = "mse") -> tuple[Tensor, Tensor, Tensor]:
    """As in this file's head, without autograd: clamp has no slope beyond the edge."""
    n, errors = max(y[:1].numel(), 1), (y - x).square().flatten(1).sum(1)
    if loss == "mse":
        return errors / n, errors / n, 2 * (y - x) / n
    p, t = ((y + 1) / 2).clamp(EDGE, 1 - EDGE), ((x + 1) / 2).clamp(0, 1)
    losses = -(t * p.log() + (1 - t) * (1 - p).log()).flatten(1).sum(1)
    return losses / n, errors / n, (p - t) / (p * (1 - p)) / (2 * n)


def _arguments(example: Example, device: str, seed: int) -> dict:
    """y inside, where its rounding is no other slope; x beyond [-1, 1] here and there."""
    y, x = (example.tensor(device, seed + side).tanh() for side in range(2))
    return {"y": 0.9 * y, "x": (1.2 * x).clamp(-1.01, 1.01), **example.options}


OPERATION = Operation(
    name="image_error",
    summary="each image's error and its slope (inversion)",
    arguments=_arguments,
    fused=lambda **given: tuple(image_error(**given)),
    eager=_eager,
    reference=_formula,
    minimum=lambda example: (3 * torch.Size(example.shape).numel() * example.dtype.itemsize, 0),
    wrt=(),
    examples=(
        Example("64x64 images", (64, 3, 64, 64)),
        Example("digits, BCE", (64, 1, 32, 32), options={"loss": "bce"}),
        Example("BigGAN 128x128 images", (256, 3, 128, 128), torch.bfloat16, channels_last=True),
    ),
    small=(
        Example("odd", (3, 2, 5, 7)),
        Example("odd", (3, 2, 5, 7), channels_last=True, options={"loss": "bce"}),
        Example("more than a block", (2, 1, 65, 67), options={"loss": "bce"}),
        Example("vectors", (5, 3)),
        Example("empty", (0, 3, 4, 4)),
    ),
)
