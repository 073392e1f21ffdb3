"""All that follows the gradient in one iteration of latent I-FGSM, in one launch and in place.

    best:       where score > best_score:  best_score = score,  best_z = z            (the z before the step; NaN never wins)
    stop:       active = active and not score >= stop_score                            (a frozen sample keeps z and velocity)
    direction:  g = grad,   or with momentum   velocity = momentum * velocity + grad / |grad|_1,   g = velocity
    step:       z = z - step_size * sign(g)   or   z = z - step_size * g / |g|_2       (a zero gradient makes no step)
    projection: z into the ball of `radius` around `origin`, in the L-inf or the L2 norm

I-FGSM: Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world" (2016), section 2.2. Momentum: Dong et al.,
"Boosting adversarial attacks with momentum" (CVPR 2018), algorithm 1. Projection: Madry et al., "Towards deep learning models
resistant to adversarial attacks" (ICLR 2018), section 2.1. In latent space: Li et al., AdvLatGAN (NeurIPS 2022).

Arithmetic is in float32 (float64 for float64); half precision is rounded once, when z and velocity are stored. Norms are summed
in float64: where the discriminator is sure of itself, gradients of 1e-22 are usual, and their squares vanish in float32.

Bytes per element of z, e to the element (4 in float32). Eager code reads and writes a temporary for every operation:

    options                                   kernel              eager
    sign                                      3 e                 5 e       (sign: 2, subtract: 3)
    sign, L-inf ball                          4 e                 13 e      (and the two bounds: 2 + 2, clamp: 4)
    sign, momentum                            5 e                 15 e
    everything (L2, momentum, stop, best)     7 e                 45 e
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, taken
from .operation import Example, Operation
from .operator import operator

DIRECTIONS = ("sign", "l2")
NORMS = ("linf", "l2")

# A row of up to this many columns is read once and stays in registers: 8 numbers of each tensor a thread, at 8 warps. With 16,
# all options on and several blocks, the assembler spilled on sm_80.
MAX_BLOCK = 2048


@torch.no_grad()
def ifgsm_step(
    z: Tensor,
    grad: Tensor,
    origin: Tensor | None,
    *,
    step_size: float,
    direction: str = "sign",
    radius: float | None = None,
    radius_norm: str = "linf",
    momentum: float = 0.0,
    velocity: Tensor | None = None,
    score: Tensor | None = None,
    stop_score: float | None = None,
    active: Tensor | None = None,
    best_z: Tensor | None = None,
    best_score: Tensor | None = None,
) -> None:
    """Moves each row of z against its gradient, in place. Nothing is differentiated, and nothing waits for the device.

    The first call of a combination of options compiles the CUDA kernel: call once before capturing a CUDA graph.

    Args:
        z: float (B, D), contiguous. Written.
        grad: (B, D), the loss's gradient, of z's type, in any memory layout.
        origin: (B, D), the centre of the ball, in any memory layout; unused (may be None) without a radius.
        step_size: at least 0; the length of a step per coordinate ("sign") or as a whole ("l2").
        direction: "sign" or "l2".
        radius: at least 0, or None for no projection.
        radius_norm: "linf" or "l2". In half precision z is on the sphere up to the rounding of z.
        momentum: at least 0; 0 neither reads nor writes a velocity.
        velocity: (B, D), contiguous, with momentum. Written.
        score: float (B,), each sample's score at z before the step.
        stop_score: freezes samples whose score is at least this; needs `score` and `active`.
        active: bool (B,); False rows are frozen. Written where there is a stop_score.
        best_z, best_score: (B, D) contiguous and (B,), the best iterate so far; both or neither, with `score`. Written.

    Raises:
        ValueError: an unknown direction or norm, a negative number, a missing companion, a wrong shape, type or layout.
    """
    _check(z, grad, origin, step_size, direction, radius, radius_norm, momentum, velocity, score, stop_score, active)
    _check_best(z, score, best_z, best_score)
    arguments = (z, grad, origin, velocity, score, active, best_z, best_score)
    arguments += (float(step_size), direction, radius, radius_norm, float(momentum), stop_score)
    # On the CPU the operator's dispatch would add 8 microseconds to the 8 that a step of 64 x 128 takes with its checks. Traced
    # and fake tensors pass through the reference as well, and a compiler can fuse what it sees.
    if z.device.type == "cpu" and not taken():
        _reference(*arguments)
    else:
        torch.ops.fastgan.ifgsm_step(*arguments)


def _check(z, grad, origin, step_size, direction, radius, radius_norm, momentum, velocity, score, stop_score, active) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}")
    if radius_norm not in NORMS:
        raise ValueError(f"radius_norm must be one of {', '.join(NORMS)}, not {radius_norm!r}")
    for name, number in (("step_size", step_size), ("momentum", momentum), ("radius", radius)):
        if number is not None and not number >= 0:  # NaN fails too
            raise ValueError(f"{name} must be at least 0, not {number}")
    if z.dim() != 2 or not z.dtype.is_floating_point:
        raise ValueError(f"z must be a floating-point (B, D) tensor, not {z.dtype} {tuple(z.shape)}")
    if radius is not None and origin is None:
        raise ValueError("a radius needs origin, the centre of the ball")
    if momentum and velocity is None:
        raise ValueError("momentum needs velocity")
    if stop_score is not None and (score is None or active is None):
        raise ValueError("stop_score needs score and active")
    for name, tensor in (("grad", grad), ("origin", origin), ("velocity", velocity)):
        if tensor is not None:
            _check_rows(z, name, tensor, contiguous=name == "velocity")
    _check_rows(z, "z", z, contiguous=True)
    if score is not None and (score.shape != z.shape[:1] or not score.dtype.is_floating_point):
        raise ValueError(f"score must be floating-point ({len(z)},), not {score.dtype} {tuple(score.shape)}")
    if active is not None and (active.shape != z.shape[:1] or active.dtype != torch.bool or not active.is_contiguous()):
        raise ValueError(f"active must be contiguous bool ({len(z)},), not {active.dtype} {tuple(active.shape)}")


def _check_best(z: Tensor, score: Tensor | None, best_z: Tensor | None, best_score: Tensor | None) -> None:
    if best_z is None and best_score is None:
        return
    if best_z is None or best_score is None or score is None:
        raise ValueError("best_z, best_score and score go together")
    _check_rows(z, "best_z", best_z, contiguous=True)
    if best_score.shape != score.shape or best_score.dtype != score.dtype or not best_score.is_contiguous():
        raise ValueError(f"best_score must be a contiguous {score.dtype} ({len(z)},) as score is")


def _check_rows(z: Tensor, name: str, tensor: Tensor, contiguous: bool) -> None:
    if tensor.shape != z.shape or tensor.dtype != z.dtype or tensor.device != z.device:
        raise ValueError(
            f"{name} must match z ({z.dtype} {tuple(z.shape)} on {z.device}), "
            f"not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
    if contiguous and not tensor.is_contiguous():
        raise ValueError(f"{name} is written in place and must be contiguous")


@torch.no_grad()
def ifgsm_step_reference(
    z: Tensor,
    grad: Tensor,
    origin: Tensor | None,
    *,
    step_size: float,
    direction: str = "sign",
    radius: float | None = None,
    radius_norm: str = "linf",
    momentum: float = 0.0,
    velocity: Tensor | None = None,
    score: Tensor | None = None,
    stop_score: float | None = None,
    active: Tensor | None = None,
    best_z: Tensor | None = None,
    best_score: Tensor | None = None,
) -> None:
    """`ifgsm_step` in plain torch on any device, without its checks."""
    tensors = (z, grad, origin, velocity, score, active, best_z, best_score)
    _reference(*tensors, step_size, direction, radius, radius_norm, momentum, stop_score)


def _reference(
    z: Tensor,
    grad: Tensor,
    origin: Tensor | None,
    velocity: Tensor | None,
    score: Tensor | None,
    active: Tensor | None,
    best_z: Tensor | None,
    best_score: Tensor | None,
    step_size: float,
    direction: str,
    radius: float | None,
    radius_norm: str,
    momentum: float,
    stop_score: float | None,
) -> None:
    if best_z is not None:
        better = score > best_score
        best_score.copy_(torch.where(better, score, best_score))
        best_z.copy_(torch.where(better[:, None], z, best_z))
    if stop_score is not None:
        active &= ~(score >= stop_score)

    real = torch.float64 if z.dtype == torch.float64 else torch.float32
    g = grad.to(real)
    if momentum:
        g = torch.add(g / _nonzero(g.abs().sum(1, keepdim=True)), velocity.to(real), alpha=momentum)
        velocity.copy_(g if active is None else torch.where(active[:, None], g, velocity))

    # In the ordinary case (float32, no early stop) `moved` is z itself, and sign(g) the only temporary.
    moved = z if active is None and z.dtype == real else z.to(real, copy=True)
    if direction == "sign":
        moved.sub_(g.sign(), alpha=step_size)
    else:
        moved.sub_(g / _nonzero(_l2(g)), alpha=step_size)
    if radius is not None and radius_norm == "linf":
        centre = origin.to(real)
        moved.clamp_(centre - radius, centre + radius)
    elif radius is not None:
        delta = moved - origin
        length = _l2(delta)
        moved.copy_(torch.where(length > radius, origin + delta * (radius / _nonzero(length)), moved))
    if moved is not z:
        z.copy_(moved if active is None else torch.where(active[:, None], moved, z))


def _l2(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float64).to(x.dtype)


def _nonzero(norm: Tensor) -> Tensor:
    """A zero norm becomes 1, so that 0 / 0 is 0. A NaN stays one: a broken gradient should be seen."""
    return norm.masked_fill_(norm == 0, 1)


@triton.jit
def _direction(grad_ptr, velocity_ptr, at, mask, momentum, l1, REAL: tl.constexpr):
    g = tl.load(grad_ptr + at, mask=mask, other=0.0).to(REAL)
    if velocity_ptr is not None:
        g = g / l1 + momentum * tl.load(velocity_ptr + at, mask=mask, other=0.0).to(REAL)
    return g


@triton.jit
def _stepped(z, g, step_size, l2, DIRECTION: tl.constexpr):
    if DIRECTION == "sign":
        # Written with comparisons, a NaN makes no step: torch.sign does the same.
        moved = tl.where(g > 0, z - step_size, tl.where(g < 0, z + step_size, z))
    else:
        moved = z - step_size * (g / l2)
    return moved


@triton.jit
def _nonzero_norm(squares, REAL: tl.constexpr):
    norm = tl.sqrt(tl.sum(squares, 1)).to(REAL)[:, None]
    return tl.where(norm == 0, 1.0, norm)


@triton.jit
def ifgsm_kernel(
    z_ptr,
    grad_ptr,
    origin_ptr,  # None without a radius; an absent tensor costs no traffic
    velocity_ptr,  # None without momentum
    score_ptr,
    active_ptr,
    best_z_ptr,
    best_score_ptr,
    batch,
    step_size: tl.float64,  # Triton would pass a Python float in single precision
    radius: tl.float64,
    momentum: tl.float64,
    stop_score: tl.float64,
    DIRECTION: tl.constexpr,
    RADIUS_NORM: tl.constexpr,  # "none" without a radius
    STOP: tl.constexpr,
    COLUMNS: tl.constexpr,  # known when compiled: 100 float32 are a multiple of 16 bytes, which a run-time 100 doesn't tell
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    REAL: tl.constexpr = tl.float64 if z_ptr.dtype.element_ty == tl.float64 else tl.float32
    step_size = tl.full((1, 1), step_size, REAL)
    radius = tl.full((1, 1), radius, REAL)
    momentum = tl.full((1, 1), momentum, REAL)

    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch
    moving = inside
    better = inside
    touched = inside
    if score_ptr is not None:
        score = tl.load(score_ptr + row, mask=inside, other=0.0)
    if active_ptr is not None:
        moving = inside & (tl.load(active_ptr + row, mask=inside, other=0) != 0)
        if STOP:
            moving = moving & ~(score >= tl.full((1,), stop_score, score.dtype))
        touched = moving
    if best_z_ptr is not None:
        better = inside & (score > tl.load(best_score_ptr + row, mask=inside, other=0.0))
        touched = touched | better

    # Up to three sweeps for norms, and one that writes. Where a single block holds the row, the compiler drops the loops and
    # merges their loads (a test counts them): for that the addresses and masks are formed alike, and all stores come last.
    base = row[:, None] * COLUMNS
    column = tl.arange(0, BLOCK)[None, :]
    l1 = tl.full((ROWS, 1), 1.0, REAL)
    if velocity_ptr is not None:
        total = tl.zeros((ROWS, BLOCK), REAL)
        for start in range(0, COLUMNS, BLOCK):
            at = base + (start + column)
            mask = moving[:, None] & (start + column < COLUMNS)
            total += tl.abs(tl.load(grad_ptr + at, mask=mask, other=0.0).to(REAL))
        l1 = tl.sum(total, 1)[:, None]
        l1 = tl.where(l1 == 0, 1.0, l1)

    l2 = tl.full((ROWS, 1), 1.0, REAL)
    if DIRECTION == "l2":
        squares = tl.zeros((ROWS, BLOCK), tl.float64)
        for start in range(0, COLUMNS, BLOCK):
            at = base + (start + column)
            mask = moving[:, None] & (start + column < COLUMNS)
            g = _direction(grad_ptr, velocity_ptr, at, mask, momentum, l1, REAL).to(tl.float64)
            squares += g * g
        l2 = _nonzero_norm(squares, REAL)

    length = tl.full((ROWS, 1), 1.0, REAL)
    if RADIUS_NORM == "l2":
        squares = tl.zeros((ROWS, BLOCK), tl.float64)
        for start in range(0, COLUMNS, BLOCK):
            at = base + (start + column)
            mask = moving[:, None] & (start + column < COLUMNS)
            g = _direction(grad_ptr, velocity_ptr, at, mask, momentum, l1, REAL)
            z = tl.load(z_ptr + at, mask=touched[:, None] & (start + column < COLUMNS), other=0.0)
            centre = tl.load(origin_ptr + at, mask=mask, other=0.0).to(REAL)
            delta = (_stepped(z.to(REAL), g, step_size, l2, DIRECTION) - centre).to(tl.float64)
            squares += delta * delta
        length = _nonzero_norm(squares, REAL)

    for start in range(0, COLUMNS, BLOCK):
        at = base + (start + column)
        mask = moving[:, None] & (start + column < COLUMNS)
        g = _direction(grad_ptr, velocity_ptr, at, mask, momentum, l1, REAL)
        z = tl.load(z_ptr + at, mask=touched[:, None] & (start + column < COLUMNS), other=0.0)
        moved = _stepped(z.to(REAL), g, step_size, l2, DIRECTION)
        if RADIUS_NORM == "linf":
            centre = tl.load(origin_ptr + at, mask=mask, other=0.0).to(REAL)
            # Not tl.clamp: a NaN would come out as a bound.
            moved = tl.where(moved < centre - radius, centre - radius, moved)
            moved = tl.where(moved > centre + radius, centre + radius, moved)
        elif RADIUS_NORM == "l2":
            centre = tl.load(origin_ptr + at, mask=mask, other=0.0).to(REAL)
            moved = tl.where(length > radius, centre + (moved - centre) * (radius / length), moved)
        # Several warps may hold the same row and have each read its state: none may write before all have read.
        if (best_z_ptr is not None) or (velocity_ptr is not None) or STOP or (RADIUS_NORM == "l2"):
            tl.debug_barrier()
        if best_z_ptr is not None:
            tl.store(best_z_ptr + at, z, mask=better[:, None] & (start + column < COLUMNS))
        if velocity_ptr is not None:
            tl.store(velocity_ptr + at, g.to(velocity_ptr.dtype.element_ty), mask=mask)
        tl.store(z_ptr + at, moved.to(z_ptr.dtype.element_ty), mask=mask)
    if best_z_ptr is not None:
        tl.store(best_score_ptr + row, score, mask=better)
    if STOP:
        tl.store(active_ptr + row, moving, mask=inside)


def tile(columns: int, element_size: int) -> tuple[int, int, int]:
    """Rows and columns that a program handles, and its warps: one 16-byte load a thread where rows are short."""
    block = min(triton.next_power_of_2(max(columns, 1)), MAX_BLOCK)
    rows = max(1, 4 * 32 * (16 // element_size) // block)
    return rows, block, 4 if block < MAX_BLOCK else 8


def _launch(
    z: Tensor,
    grad: Tensor,
    origin: Tensor | None,
    velocity: Tensor | None,
    score: Tensor | None,
    active: Tensor | None,
    best_z: Tensor | None,
    best_score: Tensor | None,
    step_size: float,
    direction: str,
    radius: float | None,
    radius_norm: str,
    momentum: float,
    stop_score: float | None,
) -> None:
    batch, columns = z.shape
    if batch == 0:
        return
    rows, block, warps = tile(columns, z.element_size())
    launch(
        ifgsm_kernel,
        (triton.cdiv(batch, rows),),
        z,
        grad.contiguous(),
        None if radius is None else origin.contiguous(),
        velocity if momentum else None,
        None if score is None else score.contiguous(),
        active,
        best_z,
        best_score,
        batch,
        step_size,
        radius or 0.0,
        momentum,
        stop_score or 0.0,
        warps=warps,
        DIRECTION=direction,
        RADIUS_NORM="none" if radius is None else radius_norm,
        STOP=stop_score is not None,
        COLUMNS=columns,
        ROWS=rows,
        BLOCK=block,
    )


_operator = operator(
    "ifgsm_step",
    cpu=_reference,
    kernels=_launch,
    fake=lambda *arguments: None,
    mutates=("z", "velocity", "active", "best_z", "best_score"),
)


def _arguments(example: Example, device: str, seed: int) -> dict:
    """Options: those of `ifgsm_step`, and "stop" or "best" for what goes with an early stop and with the best iterate."""
    options = dict(example.options)
    stop, best = options.pop("stop", False), options.pop("best", False)
    given = {name: example.tensor(device, seed + place) for place, name in enumerate(("z", "grad", "origin"))}
    given["step_size"] = 0.05
    if options.get("radius") is None:
        given["origin"] = None
    if options.get("momentum"):
        given["velocity"] = example.tensor(device, seed + 3)
    rows, real = example.shape[0], torch.promote_types(example.dtype, torch.float32)
    if stop or best:
        given["score"] = example.tensor(device, seed + 4, rows, dtype=real)
    if stop:
        given |= {"stop_score": 0.2, "active": example.tensor(device, seed + 5, rows) < 0.7}
    if best:
        given |= {"best_z": example.tensor(device, seed + 6), "best_score": example.tensor(device, seed + 7, rows, dtype=real)}
    return given | options


def _stepped_by(step):
    def stepped(**given) -> tuple[Tensor, ...]:
        step(**given)
        return tuple(given[name] for name in ("z", "velocity", "active", "best_z", "best_score") if given.get(name) is not None)

    return stepped


def _minimum(example: Example) -> tuple[int, int]:
    tensors = 3 + ("radius" in example.options) + 2 * ("momentum" in example.options) + ("best" in example.options)
    return tensors * torch.Size(example.shape).numel() * example.dtype.itemsize, 0


_ALL = {"direction": "l2", "radius": 0.4, "radius_norm": "l2", "momentum": 0.9, "stop": True, "best": True}

OPERATION = Operation(
    name="ifgsm",
    summary="an iteration of latent refinement",
    arguments=_arguments,
    fused=_stepped_by(ifgsm_step),
    eager=_stepped_by(ifgsm_step_reference),
    minimum=_minimum,
    wrt=(),
    examples=(
        Example("sign", (64, 128)),
        Example("sign, 100 columns", (64, 100)),  # z_dim of AdvLatGAN's networks: aligned to 16 bytes, no multiple of 16
        Example("sign", (64, 128), torch.bfloat16),
        Example("sign, linf ball", (64, 128), options={"radius": 0.4}),
        Example("sign, best", (64, 128), options={"best": True}),
        Example("sign, stop", (64, 128), options={"stop": True}),
        Example("everything", (64, 512), options=_ALL),
        Example("everything", (64, 512), torch.bfloat16, options=_ALL),
        Example("everything, W+", (64, 18 * 512), options=_ALL),  # StyleGAN2's: several blocks of columns
    ),
    small=(
        Example("sign", (3, 7)),
        Example("everything", (5, 100), options=_ALL),
        Example("sign, linf ball", (3, 5), options={"radius": 0.4, "momentum": 0.5}),
        Example("several blocks", (2, MAX_BLOCK + 1), options=_ALL),
        Example("one", (1, 1)),
        Example("empty", (0, 7), options=_ALL),
    ),
)
