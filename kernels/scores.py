"""From D's scores to what is descended and what is logged, for objectives whose losses are means of a function of each score.

    L_D = m f(a) + m g(b),   L_G = m h(b),   a = D(x),   b = D(G(z)),   m the mean over all scores

    objective          f(a)             g(b)             h(b)              source
    hinge              relu(1 - a)      relu(1 + b)      -b                Lim & Ye, "Geometric GAN" (2017), section 3
    non-saturating     softplus(-a)     softplus(b)      softplus(-b)      Goodfellow et al. (NeurIPS 2014), section 3
    minimax            softplus(-a)     softplus(b)      -softplus(b)      the same, equation 1
    wasserstein        -a               b                -b                Arjovsky et al., "Wasserstein GAN" (ICML 2017), eq. 2
    least-squares      (a - 1)^2 / 2    b^2 / 2          (b - 1)^2 / 2     Mao et al. (ICCV 2017), equation 9: targets 0, 1, 1

Logged with L_D: m a, m b, and the separation: the share of pairs (a_i, b_j) with a_i > b_j.

On CUDA one launch writes the loss, the gradients towards all scores and the statistics, and the backward multiplies what was
written by the gradient of the loss: at a few hundred scores it is launches that cost (eager code: 12 forward and 9 backward),
not bytes. From ONE_PROGRAM scores on many programs share them, and a second launch adds up; from PAIRS pairs on they are
counted by sorting, in plain torch. On the CPU, where calls are cheaper than an operator, all is plain torch.

Arithmetic and results are in float32 (float64 for float64), whatever the precision of the scores; `per_score` alone gives their
own. Autocast changes nothing.

Bytes per score, e to the element (4 in float32), the counting of pairs aside, which reads from the cache:

                     kernel            eager
    D's loss         e + 4             13 e    (hinge: 1 - a: 2, relu: 2, mean: 1; mean score: 1; pairs: 1 + 5 a pair)
    its gradient     4 + e              8 e    (mean: 1 for what it spreads, relu: 3, sign: 2)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import relu, softplus

from .launch import launch, taken
from .operation import Example, Operation
from .operator import operator
from .reduction import BLOCK, PROGRAMS, WARPS, accumulator, parts

ONE_PROGRAM = 4096
"""Scores of a side up to which one program does all."""
PAIRS = 2**20
"""Pairs up to which the kernel compares them one by one."""
SORTED = 2**14
"""Pairs up to which plain torch does; beyond, sorting is quicker (CPU: 2.4 times at 256 x 256, 21 times at 1024 x 1024)."""
TILE = 64
"""Scores of each side that are compared at once: 32 pairs a thread."""


@dataclass(frozen=True)
class Formula:
    """A function of a single score, and its derivative; torch's own at a corner (relu: 0)."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


FORMULAS: dict[str, Formula] = {
    "x": Formula(lambda x: x, torch.ones_like),
    "-x": Formula(lambda x: -x, lambda x: -torch.ones_like(x)),
    "relu(1-x)": Formula(lambda x: relu(1 - x), lambda x: -(1 - x > 0).to(x.dtype)),
    "relu(1+x)": Formula(lambda x: relu(1 + x), lambda x: (1 + x > 0).to(x.dtype)),
    "softplus(x)": Formula(softplus, torch.sigmoid),
    "softplus(-x)": Formula(lambda x: softplus(-x), lambda x: -torch.sigmoid(-x)),
    "-softplus(x)": Formula(lambda x: -softplus(x), lambda x: -torch.sigmoid(x)),
    "(x-1)^2/2": Formula(lambda x: (x - 1).square() / 2, lambda x: x - 1),
    "x^2/2": Formula(lambda x: x.square() / 2, lambda x: x),
}
"""By the names under which `_formula` has them for kernels."""

