"""All that follows the gradient in one iteration of latent I-FGSM, in one launch and in place, for all leaves of a latent.

    best:       where score > best_score:  best_score = score,  best_z = z            (the z before the step; NaN never wins)
    stop:       active = active and not score >= stop_score                            (a frozen sample keeps z and velocity)
    direction:  g = grad,   or with momentum   velocity = momentum * velocity + grad / |grad|_1,   g = velocity
    step:       z = z - step_size * sign(g)   or   z = z - step_size * g / |g|_2       (a zero gradient makes no step)
    projection: z into the ball of `radius` around `origin`, in the L-inf or the L2 norm

A latent of several leaves (BigGAN's chunks, a style pair, noise maps) moves as one vector: |.| is over all leaves of a sample.

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

Where norms are asked for, rows of several leaves or of more than MAX_BLOCK columns are read again from the cache, once a norm.
"""

from collections.abc import Sequence

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
MAX_LEAVES = 16  # the kernel's text, and its registers, grow with each

Leaves = Tensor | Sequence[Tensor]


@torch.no_grad()
def ifgsm_step(
    z: Leaves,
    grad: Leaves,
    origin: Leaves | None,
    *,
    step_size: float,
    direction: str = "sign",
    radius: float | None = None,
    radius_norm: str = "linf",
    momentum: float = 0.0,
    velocity: Leaves | None = None,
    score: Tensor | None = None,
    stop_score: float | None = None,
    active: Tensor | None = None,
    best_z: Leaves | None = None,
    best_score: Tensor | None = None,
) -> None:
    """Moves each row of z against its gradient, in place. Nothing is differentiated, and nothing waits for the device.

    The first call of a combination of options compiles the CUDA kernel: call once before capturing a CUDA graph.

    Args:
        z: float (B, D), contiguous. Or the leaves of a latent, a sequence of such, (B, D_i) each, of one type: `grad`,
            `origin`, `velocity` and `best_z` are then sequences alike. MAX_LEAVES at most, one launch for all. Written.
        grad: (B, D), the loss's gradient, of z's type, in any memory layout.
        origin: (B, D), the centre of the ball, in any memory layout; unused (may be None) without a radius.
        step_size: at least 0; the length of a step per coordinate ("sign") or as a whole, over all leaves ("l2").
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
        ValueError: an unknown direction or norm, a negative number, a missing companion, a wrong shape, type, layout or number
            of leaves.
    """
    z, grad, origin, velocity, best_z = _leaves(z), _leaves(grad), _leaves(origin), _leaves(velocity), _leaves(best_z)
    _check(z, grad, origin, step_size, direction, radius, radius_norm, momentum, velocity, score, stop_score, active)
    _check_best(z, score, best_z, best_score)
    arguments = (z, grad, origin, velocity, score, active, best_z, best_score)
    arguments += (float(step_size), direction, radius, radius_norm, float(momentum), stop_score)
    # On the CPU the operator's dispatch would add 8 microseconds to the 8 that a step of 64 x 128 takes with its checks. Traced
    # and fake tensors pass through the reference as well, and a compiler can fuse what it sees.
    if z[0].device.type == "cpu" and not taken():
        _reference(*arguments)
    else:
        torch.ops.fastgan.ifgsm_step(*arguments)


def _leaves(x: Leaves | None) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else [] if x is None else list(x)


def _check(z, grad, origin, step_size, direction, radius, radius_norm, momentum, velocity, score, stop_score, active) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}")
    if radius_norm not in NORMS:
        raise ValueError(f"radius_norm must be one of {', '.join(NORMS)}, not {radius_norm!r}")
    for name, number in (("step_size", step_size), ("momentum", momentum), ("radius", radius)):
        if number is not None and not number >= 0:  # NaN fails too
            raise ValueError(f"{name} must be at least 0, not {number}")
    if not 0 < len(z) <= MAX_LEAVES:
        raise ValueError(f"a step takes 1 to {MAX_LEAVES} leaves, not {len(z)}")
    for leaf in z:
        if leaf.dim() != 2 or not leaf.dtype.is_floating_point:
            raise ValueError(f"z must be a floating-point (B, D) tensor, not {leaf.dtype} {tuple(leaf.shape)}")
        if leaf is not z[0] and (len(leaf) != len(z[0]) or leaf.dtype != z[0].dtype or leaf.device != z[0].device):
            raise ValueError("the leaves of a latent must agree in batch, dtype and device")
        if not leaf.is_contiguous():
            raise ValueError("z is written in place and must be contiguous")
    if radius is not None and not origin:
        raise ValueError("a radius needs origin, the centre of the ball")
    if momentum and not velocity:
        raise ValueError("momentum needs velocity")
    if stop_score is not None and (score is None or active is None):
        raise ValueError("stop_score needs score and active")
    _check_rows(z, "grad", grad)
    if origin:
        _check_rows(z, "origin", origin)
    if velocity:
        _check_rows(z, "velocity", velocity, contiguous=True)
    if score is not None and (score.shape != z[0].shape[:1] or not score.dtype.is_floating_point):
        raise ValueError(f"score must be floating-point ({len(z[0])},), not {score.dtype} {tuple(score.shape)}")
    if active is not None and (active.shape != z[0].shape[:1] or active.dtype != torch.bool or not active.is_contiguous()):
        raise ValueError(f"active must be contiguous bool ({len(z[0])},), not {active.dtype} {tuple(active.shape)}")


