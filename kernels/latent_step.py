"""All that follows the gradient in one iteration of a search for latents by Adam or RMSprop, in one launch and in place.

    best:      where loss + pull / 2 |z|^2 < best_loss:  best_loss = that sum,  best_z = z   (z before the step; NaN never wins)
    prior:     g = grad + pull z                                         (pull = beta / D, of a normal prior)
    moments:   square = beta2 square + (1 - beta2) g^2,   momentum = beta1 momentum + (1 - beta1) g
    step:      z = z - scales_0 momentum / (scales_1 sqrt(square) + eps)            (g in momentum's place where there is none)
    support:   z into [-bound, bound]

The first `held` coordinates stay, and count in no |z|^2.

With scales_0 = rate / (1 - beta1^k) and scales_1 = 1 / sqrt(1 - beta2^k) this is Adam's k-th step (Kingma and Ba, ICLR 2015,
algorithm 1), with (rate, 1) and no momentum RMSprop (Tieleman and Hinton 2012), as torch has them.

Arithmetic is in float32 (float64 for float64); half precision is rounded once, when it is stored.

Bytes per element of z, e to the element (4 in float32); eager code reads and writes a temporary for every operation:

    options                        kernel              eager
    RMSprop                        6 e                 24 e
    Adam                           8 e                 27 e
    Adam, prior, bound             8 e                 35 e

Rows of more than MAX_BLOCK columns are read again from the cache where the prior's sum is asked for.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ifgsm import MAX_BLOCK, tile
from .launch import launch, taken
from .operation import Example, Operation
from .operator import operator


@torch.no_grad()
def latent_step(
    z: Tensor,
    grad: Tensor,
    square: Tensor,
    scales: Tensor,
    loss: Tensor,
    best_loss: Tensor,
    best_z: Tensor,
    *,
    momentum: Tensor | None = None,
    beta1: float = 0.0,
    beta2: float = 0.999,
    eps: float = 1e-8,
    pull: float = 0.0,
    bound: float | None = None,
    held: int = 0,
) -> None:
    """Moves each row of z against its gradient, in place. Nothing is differentiated, and nothing waits for the device.

    Args:
        z: float (B, D), contiguous. Written.
        grad: (B, D), the loss's gradient without the prior's, of z's type, in any memory layout.
        square: (B, D), of z's type, contiguous: the mean squared gradient, 0 at first. Written.
        scales: (2,), float32 (float64 where z is), on z's device, where a captured step finds the next ones.
        loss: (B,), of scales' type, each row's loss at z before the step.
        best_loss, best_z: (B,) as loss and (B, D) as z, contiguous; infinity at first. Written.
        momentum: as square, the mean gradient; None for RMSprop. Written.
        beta1, beta2: decay of the two means, in [0, 1).
        eps: what is added to the root, above 0.
        pull: at least 0.
        bound: above 0; None for no bound.
        held: leading columns that stay, 0 to D.

    Raises:
        ValueError: a number out of range, a wrong shape, type or layout.
    """
    _check(z, grad, square, scales, loss, best_loss, best_z, momentum, beta1, beta2, eps, pull, bound, held)
    arguments = (z, grad, square, scales, loss, best_loss, best_z, momentum)
    arguments += (float(beta1), float(beta2), float(eps), float(pull), bound, held)
    if z.device.type == "cpu" and not taken():  # an operator's dispatch takes as long as a few of its operations
        _reference(*arguments)
    else:
        torch.ops.fastgan.latent_step(*arguments)


def _check(z, grad, square, scales, loss, best_loss, best_z, momentum, beta1, beta2, eps, pull, bound, held) -> None:
    if z.dim() != 2 or not z.is_floating_point() or not z.is_contiguous():
        raise ValueError(f"z must be a contiguous floating-point (B, D) tensor, not {z.dtype} {tuple(z.shape)}")
    real = torch.promote_types(z.dtype, torch.float32)
    alike = {"grad": grad, "square": square, "best_z": best_z, "momentum": z if momentum is None else momentum}
    for name, tensor in alike.items():
        if tensor.shape != z.shape or tensor.dtype != z.dtype or tensor.device != z.device:
            raise ValueError(f"{name} must match z ({z.dtype} {tuple(z.shape)}), not {tensor.dtype} {tuple(tensor.shape)}")
        if tensor is not grad and not tensor.is_contiguous():
            raise ValueError(f"{name} is written in place and must be contiguous")
    for name, tensor, shape in (("scales", scales, (2,)), ("loss", loss, z.shape[:1]), ("best_loss", best_loss, z.shape[:1])):
        if tensor.shape != shape or tensor.dtype != real or tensor.device != z.device or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous {real} {tuple(shape)}, not {tensor.dtype} {tuple(tensor.shape)}")
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1 and eps > 0 and pull >= 0 and (bound is None or bound > 0)):
        raise ValueError(
            f"betas must be in [0, 1), eps and bound above 0, pull at least 0, not {(beta1, beta2)}, {eps}, {bound}, {pull}"
        )
    if not 0 <= held <= z.shape[1]:
        raise ValueError(f"held must be at least 0 and at most {z.shape[1]}, not {held}")


def _reference(
    z: Tensor,
    grad: Tensor,
    square: Tensor,
    scales: Tensor,
    loss: Tensor,
    best_loss: Tensor,
    best_z: Tensor,
    momentum: Tensor | None,
    beta1: float,
    beta2: float,
    eps: float,
    pull: float,
    bound: float | None,
    held: int,
) -> None:
    real = scales.dtype
    wide, g = z.to(real), grad.to(real)  # z itself but in half precision, where what is written below is a copy
    free = wide[:, held:]
    total = loss + 0.5 * pull * free.square().sum(1) if pull else loss
    better = total < best_loss
    torch.where(better, total, best_loss, out=best_loss)
    torch.where(better[:, None], z, best_z, out=best_z)
    if pull:
        g = torch.add(g, wide, alpha=pull)
    v = square.to(real).mul_(beta2).addcmul_(g, g, value=1 - beta2)
    m = g if momentum is None else momentum.to(real).lerp_(g, 1 - beta1)
    free.sub_((m / v.sqrt().mul_(scales[1]).add_(eps)).mul_(scales[0])[:, held:])
    if bound is not None:
        free.clamp_(-bound, bound)
    for stored, new in ((z, wide), (square, v), (momentum, m)):
        if stored is not None and new is not stored:
            stored.copy_(new)


@triton.jit
def _squared(
    z_ptr, row, inside,
    REAL: tl.constexpr, HELD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = row[:, None] * COLUMNS
    column = tl.arange(0, BLOCK)[None, :]
    squares = tl.zeros((ROWS, BLOCK), REAL)
    for start in range(0, COLUMNS, BLOCK):
        at = base + (start + column)
        mask = inside[:, None] & (start + column >= HELD) & (start + column < COLUMNS)
        z = tl.load(z_ptr + at, mask=mask, other=0.0).to(REAL)
        squares += z * z
    return tl.sum(squares, 1)


@triton.jit(do_not_specialize=["batch"])
def latent_kernel(
    z_ptr,
    grad_ptr,
    square_ptr,
    scales_ptr,
    loss_ptr,
    best_loss_ptr,
    best_z_ptr,
    momentum_ptr,  # None: no momentum, and no traffic
    batch,
    beta1: tl.float64,  # Triton would pass a Python float in single precision
    beta2: tl.float64,
    eps: tl.float64,
    pull: tl.float64,
    bound: tl.float64,
    PULLED: tl.constexpr,
    BOUNDED: tl.constexpr,
    HELD: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    REAL: tl.constexpr = scales_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch
    rate = tl.load(scales_ptr)
    correction = tl.load(scales_ptr + 1)
    total = tl.load(loss_ptr + row, mask=inside, other=0.0)
    if PULLED:
        total += tl.full((1,), 0.5 * pull, REAL) * _squared(z_ptr, row, inside, REAL, HELD, COLUMNS, ROWS, BLOCK)
    better = inside & (total < tl.load(best_loss_ptr + row, mask=inside, other=0.0))

    base = row[:, None] * COLUMNS
    column = tl.arange(0, BLOCK)[None, :]
    for start in range(0, COLUMNS, BLOCK):
        at = base + (start + column)
        mask = inside[:, None] & (start + column < COLUMNS)
        z = tl.load(z_ptr + at, mask=mask, other=0.0)
        wide = z.to(REAL)
        g = tl.load(grad_ptr + at, mask=mask, other=0.0).to(REAL)
        v = tl.load(square_ptr + at, mask=mask, other=0.0).to(REAL)
        if PULLED:
            g += tl.full((1, 1), pull, REAL) * wide
        v = tl.full((1, 1), beta2, REAL) * v + tl.full((1, 1), 1 - beta2, REAL) * g * g
        m = g
        if momentum_ptr is not None:
            m = tl.load(momentum_ptr + at, mask=mask, other=0.0).to(REAL)
            m += tl.full((1, 1), 1 - beta1, REAL) * (g - m)
        moved = wide - rate * (m / (correction * tl.sqrt(v) + tl.full((1, 1), eps, REAL)))
        if BOUNDED:  # not tl.clamp: a NaN would come out as a bound
            limit = tl.full((1, 1), bound, REAL)
            moved = tl.where(moved < -limit, -limit, tl.where(moved > limit, limit, moved))
        if HELD:
            moved = tl.where(start + column < HELD, wide, moved)
        # Several warps may hold the same row and have each read its state: none may write before all have read.
        tl.debug_barrier()
        tl.store(best_z_ptr + at, z, mask=mask & better[:, None])
        tl.store(square_ptr + at, v.to(square_ptr.dtype.element_ty), mask=mask)
        if momentum_ptr is not None:
            tl.store(momentum_ptr + at, m.to(momentum_ptr.dtype.element_ty), mask=mask)
        tl.store(z_ptr + at, moved.to(z_ptr.dtype.element_ty), mask=mask)
    tl.store(best_loss_ptr + row, total, mask=better)


def _launch(
    z: Tensor,
    grad: Tensor,
    square: Tensor,
    scales: Tensor,
    loss: Tensor,
    best_loss: Tensor,
    best_z: Tensor,
    momentum: Tensor | None,
    beta1: float,
    beta2: float,
    eps: float,
    pull: float,
    bound: float | None,
    held: int,
) -> None:
    if not z.numel():
        return
    rows, (block,), warps = tile(z.shape[1:], z.element_size())
    if block == MAX_BLOCK and momentum is not None:  # five numbers of each column at once
        rows, block = 1, MAX_BLOCK // 2
    launch(
        latent_kernel,
        (triton.cdiv(len(z), rows),),
        z,
        grad.contiguous(),
        square,
        scales,
        loss,
        best_loss,
        best_z,
        momentum,
        len(z),
        beta1,
        beta2,
        eps,
        pull,
        bound or 0.0,
        warps=warps,
        PULLED=pull > 0,
        BOUNDED=bound is not None,
        HELD=held,
        COLUMNS=z.shape[1],
        ROWS=rows,
        BLOCK=block,
    )


_operator = operator(
    "latent_step",
    cpu=_reference,
    kernels=_launch,
    fake=lambda *arguments: None,
    mutates=("z", "square", "best_loss", "best_z", "momentum"),
)


def _arguments(example: Example, device: str, seed: int) -> dict:
    """Options: those of `latent_step`, "adam" for a momentum."""
    options, rows = dict(example.options), example.shape[0]
    real = torch.promote_types(example.dtype, torch.float32)
    given = {name: example.tensor(device, seed + place) for place, name in enumerate(("z", "grad", "best_z"))}
    given["square"] = example.tensor(device, seed + 3).abs()
    given["scales"] = example.tensor(device, seed + 4, 2, dtype=real).abs() + 0.5
    given |= {name: example.tensor(device, seed + 5 + n, rows, dtype=real) for n, name in enumerate(("loss", "best_loss"))}
    if options.pop("adam", False):
        given |= {"momentum": example.tensor(device, seed + 7), "beta1": 0.9}
    return given | options


def _stepped_by(step):
    def stepped(**given) -> tuple[Tensor, ...]:
        step(**given)
        return tuple(given[name] for name in ("z", "square", "best_loss", "best_z", "momentum") if name in given)

    return stepped


def latent_step_reference(
    z: Tensor,
    grad: Tensor,
    square: Tensor,
    scales: Tensor,
    loss: Tensor,
    best_loss: Tensor,
    best_z: Tensor,
    *,
    momentum: Tensor | None = None,
    beta1: float = 0.0,
    beta2: float = 0.999,
    eps: float = 1e-8,
    pull: float = 0.0,
    bound: float | None = None,
    held: int = 0,
) -> None:
    """`latent_step` in plain torch, without its checks."""
    _reference(z, grad, square, scales, loss, best_loss, best_z, momentum, beta1, beta2, eps, pull, bound, held)


_ALL = {"adam": True, "pull": 0.1, "bound": 1.0}

OPERATION = Operation(
    name="latent_step",
    summary="an iteration of inversion after the gradient: best iterate, prior, Adam or RMSprop",
    arguments=_arguments,
    fused=_stepped_by(latent_step),
    eager=_stepped_by(latent_step_reference),
    minimum=lambda example: (
        (8 if example.options.get("adam") else 6) * torch.Size(example.shape).numel() * example.dtype.itemsize,
        0,
    ),
    wrt=(),
    examples=(
        Example("Adam", (64, 64), options={"adam": True}),
        Example("RMSprop", (64, 64)),
        Example("Adam, prior, bound", (256, 512), options=_ALL),
        Example("Adam, W+", (64, 18 * 512), options={"adam": True}),  # StyleGAN2's: several blocks of columns
    ),
    small=(
        Example("RMSprop", (3, 7), options={"beta2": 0.99}),
        Example("everything", (5, 100), options=_ALL),
        Example("several blocks", (2, MAX_BLOCK + 1), options=_ALL),
        Example("held", (3, 7), options=_ALL | {"held": 2}),
        Example("one", (1, 1), options={"bound": 0.5}),
        Example("empty", (0, 7), options=_ALL),
    ),
)