OBJECTIVES: dict[str, tuple[str, str, str]] = {
    "hinge": ("relu(1-x)", "relu(1+x)", "-x"),
    "non-saturating": ("softplus(-x)", "softplus(x)", "softplus(-x)"),
    "minimax": ("softplus(-x)", "softplus(x)", "-softplus(x)"),
    "wasserstein": ("-x", "x", "-x"),
    "least-squares": ("(x-1)^2/2", "x^2/2", "(x-1)^2/2"),
}
"""Objective -> formulas f of a real score and g of a generated one (D's loss), h of a generated one (G's)."""


def discriminator_loss(real: Tensor, fake: Tensor, objective: str) -> Tensor:
    """D's loss, to be minimised.

    Args:
        real, fake: floating point, any shape (a score an image, or maps), unbounded, higher = more real.
        objective: a key of OBJECTIVES.

    Returns:
        A scalar, float32 (float64 for float64); NaN where a side is empty, as a mean is. Differentiable to any order.

    Raises:
        ValueError: an unknown objective; scores that aren't floating point, or on two devices.
    """
    f, g, _ = _checked(objective, real, fake)
    if _plain(real):
        return _mean(f, real) + _mean(g, fake)
    return _discriminator(real, fake, objective, _wanted(real, fake))[0]