def _check_best(z: list[Tensor], score: Tensor | None, best_z: list[Tensor], best_score: Tensor | None) -> None:
    if not best_z and best_score is None:
        return
    if not best_z or best_score is None or score is None:
        raise ValueError("best_z, best_score and score go together")
    _check_rows(z, "best_z", best_z, contiguous=True)
    if best_score.shape != score.shape or best_score.dtype != score.dtype or not best_score.is_contiguous():
        raise ValueError(f"best_score must be a contiguous {score.dtype} {tuple(score.shape)} as score is")


def _check_rows(z: list[Tensor], name: str, tensors: list[Tensor], contiguous: bool = False) -> None:
    if len(tensors) != len(z):
        raise ValueError(f"{name} must have a tensor for each of z's {len(z)} leaves, not {len(tensors)}")
    for leaf, tensor in zip(z, tensors, strict=True):
        if tensor.shape != leaf.shape or tensor.dtype != leaf.dtype or tensor.device != leaf.device:
            raise ValueError(
                f"{name} must match z ({leaf.dtype} {tuple(leaf.shape)} on {leaf.device}), "
                f"not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            )
        if contiguous and not tensor.is_contiguous():
            raise ValueError(f"{name} is written in place and must be contiguous")


@torch.no_grad()
def ifgsm_step_reference(
    z: Leaves,
    grad: Leaves,
    origin: Leaves | None,
    *,
    step_size: float,
    direction: str = "sign",
    radius: float | None = None,
    radius_norm: str = "linf",
    momentum: float = 0.0,
    velocity: Leaves | None = None,
    score: Tensor | None = None,
    stop_score: float | None = None,
    active: Tensor | None = None,
    best_z: Leaves | None = None,
    best_score: Tensor | None = None,
) -> None:
    """`ifgsm_step` in plain torch on any device, without its checks."""
    z, grad, origin, velocity, best_z = map(_leaves, (z, grad, origin, velocity, best_z))
    tensors = (z, grad, origin, velocity, score, active, best_z, best_score)
    _reference(*tensors, step_size, direction, radius, radius_norm, momentum, stop_score)


def _reference(
    z: list[Tensor],
    grad: list[Tensor],
    origin: list[Tensor],
    velocity: list[Tensor],
    score: Tensor | None,
    active: Tensor | None,
    best_z: list[Tensor],
    best_score: Tensor | None,
    step_size: float,
    direction: str,
    radius: float | None,
    radius_norm: str,
    momentum: float,
    stop_score: float | None,
) -> None:
    if best_z:
        better = score > best_score
        best_score.copy_(torch.where(better, score, best_score))
        for best, leaf in zip(best_z, z, strict=True):
            best.copy_(torch.where(better[:, None], leaf, best))
    if stop_score is not None:
        active &= ~(score >= stop_score)

    real = torch.float64 if z[0].dtype == torch.float64 else torch.float32
    gs = [leaf.to(real) for leaf in grad]
    if momentum:
        l1 = _nonzero(_together([g.abs().sum(1, keepdim=True) for g in gs]))
        gs = [torch.add(g / l1, v.to(real), alpha=momentum) for g, v in zip(gs, velocity, strict=True)]
        for v, g in zip(velocity, gs, strict=True):
            v.copy_(g if active is None else torch.where(active[:, None], g, v))

    # In the ordinary case (float32, no early stop) `moved` is z itself, and sign(g) the only temporary.
    moved = [leaf if active is None and leaf.dtype == real else leaf.to(real, copy=True) for leaf in z]
    l2 = _nonzero(_l2(gs)) if direction == "l2" else None
    for leaf, g in zip(moved, gs, strict=True):
        leaf.sub_(g.sign() if l2 is None else g / l2, alpha=step_size)
    if radius is not None and radius_norm == "linf":
        for leaf, start in zip(moved, origin, strict=True):
            centre = start.to(real)
            leaf.clamp_(centre - radius, centre + radius)
    elif radius is not None:
        deltas = [leaf - start for leaf, start in zip(moved, origin, strict=True)]
        length = _l2(deltas)
        outside, scale = length > radius, radius / _nonzero(length)
        for leaf, start, delta in zip(moved, origin, deltas, strict=True):
            leaf.copy_(torch.where(outside, start + delta * scale, leaf))
    for leaf, new in zip(z, moved, strict=True):
        if new is not leaf:
            leaf.copy_(new if active is None else torch.where(active[:, None], new, leaf))


def _l2(parts: list[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float64) for x in parts]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.cat(norms, 1), dim=1, keepdim=True)
    return norm.to(parts[0].dtype)


def _together(sums: list[Tensor]) -> Tensor:
    return sums[0] if len(sums) == 1 else torch.cat(sums, 1).sum(1, keepdim=True)


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
    norm = tl.sqrt(squares).to(REAL)[:, None]
    return tl.where(norm == 0, 1.0, norm)


# A leaf's share of each of the up to three norms, and the sweep that writes. Where a single block holds the rows of the only
# leaf, the compiler drops the loops and merges their loads (a test counts them): for that the addresses and masks are formed
# alike, and all stores come last.


@triton.jit
def _absolute_sum(
    grad_ptr, row, moving, some,
    REAL: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = row[:, None] * COLUMNS
    column = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((ROWS, BLOCK), REAL)
    for start in range(0, COLUMNS * some, BLOCK):
        at = base + (start + column)
        mask = moving[:, None] & (start + column < COLUMNS)
        total += tl.abs(tl.load(grad_ptr + at, mask=mask, other=0.0).to(REAL))
    return tl.sum(total, 1)


@triton.jit
def _squared_direction(
    grad_ptr, velocity_ptr, row, moving, some, momentum, l1,
    REAL: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = row[:, None] * COLUMNS
    column = tl.arange(0, BLOCK)[None, :]
    squares = tl.zeros((ROWS, BLOCK), tl.float64)
    for start in range(0, COLUMNS * some, BLOCK):
        at = base + (start + column)
        mask = moving[:, None] & (start + column < COLUMNS)
        g = _direction(grad_ptr, velocity_ptr, at, mask, momentum, l1, REAL).to(tl.float64)
        squares += g * g
    return tl.sum(squares, 1)


@triton.jit
def _squared_distance(
    z_ptr, grad_ptr, origin_ptr, velocity_ptr, row, moving, touched, some, step_size, momentum, l1, l2,
    DIRECTION: tl.constexpr, REAL: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = row[:, None] * COLUMNS
    column = tl.arange(0, BLOCK)[None, :]
    squares = tl.zeros((ROWS, BLOCK), tl.float64)
    for start in range(0, COLUMNS * some, BLOCK):
        at = base + (start + column)
        mask = moving[:, None] & (start + column < COLUMNS)
        g = _direction(grad_ptr, velocity_ptr, at, mask, momentum, l1, REAL)
        z = tl.load(z_ptr + at, mask=touched[:, None] & (start + column < COLUMNS), other=0.0)
        centre = tl.load(origin_ptr + at, mask=mask, other=0.0).to(REAL)
        delta = (_stepped(z.to(REAL), g, step_size, l2, DIRECTION) - centre).to(tl.float64)
        squares += delta * delta
    return tl.sum(squares, 1)


@triton.jit
def _write(
    z_ptr, grad_ptr, origin_ptr, velocity_ptr, best_z_ptr, row, moving, better, touched, some,
    step_size, radius, momentum, l1, l2, length,
    DIRECTION: tl.constexpr, RADIUS_NORM: tl.constexpr, STOP: tl.constexpr, REAL: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    base = row[:, None] * COLUMNS
    column = tl.arange(0, BLOCK)[None, :]
    for start in range(0, COLUMNS * some, BLOCK):
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


@triton.jit(do_not_specialize=["batch"])
def ifgsm_kernel(
    z_ptrs,  # tuples, a pointer a leaf
    grad_ptrs,
    origin_ptrs,  # of None without a radius; an absent tensor costs no traffic
    velocity_ptrs,  # of None without momentum
    score_ptr,
    active_ptr,
    best_z_ptrs,  # of None where the best is not kept
    best_score_ptr,
    batch,
    step_size: tl.float64,  # Triton would pass a Python float in single precision
    radius: tl.float64,
    momentum: tl.float64,
    stop_score: tl.float64,
    DIRECTION: tl.constexpr,
    RADIUS_NORM: tl.constexpr,  # "none" without a radius
    STOP: tl.constexpr,
    COLUMNS: tl.constexpr,  # of each leaf, known when compiled: 100 float32 are a multiple of 16 bytes, which a run-time 100
    ROWS: tl.constexpr,  #     doesn't tell
    BLOCKS: tl.constexpr,
):
    LEAVES: tl.constexpr = len(COLUMNS)
    REAL: tl.constexpr = tl.float64 if z_ptrs[0].dtype.element_ty == tl.float64 else tl.float32
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
    if best_score_ptr is not None:
        better = inside & (score > tl.load(best_score_ptr + row, mask=inside, other=0.0))
        touched = touched | better

    # Several leaves, several sweeps: where the compiler can't see that a loop runs once, it doesn't keep what it has read of
    # every leaf, and the addresses, from one sweep to the next (16 leaves: 112 registers; else 255 and spills).
    some = 1
    if (LEAVES > 1) and ((velocity_ptrs[0] is not None) or (DIRECTION == "l2") or (RADIUS_NORM == "l2")):
        some = (batch > 0).to(tl.int32)

    l1 = tl.full((ROWS, 1), 1.0, REAL)
    if velocity_ptrs[0] is not None:
        total = tl.zeros((ROWS,), REAL)
        for leaf in tl.static_range(LEAVES):
            total += _absolute_sum(grad_ptrs[leaf], row, moving, some, REAL, COLUMNS[leaf], ROWS, BLOCKS[leaf])
        l1 = tl.where(total == 0, 1.0, total)[:, None]

    l2 = tl.full((ROWS, 1), 1.0, REAL)
    if DIRECTION == "l2":
        squares = tl.zeros((ROWS,), tl.float64)
        for leaf in tl.static_range(LEAVES):
            squares += _squared_direction(
                grad_ptrs[leaf], velocity_ptrs[leaf], row, moving, some, momentum, l1,
                REAL, COLUMNS[leaf], ROWS, BLOCKS[leaf],
            )  # fmt: skip
        l2 = _nonzero_norm(squares, REAL)

    length = tl.full((ROWS, 1), 1.0, REAL)
    if RADIUS_NORM == "l2":
        squares = tl.zeros((ROWS,), tl.float64)
        for leaf in tl.static_range(LEAVES):
            squares += _squared_distance(
                z_ptrs[leaf], grad_ptrs[leaf], origin_ptrs[leaf], velocity_ptrs[leaf], row, moving, touched, some,
                step_size, momentum, l1, l2, DIRECTION, REAL, COLUMNS[leaf], ROWS, BLOCKS[leaf],
            )  # fmt: skip
        length = _nonzero_norm(squares, REAL)

    for leaf in tl.static_range(LEAVES):
        _write(
            z_ptrs[leaf], grad_ptrs[leaf], origin_ptrs[leaf], velocity_ptrs[leaf], best_z_ptrs[leaf],
            row, moving, better, touched, some, step_size, radius, momentum, l1, l2, length,
            DIRECTION, RADIUS_NORM, STOP, REAL, COLUMNS[leaf], BLOCKS[leaf],
        )  # fmt: skip
    if best_score_ptr is not None:
        tl.store(best_score_ptr + row, score, mask=better)
    if STOP:
        tl.store(active_ptr + row, moving, mask=inside)


def tile(columns: Sequence[int], element_size: int) -> tuple[int, tuple[int, ...], int]:
    """Rows that a program handles, the columns that it takes at once of each leaf, and its warps: one 16-byte load a thread
    where rows are short. Rows that aren't multiples of 16 bytes are read number by number, and the addresses of several leaves
    take registers: there it is one number a thread."""
    blocks = tuple(min(triton.next_power_of_2(max(count, 1)), MAX_BLOCK) for count in columns)
    aligned = len(columns) == 1 or all(count * element_size % 16 == 0 for count in columns)
    rows = max(1, 4 * 32 * (16 // element_size if aligned else 1) // max(blocks))
    return rows, blocks, 4 if max(blocks) < MAX_BLOCK else 8


def _launch(
    z: list[Tensor],
    grad: list[Tensor],
    origin: list[Tensor],
    velocity: list[Tensor],
    score: Tensor | None,
    active: Tensor | None,
    best_z: list[Tensor],
    best_score: Tensor | None,
    step_size: float,
    direction: str,
    radius: float | None,
    radius_norm: str,
    momentum: float,
    stop_score: float | None,
) -> None:
    batch, columns, absent = len(z[0]), tuple(leaf.shape[1] for leaf in z), (None,) * len(z)
    if batch == 0:
        return
    rows, blocks, warps = tile(columns, z[0].element_size())
    launch(
        ifgsm_kernel,
        (triton.cdiv(batch, rows),),
        tuple(z),
        tuple(leaf.contiguous() for leaf in grad),
        absent if radius is None else tuple(leaf.contiguous() for leaf in origin),
        tuple(velocity) if momentum else absent,
        None if score is None else score.contiguous(),
        active,
        tuple(best_z) or absent,
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
        BLOCKS=blocks,
    )


_operator = operator(
    "ifgsm_step",
    cpu=_reference,
    kernels=_launch,
    fake=lambda *arguments: None,
    mutates=("z", "velocity", "active", "best_z", "best_score"),
)


def _arguments(example: Example, device: str, seed: int) -> dict:
    """Options: those of `ifgsm_step`, "stop" or "best" for what goes with an early stop and with the best iterate, "leaves" for
    the columns of each leaf."""
    options = dict(example.options)
    stop, best, leaves = options.pop("stop", False), options.pop("best", False), options.pop("leaves", None)
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
    if leaves:
        several = [name for name in ("z", "grad", "origin", "velocity", "best_z") if given.get(name) is not None]
        given |= {name: tuple(part.contiguous() for part in given[name].split(leaves, 1)) for name in several}
    return given | options


def _stepped_by(step):
    def stepped(**given) -> tuple[Tensor, ...]:
        step(**given)
        return tuple(x for name in ("z", "velocity", "active", "best_z", "best_score") for x in _leaves(given.get(name)))

    return stepped


def _minimum(example: Example) -> tuple[int, int]:
    tensors = 3 + ("radius" in example.options) + 2 * ("momentum" in example.options) + ("best" in example.options)
    return tensors * torch.Size(example.shape).numel() * example.dtype.itemsize, 0


_ALL = {"direction": "l2", "radius": 0.4, "radius_norm": "l2", "momentum": 0.9, "stop": True, "best": True}

_STYLE = (512, 4**2, 8**2, 8**2, 16**2, 16**2, 32**2, 32**2)  # w and the noise of StyleGAN2's first layers

OPERATION = Operation(
    name="ifgsm",
    summary="an iteration of latent refinement",
    arguments=_arguments,
    fused=_stepped_by(ifgsm_step),
    eager=_stepped_by(ifgsm_step_reference),
    minimum=_minimum,
    wrt=(),
    fits=lambda example: sum(example.options.get("leaves", example.shape[1:])) == example.shape[1],
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
        Example("sign, BigGAN chunks", (256, 120), options={"leaves": (20,) * 6}),
        Example("everything, BigGAN chunks", (256, 120), options=_ALL | {"leaves": (20,) * 6}),
        Example("everything, style and noise maps", (32, sum(_STYLE)), options=_ALL | {"leaves": _STYLE}),
    ),
    small=(
        Example("sign", (3, 7)),
        Example("everything", (5, 100), options=_ALL),
        Example("sign, linf ball", (3, 5), options={"radius": 0.4, "momentum": 0.5}),
        Example("several blocks", (2, MAX_BLOCK + 1), options=_ALL),
        Example("one", (1, 1)),
        Example("empty", (0, 7), options=_ALL),
        Example("leaves", (5, 43), options={"leaves": (17, 20, 1, 5)}),
        Example("leaves", (5, 43), options=_ALL | {"leaves": (17, 20, 1, 5)}),
        Example("as many leaves as there can be", (3, 32), options=_ALL | {"leaves": (2,) * MAX_LEAVES}),
    ),
)