def discriminator_scores(real: Tensor, fake: Tensor, objective: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """D's loss and what is logged with it; arguments and errors as `discriminator_loss` has them.

    Returns:
        Four scalars of one type: the loss, differentiable, and without a gradient the mean real score, the mean generated score
        and the separation in 0 .. 1, NaN where a side is empty.
    """
    f, g, _ = _checked(objective, real, fake)
    if _plain(real):
        return _mean(f, real) + _mean(g, fake), *statistics(real, fake)
    loss, logged, _ = _discriminator(real, fake, objective, _wanted(real, fake))
    return loss, *logged.detach().unbind()


def generator_loss(fake: Tensor, objective: str) -> Tensor:
    """G's loss, to be minimised: the mean of `per_score`. Arguments, result and errors as `discriminator_loss` has them."""
    *_, h = _checked(objective, fake)
    return _mean(h, fake) if _plain(fake) else _generator(fake, objective, _wanted(fake))[0]


def per_score(fake: Tensor, objective: str) -> Tensor:
    """G's loss of each score by itself, which latent refinement descends: the scores' own shape and type. Arguments and errors
    as `discriminator_loss` has them."""
    *_, h = _checked(objective, fake)
    if _plain(fake):
        return FORMULAS[h].value(fake.to(accumulator(fake.dtype))).to(fake.dtype)
    return _each(fake, objective, _wanted(fake))[0]


def statistics(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean scores, and the share of (real, generated) pairs with the real score above the other, in plain torch, any device."""
    dtype, real, fake = accumulator(real.dtype, fake.dtype), real.detach(), fake.detach()
    return real.mean(dtype=dtype), fake.mean(dtype=dtype), separation(real, fake)


def separation(real: Tensor, fake: Tensor) -> Tensor:
    """The share of (real, generated) pairs with the real score above the other: a scalar; NaN where there are none."""
    real, fake, exact = real.detach().reshape(-1), fake.detach().reshape(-1), accumulator(real.dtype, fake.dtype)
    if len(real) * len(fake) <= SORTED:
        return (real[:, None] > fake).to(exact).mean()
    # Maps of scores have more pairs than memory has room for: each real score's place among the others says how many it beats.
    # NaN beats none and is beaten by none, as the infinite.
    dtype = torch.promote_types(real.dtype, fake.dtype)
    beaten = torch.searchsorted(fake.to(dtype).masked_fill(fake.isnan(), torch.inf).sort().values, real.to(dtype).contiguous())
    return (beaten.masked_fill(real.isnan(), 0).sum().double() / (len(real) * len(fake))).to(exact)


def _checked(objective: str, *scores: Tensor) -> tuple[str, str, str]:
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; known: {', '.join(OBJECTIVES)}")
    for side in scores:
        if not side.is_floating_point() or side.device != scores[0].device:
            found = " and ".join(f"{side.dtype} on {side.device}" for side in scores)
            raise ValueError(f"scores must be floating point and on one device, not {found}")
    return OBJECTIVES[objective]


def _plain(scores: Tensor) -> bool:
    return scores.device.type == "cpu" and not taken()


def _wanted(*scores: Tensor) -> bool:
    return torch.is_grad_enabled() and any(side.requires_grad for side in scores)


def _mean(formula: str, scores: Tensor) -> Tensor:
    return FORMULAS[formula].value(scores.to(accumulator(scores.dtype))).mean()


def _slope_of_mean(formula: str, scores: Tensor) -> Tensor:
    scores = scores.to(accumulator(scores.dtype))
    return FORMULAS[formula].slope(scores) / max(scores.numel(), 1)


def _discriminator_cpu(real: Tensor, fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    f, g, _ = OBJECTIVES[objective]
    dtype = accumulator(real.dtype, fake.dtype)
    slopes = [_slope_of_mean(f, real).reshape(-1), _slope_of_mean(g, fake).reshape(-1)] if wanted else []
    loss = (_mean(f, real) + _mean(g, fake)).to(dtype)
    return loss, torch.stack(statistics(real, fake)), torch.cat([real.new_empty(0, dtype=dtype), *slopes])


def _generator_cpu(fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor]:
    h = OBJECTIVES[objective][2]
    slopes = _slope_of_mean(h, fake).reshape(-1) if wanted else fake.new_empty(0, dtype=accumulator(fake.dtype))
    return _mean(h, fake).clone(), slopes


def _each_cpu(fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor]:
    formula, precise = FORMULAS[OBJECTIVES[objective][2]], fake.contiguous().to(accumulator(fake.dtype))
    slopes = formula.slope(precise).clone() if wanted else precise.new_empty(0)
    return formula.value(precise).to(fake.dtype, copy=True), slopes


@triton.jit
def _softplus(x):
    # log1p by way of the rounding of 1 + e, so that small results keep their digits: Kahan.
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.where(x > 0, x, 0.0) + log1p


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _relu(x):
    return tl.where(x <= 0, 0.0, x)  # a NaN stays one


@triton.jit
def _formula(x, FORMULA: tl.constexpr):
    """FORMULAS[FORMULA]: value and slope."""
    if FORMULA == "x":
        value = x
        slope = tl.zeros_like(x) + 1.0
    elif FORMULA == "-x":
        value = -x
        slope = tl.zeros_like(x) - 1.0
    elif FORMULA == "relu(1-x)":
        value = _relu(1.0 - x)
        slope = tl.where(1.0 - x > 0, -1.0, 0.0).to(x.dtype)
    elif FORMULA == "relu(1+x)":
        value = _relu(1.0 + x)
        slope = tl.where(1.0 + x > 0, 1.0, 0.0).to(x.dtype)
    elif FORMULA == "softplus(x)":
        value = _softplus(x)
        slope = _sigmoid(x)
    elif FORMULA == "softplus(-x)":
        value = _softplus(-x)
        slope = -_sigmoid(-x)
    elif FORMULA == "-softplus(x)":
        value = -_softplus(x)
        slope = -_sigmoid(x)
    elif FORMULA == "(x-1)^2/2":
        value = (x - 1.0) * (x - 1.0) * 0.5
        slope = x - 1.0
    else:
        tl.static_assert(FORMULA == "x^2/2")
        value = x * x * 0.5
        slope = x
    return value, slope


@triton.jit
def _side(x_ptr, slope_ptr, count, size, REAL: tl.constexpr, FORMULA: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of a side's losses and scores over this program's part; slopes of the mean loss are written."""
    program = tl.program_id(0).to(tl.int64)
    stride = tl.num_programs(0).to(tl.int64) * BLOCK
    losses = tl.zeros((BLOCK,), REAL)
    scores = tl.zeros((BLOCK,), REAL)
    for sweep in range(0, tl.cdiv(count, stride)):
        at = sweep * stride + program * BLOCK + tl.arange(0, BLOCK)
        mask = at < count
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(REAL)
        value, slope = _formula(x, FORMULA)
        losses += tl.where(mask, value, 0.0)
        scores += x
        if slope_ptr is not None:
            tl.store(slope_ptr + at, slope / size, mask=mask)
    return tl.sum(losses, 0), tl.sum(scores, 0)


@triton.jit
def _rightly_ordered(real_ptr, fake_ptr, real_count, fake_count, REAL: tl.constexpr, TILE: tl.constexpr):
    """How many pairs have the real score above the other."""
    total = tl.zeros((TILE, TILE), tl.int32)
    for upper in range(0, tl.cdiv(real_count, TILE)):
        i = upper * TILE + tl.arange(0, TILE)[:, None]
        a = tl.load(real_ptr + i, mask=i < real_count, other=0.0).to(REAL)
        for lower in range(0, tl.cdiv(fake_count, TILE)):
            j = lower * TILE + tl.arange(0, TILE)[None, :]
            b = tl.load(fake_ptr + j, mask=j < fake_count, other=0.0).to(REAL)
            total += ((a > b) & (i < real_count) & (j < fake_count)).to(tl.int32)
    return tl.sum(tl.sum(total, 1), 0)


@triton.jit
def scores_kernel(
    real_ptr,  # None for G's loss
    fake_ptr,
    loss_ptr,
    statistics_ptr,  # None for G's loss
    partial_ptr,  # (4, PROGRAMS) sums; None where one program does all
    real_slope_ptr,  # None where no gradient is wanted
    fake_slope_ptr,
    real_count,
    fake_count,
    real_size: tl.float64,  # the counts, as numbers to divide by: of no scores 0 / 0 is NaN, as a mean is
    fake_size: tl.float64,
    ON_REAL: tl.constexpr,
    ON_FAKE: tl.constexpr,
    COUNT_PAIRS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    REAL: tl.constexpr = loss_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    real_size = tl.full((), real_size, REAL)
    fake_size = tl.full((), fake_size, REAL)
    fake_losses, fake_scores = _side(fake_ptr, fake_slope_ptr, fake_count, fake_size, REAL, ON_FAKE, BLOCK)
    if partial_ptr is not None:
        tl.store(partial_ptr + program, fake_losses)
        tl.store(partial_ptr + PROGRAMS + program, fake_scores)
    loss = fake_losses / fake_size
    if real_ptr is not None:
        real_losses, real_scores = _side(real_ptr, real_slope_ptr, real_count, real_size, REAL, ON_REAL, BLOCK)
        if partial_ptr is not None:
            tl.store(partial_ptr + 2 * PROGRAMS + program, real_losses)
            tl.store(partial_ptr + 3 * PROGRAMS + program, real_scores)
        else:
            loss = real_losses / real_size + loss
            tl.store(statistics_ptr, real_scores / real_size)
            tl.store(statistics_ptr + 1, fake_scores / fake_size)
        if COUNT_PAIRS:  # noqa: SIM102 (known when compiling, the other when running)
            if program == 0:
                ordered = _rightly_ordered(real_ptr, fake_ptr, real_count, fake_count, REAL, TILE).to(REAL)
                tl.store(statistics_ptr + 2, ordered / (real_size * fake_size))
    if partial_ptr is None:
        tl.store(loss_ptr, loss)


@triton.jit
def finish_kernel(
    partial_ptr, loss_ptr, statistics_ptr, programs, real_size: tl.float64, fake_size: tl.float64, PROGRAMS: tl.constexpr
):
    REAL: tl.constexpr = loss_ptr.dtype.element_ty
    at = tl.arange(0, PROGRAMS)
    real_size = tl.full((), real_size, REAL)
    fake_size = tl.full((), fake_size, REAL)
    loss = tl.sum(tl.load(partial_ptr + at, mask=at < programs, other=0.0), 0) / fake_size
    if statistics_ptr is not None:
        fake = tl.sum(tl.load(partial_ptr + PROGRAMS + at, mask=at < programs, other=0.0), 0) / fake_size
        loss = tl.sum(tl.load(partial_ptr + 2 * PROGRAMS + at, mask=at < programs, other=0.0), 0) / real_size + loss
        real = tl.sum(tl.load(partial_ptr + 3 * PROGRAMS + at, mask=at < programs, other=0.0), 0) / real_size
        tl.store(statistics_ptr, real)
        tl.store(statistics_ptr + 1, fake)
    tl.store(loss_ptr, loss)


@triton.jit
def each_kernel(x_ptr, value_ptr, slope_ptr, count, FORMULA: tl.constexpr, BLOCK: tl.constexpr):
    REAL: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value, slope = _formula(tl.load(x_ptr + at, mask=at < count, other=0.0).to(REAL), FORMULA)
    tl.store(value_ptr + at, value.to(value_ptr.dtype.element_ty), mask=at < count)
    if slope_ptr is not None:
        tl.store(slope_ptr + at, slope, mask=at < count)


def _launch_scores(
    real: Tensor | None, fake: Tensor, on_real: str, on_fake: str, wanted: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    fake, real = fake.contiguous(), None if real is None else real.contiguous()
    sides = [side for side in (real, fake) if side is not None]
    real_count, fake_count = 0 if real is None else real.numel(), fake.numel()
    dtype = accumulator(*(side.dtype for side in sides))
    loss, logged = (torch.empty(shape, dtype=dtype, device=fake.device) for shape in ((), (3,)))
    logged = None if real is None else logged
    slopes = torch.empty((real_count + fake_count) * wanted, dtype=dtype, device=fake.device)
    largest = max(real_count, fake_count)
    programs = 1 if largest <= ONE_PROGRAM else parts(largest)
    partial = None if programs == 1 else torch.empty(4, PROGRAMS, dtype=dtype, device=fake.device)
    sizes = (float(real_count), float(fake_count))
    launch(
        scores_kernel,
        (programs,),
        real,
        fake,
        loss,
        logged,
        partial,
        slopes[:real_count] if wanted and real is not None else None,
        slopes[real_count:] if wanted else None,
        real_count,
        fake_count,
        *sizes,
        warps=WARPS,
        ON_REAL=on_real,
        ON_FAKE=on_fake,
        COUNT_PAIRS=real is not None and real_count * fake_count <= PAIRS,
        TILE=TILE,
        BLOCK=BLOCK,
        PROGRAMS=PROGRAMS,
    )
    if partial is not None:
        launch(finish_kernel, (1,), partial, loss, logged, programs, *sizes, warps=WARPS, PROGRAMS=PROGRAMS)
    if real is not None and real_count * fake_count > PAIRS:
        logged[2].copy_(separation(real, fake))
    return loss, logged, slopes


def _launch_discriminator(real: Tensor, fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _launch_scores(real, fake, *OBJECTIVES[objective][:2], wanted)


def _launch_generator(fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor]:
    loss, _, slopes = _launch_scores(None, fake, "none", OBJECTIVES[objective][2], wanted)
    return loss, slopes


def _launch_each(fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor]:
    values, slopes = _fake_each(fake, objective, wanted)
    grid = (triton.cdiv(fake.numel(), BLOCK),)
    given = (fake.contiguous(), values, slopes if wanted else None, fake.numel())
    launch(each_kernel, grid, *given, warps=WARPS, FORMULA=OBJECTIVES[objective][2], BLOCK=BLOCK)
    return values, slopes


def _fake_discriminator(real: Tensor, fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulator(real.dtype, fake.dtype)
    count = (real.numel() + fake.numel()) * wanted
    return fake.new_empty((), dtype=dtype), fake.new_empty(3, dtype=dtype), fake.new_empty(count, dtype=dtype)


def _fake_generator(fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor]:
    dtype = accumulator(fake.dtype)
    return fake.new_empty((), dtype=dtype), fake.new_empty(fake.numel() * wanted, dtype=dtype)


def _fake_each(fake: Tensor, objective: str, wanted: bool) -> tuple[Tensor, Tensor]:
    shape = fake.shape if wanted else (0,)
    return fake.new_empty(fake.shape), fake.new_empty(shape, dtype=accumulator(fake.dtype))


_discriminator = operator(
    "scores_discriminator", cpu=_discriminator_cpu, kernels=_launch_discriminator, fake=_fake_discriminator
)
_generator = operator("scores_generator", cpu=_generator_cpu, kernels=_launch_generator, fake=_fake_generator)
_each = operator("scores_each", cpu=_each_cpu, kernels=_launch_each, fake=_fake_each)


def _save(ctx, inputs, output) -> None:
    *scores, ctx.objective, _ = inputs
    *others, slopes = output
    ctx.mark_non_differentiable(*others[1:], slopes)
    ctx.save_for_backward(*scores, slopes)


def _backward_discriminator(ctx, upstream: Tensor, *_):
    real, fake, slopes = ctx.saved_tensors
    return *_scaled(ctx, upstream, (real, fake), slopes, OBJECTIVES[ctx.objective][:2]), None, None


def _backward_generator(ctx, upstream: Tensor, *_):
    fake, slopes = ctx.saved_tensors
    return *_scaled(ctx, upstream, (fake,), slopes, OBJECTIVES[ctx.objective][2:]), None, None


def _scaled(
    ctx, upstream: Tensor, scores: tuple[Tensor, ...], slopes: Tensor, formulas: tuple[str, ...]
) -> list[Tensor | None]:
    """Gradients towards the sides that need one: all slopes times `upstream`, a single multiplication."""
    needed = ctx.needs_input_grad[: len(scores)]
    if torch.is_grad_enabled():  # to be differentiated again: in operations that torch differentiates
        given = zip(scores, formulas, needed, strict=True)
        return [(upstream * _slope_of_mean(f, x)).to(x.dtype) if need else None for x, f, need in given]
    dtypes = {x.dtype for x in scores}
    whole = torch.mul(slopes, upstream, out=torch.empty_like(slopes, dtype=dtypes.pop() if len(dtypes) == 1 else None))
    given = zip(scores, whole.split([x.numel() for x in scores]), needed, strict=True)
    return [part.view(x.shape).to(x.dtype) if need else None for x, part, need in given]


def _backward_each(ctx, upstream: Tensor, *_):
    fake, slopes = ctx.saved_tensors
    if torch.is_grad_enabled():
        slopes = FORMULAS[OBJECTIVES[ctx.objective][2]].slope(fake.to(slopes.dtype))
    return (upstream * slopes).to(fake.dtype), None, None


_discriminator.register_autograd(_backward_discriminator, setup_context=_save)
_generator.register_autograd(_backward_generator, setup_context=_save)
_each.register_autograd(_backward_each, setup_context=_save)


def _arguments(example: Example, device: str, seed: int) -> dict:
    """Options: "objective", and "fake", the shape of the generated scores where it isn't that of the real ones."""
    options = dict(example.options)
    fake = example.tensor(device, seed + 1, *options.pop("fake", example.shape))
    return {"real": example.tensor(device, seed), "fake": fake, "objective": "hinge"} | options


def _minimum(example: Example) -> tuple[int, int]:
    """The slopes are written by the forward that is differentiated, not by the backward: counted as the backward's."""
    real, fake = (torch.Size(shape).numel() for shape in (example.shape, example.options.get("fake", example.shape)))
    exact, e = accumulator(example.dtype).itemsize, example.dtype.itemsize
    compared = (real + triton.cdiv(real, TILE) * fake) * e if real * fake <= PAIRS else 0
    shared = 0 if max(real, fake) <= ONE_PROGRAM else 8 * parts(max(real, fake))
    return (real + fake) * e + compared + (4 + shared) * exact, (real + fake) * exact


def _fake_arguments(example: Example, device: str, seed: int) -> dict:
    return {"fake": example.tensor(device, seed), "objective": "non-saturating"} | dict(example.options)


def _fake_minimum(example: Example) -> tuple[int, int]:
    count, exact = torch.Size(example.shape).numel(), accumulator(example.dtype).itemsize
    shared = 0 if count <= ONE_PROGRAM else 3 * parts(count)
    return count * example.dtype.itemsize + (1 + shared) * exact, count * exact


def _each_minimum(example: Example) -> tuple[int, int]:
    count = torch.Size(example.shape).numel()
    return 2 * count * example.dtype.itemsize, count * accumulator(example.dtype).itemsize


_EAGER = {
    "hinge": (lambda a: relu(1 - a).mean(), lambda b: relu(1 + b).mean(), lambda b: -b),
    "non-saturating": (lambda a: softplus(-a).mean(), lambda b: softplus(b).mean(), lambda b: softplus(-b)),
    "minimax": (lambda a: softplus(-a).mean(), lambda b: softplus(b).mean(), lambda b: -softplus(b)),
    "wasserstein": (lambda a: -a.mean(), lambda b: b.mean(), lambda b: -b),
    "least-squares": (lambda a: 0.5 * (a - 1).square().mean(), lambda b: 0.5 * b.square().mean(), lambda b: 0.5 * (b - 1) ** 2),
}


def _eager(real: Tensor, fake: Tensor, objective: str) -> tuple[Tensor, ...]:
    f, g, _ = _EAGER[objective]
    a, b = real.detach(), fake.detach()
    exact = accumulator(real.dtype)
    return f(real) + g(fake), a.mean(), b.mean(), (a.reshape(-1, 1) > b.reshape(1, -1)).to(exact).mean()


def _fits(example: Example) -> bool:
    """Whether eager code has room for all pairs at once."""
    return math.prod(example.shape) * math.prod(example.options.get("fake", example.shape)) <= 2**25


_SMALL = (
    *(Example(objective, (5,), options={"objective": objective}) for objective in OBJECTIVES),
    Example("one score", (1,)),
    Example("empty", (0,)),
)

OPERATIONS = (
    Operation(
        name="scores_discriminator",
        summary="D's loss, gradient and statistics",
        arguments=_arguments,
        fused=discriminator_scores,
        eager=_eager,
        minimum=_minimum,
        wrt=("real", "fake"),
        fits=_fits,
        examples=(
            Example("CIFAR", (64,)),
            Example("BigGAN 128x128", (256,), torch.bfloat16),
            Example("BigGAN 128x128", (256,), options={"objective": "non-saturating"}),
            Example("patches", (16, 1, 30, 30)),  # maps: several programs, pairs by sorting
        ),
        small=(
            *_SMALL,
            Example("two shapes", (2, 1, 3, 5), options={"fake": (67,), "objective": "least-squares"}),
            Example("more than a program", (ONE_PROGRAM + 5,), options={"fake": (130,), "objective": "non-saturating"}),
            Example("more than a program, sorted", (ONE_PROGRAM + 5,), options={"fake": (600,)}),
        ),
    ),
    Operation(
        name="scores_generator",
        summary="G's loss and gradient",
        arguments=_fake_arguments,
        fused=generator_loss,
        eager=lambda fake, objective: _EAGER[objective][2](fake).mean(),
        minimum=_fake_minimum,
        wrt=("fake",),
        examples=(
            Example("CIFAR", (64,)),
            Example("BigGAN 128x128", (256,), torch.bfloat16),
            Example("patches", (16, 1, 30, 30)),
        ),
        small=(*_SMALL, Example("more than a program", (ONE_PROGRAM + 5,))),
    ),
    Operation(
        name="scores_each",
        summary="G's loss of each score, for refinement",
        arguments=_fake_arguments,
        fused=per_score,
        eager=lambda fake, objective: _EAGER[objective][2](fake),
        minimum=_each_minimum,
        wrt=("fake",),
        examples=(
            Example("CIFAR", (64,)),
            Example("BigGAN 128x128", (256,), torch.bfloat16),
            Example("patches", (16, 1, 30, 30)),
        ),
        small=(*_SMALL, Example("more than a block", (2, 1, 33, 17))),
    ),
)
