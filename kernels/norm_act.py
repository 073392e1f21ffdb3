"""Batch norm, a gain and a bias of each channel or of each sample's channel, an activation, and nearest upsampling.

    y = act((x - mean) / sqrt(var + eps) * gain + bias),     each pixel of y four times where it is upsampled by 2

mean and var are of each channel: given (standing statistics), or x's own over batch and pixels (then they are part of the
gradient). Ioffe and Szegedy, "Batch normalization" (ICML 2015), algorithms 1 and 2. Gain and bias of each sample, from its
class or latent: de Vries et al., "Modulating early visual processing by language" (NeurIPS 2017); in generators Miyato and
Koyama, "cGANs with projection discriminator" (ICLR 2018), and Brock, Donahue and Simonyan, BigGAN (ICLR 2019), appendix B,
whose blocks are batch norm, gain and bias, ReLU, upsampling.

    dxhat = gain act'(.) dy,  dy summed over the four pixels where y was upsampled
    dx = (dxhat - m dxhat - xhat m(dxhat xhat)) / sqrt(var + eps),   without the two means m over the channel where mean and var
    were given;   dbias = sum act' dy,   dgain = sum act' dy xhat

Arithmetic and sums are in float32 (float64 for float64) whatever the precision of x, gain and bias; the kernels round y once,
to x's type. On the CPU, with gains of samples in half precision, the norm, the gain and the bias round one after the other, as
eager code does. Autocast changes nothing: y has x's type, as torch's batch norm has.

Variances suffer no cancellation, also where |mean| is far above the deviation: of what is left less the first number of the
channel, every lane of a program keeps a mean and a sum of squared deviations from it (Welford 1962), and lanes and programs are
joined by the exact update of Chan, Golub and LeVeque (1979), programs in float64. Ranks are joined by sums of squares
in float64, which one all-reduce adds up: there the variance loses what the squared mean outweighs it by (3e-6 of it at
a mean of 1e5 deviations).

Only x is kept for the backward: the activation's side is computed again. On the CPU the functions are plain torch and not
operators: see below.

Bytes per element of x, e to the element; eager is F.batch_norm, and for gain and bias of samples * gain + bias, then relu and
interpolate, a sweep of torch's batch norm over its input counted once where it makes two:

                                                       kernel                                  eager
    statistics computed, forward                       3 e   (sums: 1, y: 2)                   4 e
        gain and bias of samples                       3 e                                     8 e
        and upsampled                                  6 e   (sums: 1, y: 1 + 4)               13 e
    backward                                           5 e   (sums: 2, dx: 3)                  6 e
        gain and bias of samples                       5 e                                     13 e
        and upsampled                                  9 e   (sums: 1 + 4, act' dy: 1, dx: 3)  18 e
    statistics given, forward                          2 e   (upsampled: 5 e)                  as above
    backward, with gain's and bias's                   5 e   (upsampled: 9 e)                  as above
    backward, dx alone                                 3 e   (upsampled: 6 e)

The upsampled backward leaves act' dy, pooled, where dx will stand: half precision rounds it there once more.

Ranks that share a batch put their reductions between the halves:

    sums = channel_sums(x); all_reduce(sums); mean, var = statistics(sums, x.dtype)
    y = norm_act(x, gain, bias, mean=mean, var=var)
    dy, to_gain, to_bias, totals = backward_sums(dy, x, gain, bias, mean, var); all_reduce(totals)
    dx = input_gradient(dy, x, gain, bias, mean, var, totals / sums[0])
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from .launch import launch, taken
from .layout import dense_rows, is_channels_last, like
from .operation import Example, Operation
from .operator import operator
from .reduction import WARPS, accumulator

ACTIVATIONS = ("none", "relu", "leaky")

_TILE = 1024  # numbers that a program holds at a time
_LINE = 32  # channels of a channels-last tile, and groups of a finishing one


def norm_act(
    x: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
    act: str = "none",
    slope: float = 0.2,
    upsample: bool = False,
) -> Tensor:
    """Normalises, scales and shifts every channel, then activates, then upsamples.

    Args:
        x: floating point, (B, C, H, W) or (B, C).
        gain, bias: floating point of any type, (C,), or (B, C) for one of each sample; None for 1 and 0.
        mean, var: (C,), float32 (float64 where x is) or x's type, constants in the gradient; both or neither. Without them
            x's own over batch and pixels, the biased variance.
        eps: what is added to the variance, above 0.
        act: "none", "relu" or "leaky".
        slope: of "leaky" below zero, at least 0.
        upsample: whether y has twice the height and width, each pixel four times.

    Returns:
        (B, C, H, W), (B, C, 2H, 2W) or (B, C), of x's type; channels last where x is, else contiguous. Differentiable to any
        order in x, gain and bias.

    Raises:
        ValueError: another shape or type, an unknown activation, a negative number, one of mean and var alone, or statistics of
            a single value for each channel.
    """
    if mean is None and var is None:
        return batch_norm_act(x, gain, bias, eps=eps, act=act, slope=slope, upsample=upsample)
    if mean is None or var is None:
        raise ValueError("mean and var go together")
    _check(x, gain, bias, eps, act, slope, upsample)
    _check_statistics(x, mean=mean, var=var)
    settings = (float(eps), act, float(slope), upsample)
    if x.device.type == "cpu" and not taken():
        return _composed(x, gain, bias, mean.detach(), var.detach(), False, 0.0, *settings)
    real = accumulator(x.dtype)
    return _given(x, gain, bias, mean.detach().to(real), var.detach().to(real), *settings)


def batch_norm_act(
    x: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    act: str = "none",
    slope: float = 0.2,
    upsample: bool = False,
) -> Tensor:
    """`norm_act` with x's own statistics, which move running averages as torch's batch norm moves them.

    Args:
        running_mean, running_var: (C,), of the types that `norm_act` takes, or None. Written:
            running = (1 - momentum) running + momentum x's own, where the variance is the unbiased one.

    Raises:
        ValueError: as `norm_act`.
    """
    _check(x, gain, bias, eps, act, slope, upsample)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var go together")
    if running_mean is not None and running_var is not None:
        _check_statistics(x, running_mean=running_mean, running_var=running_var)
    count = x.numel() // max(x.shape[1], 1)
    if count == 1:
        raise ValueError(f"batch statistics need more than one value a channel, not {tuple(x.shape)}")
    settings = (float(eps), act, float(slope), upsample)
    if x.device.type == "cpu" and not taken():
        return _composed(x, gain, bias, running_mean, running_var, True, momentum, *settings)
    y, mean, var = _computed(x, gain, bias, *settings)
    if running_mean is not None and running_var is not None and count:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return y


def channel_sums(x: Tensor) -> Tensor:
    """How many numbers each channel of x has, their sum and the sum of their squares, to be added up over ranks.

    The two sums are float64, made from means and deviations; `statistics` subtracts them, which costs digits only where the
    mean is very many deviations.

    Args:
        x: as `norm_act`'s.

    Returns:
        (3, C), float64. No gradient.

    Raises:
        ValueError: another shape or type.
    """
    _check(x, None, None, 1.0, "none", 0.0, False)
    return _sums(x.detach())


def statistics(sums: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (C,), from (3, C) `channel_sums`, for x of this type."""
    count, first, second = sums
    mean = first / count
    var = (second / count - mean.square()).clamp_min(0)
    return mean.to(accumulator(dtype)), var.to(accumulator(dtype))


def backward_sums(
    dy: Tensor,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    *,
    eps: float = 1e-5,
    act: str = "none",
    slope: float = 0.2,
    upsample: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first half of the backward: this rank's sums.

    Args:
        dy: the gradient towards y.
        x, gain, bias, eps, act, slope, upsample: as in the forward.
        mean, var: (C,), with which y was made.

    Returns:
        What `input_gradient` takes in dy's place (x's shape where y was upsampled, else dy); the gradients of gain and bias,
        (C,) or (B, C), float32 (float64), also where those are None; and totals, (2, C): the sums of dxhat and of dxhat xhat
        over the channel, which ranks add up.
    """
    settings = (float(eps), act, float(slope), upsample)
    to_gain, to_bias, totals, *pooled = _backward_sums(dy, x, gain, bias, mean, var, *settings)
    return pooled[0] if pooled else dy, to_gain, to_bias, totals


def input_gradient(
    dy: Tensor,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    means: Tensor | None,
    *,
    eps: float = 1e-5,
    act: str = "none",
    slope: float = 0.2,
    upsample: bool = False,
) -> Tensor:
    """The second half of the backward: the gradient towards x.

    Args:
        dy: as `backward_sums` returns it.
        means: (2, C), the totals over all ranks by the count of the channel; None where statistics were given.
        the others: as in `backward_sums`.
    """
    return _input_gradient(dy, x, gain, bias, mean, var, means, float(eps), act, float(slope), upsample)


def norm_act_reference(
    x: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
    act: str = "none",
    slope: float = 0.2,
    upsample: bool = False,
) -> Tensor:
    """`norm_act` in plain torch, without its checks."""
    real = accumulator(x.dtype)
    wide = x.to(real)
    if mean is None:
        mean, var = _own_statistics(wide)
    y = (wide - _over(mean, x)) * (_over(var, x) + eps).rsqrt()
    y = y if gain is None else y * _over(gain.to(real), x)
    y = y if bias is None else y + _over(bias.to(real), x)
    y = functional.relu(y) if act == "relu" else functional.leaky_relu(y, slope) if act == "leaky" else y
    y = y.to(x.dtype)
    return y.repeat_interleave(2, 2).repeat_interleave(2, 3) if upsample else y


def _own_statistics(wide: Tensor) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(wide.dim()) if axis != 1]
    mean = wide.mean(axes)
    return mean, (wide - _over(mean, wide)).square().mean(axes)


def _over(parameter: Tensor, x: Tensor) -> Tensor:
    """(C,) or (B, C) as it broadcasts over x."""
    return parameter.reshape(*parameter.shape, *[1] * (x.dim() - 2))


def _check(x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, act: str, slope: float, upsample: bool) -> None:
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, not {act!r}")
    if not eps > 0:  # NaN fails too
        raise ValueError(f"eps must be above 0, not {eps}")
    if not slope >= 0:
        raise ValueError(f"slope must be at least 0, not {slope}")
    if x.dim() not in (2, 4) or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point (B, C, H, W) or (B, C) tensor, not {x.dtype} {tuple(x.shape)}")
    if upsample and (x.dim() != 4 or x.shape[2] * x.shape[3] >= 2**28):
        raise ValueError(f"only (B, C, H, W) maps of less than 2**28 pixels are upsampled, not {tuple(x.shape)}")
    for name, parameter in (("gain", gain), ("bias", bias)):
        if parameter is None:
            continue
        if (
            parameter.shape not in (x.shape[1:2], x.shape[:2])
            or not parameter.is_floating_point()
            or parameter.device != x.device
        ):
            raise ValueError(
                f"{name} must be floating-point {tuple(x.shape[1:2])} or {tuple(x.shape[:2])} on {x.device}, not "
                f"{parameter.dtype} {tuple(parameter.shape)} on {parameter.device}"
            )


def _check_statistics(x: Tensor, **statistics: Tensor) -> None:
    real = accumulator(x.dtype)
    for name, given in statistics.items():
        if given.shape != x.shape[1:2] or given.dtype not in (real, x.dtype) or given.device != x.device:
            raise ValueError(
                f"{name} must be {real} {tuple(x.shape[1:2])} on {x.device}, not "
                f"{given.dtype} {tuple(given.shape)} on {given.device}"
            )


def _per_sample(gain: Tensor | None, bias: Tensor | None) -> bool:
    return any(parameter is not None and parameter.dim() == 2 for parameter in (gain, bias))


def _empty(x: Tensor, upsample: bool) -> Tensor:
    """For y: x is dense."""
    if not upsample:
        return torch.empty_like(x)
    shape = (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_format(x))


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 and is_channels_last(x) else torch.contiguous_format


# --- The CPU's path --------------------------------------------------------------------------------------------------------
# torch's own batch norm, which is well vectorised, and all that follows in place, differentiated by torch: an operator's
# dispatch and a backward in Python took 160 microseconds, a third of the whole at 2 MiB, and going through the batch in chunks
# that stay in cache gained less than it cost.


def _composed(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool,
    momentum: float, eps: float, act: str, slope: float, upsample: bool,
) -> Tensor:  # fmt: skip
    """`norm_act`; `training` with x's own statistics, which then move mean and var by `momentum` where there are any."""
    x, real = dense_rows(x), accumulator(x.dtype)
    if not x.numel():
        nothing = (None, None) if training else (mean, var)
        return norm_act_reference(
            x, gain, bias, mean=nothing[0], var=nothing[1], eps=eps, act=act, slope=slope, upsample=upsample
        )
    own = _per_sample(gain, bias)
    if bias is not None and gain is None and not own:
        gain = torch.ones_like(bias)  # torch's second derivative asks for a weight where there is a bias
    # Contiguous: torch's batch norm's backward misreads weights and statistics with gaps.
    if not training:
        mean, var = (s if s is None else s.contiguous() for s in (mean, var))
    weights = [p if p is None or own else p.to(real if mean is None else mean.dtype).contiguous() for p in (gain, bias)]
    y = functional.batch_norm(x, mean, var, *((None, None) if own else weights), training, momentum, eps)
    if own:
        gain, bias = (None if p is None else _over(p.to(x.dtype), x) for p in (gain, bias))
        y = y if gain is None else y * gain
        y = y if bias is None else y.add_(bias)
    return activate(y, act, slope, upsample)


def activate(y: Tensor, act: str = "none", slope: float = 0.2, upsample: bool = False) -> Tensor:
    """What `norm_act` does after the norm, in plain torch: for a norm that has become part of the layer before it.

    Args:
        y: (B, C, H, W) or (B, C). Written where there is an activation.
        act, slope, upsample: as in `norm_act`.
    """
    if act == "relu":
        y = relu_(y)
    elif act == "leaky":
        y = functional.leaky_relu_(y, slope)
    if not upsample:
        return y
    return functional.interpolate(y, scale_factor=2) if is_channels_last(y) else _Upsample.apply(y)


def relu_(y: Tensor) -> Tensor:
    """ReLU in place, differentiable twice; fast on the CPU in half precision."""
    return _HalfReLU.apply(y) if y.dtype in _MINUS_INFINITY else y.relu_()


_MINUS_INFINITY = {torch.bfloat16: -(2**7), torch.float16: -(2**10)}
"""Its bits as an integer. In this order come -0, the negative numbers, minus infinity, negative NaNs, 0, and all that is
positive."""


class _HalfReLU(torch.autograd.Function):
    """ReLU in place by one comparison of integers: 80 microseconds for 8 MiB; torch, which widens and rounds, takes 485."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        functional.threshold_(y.view(torch.int16), _MINUS_INFINITY[y.dtype], 0)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return torch.where(y > 0, dy, 0)
        return torch.ops.aten.threshold_backward(dy.view(torch.int16), y.view(torch.int16), 0).view(dy.dtype)


class _Upsample(torch.autograd.Function):
    """Nearest upsampling of contiguous maps: 7 milliseconds for 32 MiB and 2 backward, where torch's takes 47 and 5."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        out = _empty(y, True)
        four = out.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        four.copy_(y[:, :, :, None, :, None].expand_as(four))
        return out

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        rows = dy[:, :, ::2] + dy[:, :, 1::2]
        return rows[..., ::2] + rows[..., 1::2]


def _sums_cpu(x: Tensor) -> Tensor:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    wide, count = x.double(), x.numel() // max(x.shape[1], 1)
    return torch.stack([wide.new_full(x.shape[1:2], count), wide.sum(axes), wide.square().sum(axes)])


def _given_cpu(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, act: str, slope: float,
    upsample: bool,
) -> Tensor:  # fmt: skip
    return _composed(x, gain, bias, mean, var, False, 0.0, eps, act, slope, upsample)


def _computed_cpu(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, act: str, slope: float, upsample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = _own_statistics(x.to(accumulator(x.dtype)))
    return _composed(x, gain, bias, mean, var, False, 0.0, eps, act, slope, upsample), mean, var


def _backward_cpu(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, act: str,
    slope: float, upsample: bool, computed: bool, wanted: list[bool],
) -> list[Tensor]:  # fmt: skip
    statistics_given = (None, None) if computed else (mean, var)
    found = backward_reference(dy, dense_rows(x), gain, bias, *statistics_given, eps, act, slope, upsample)
    return [gradient.clone() for gradient, asked in zip(found, wanted, strict=True) if asked]


def _backward_sums_cpu(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, act: str,
    slope: float, upsample: bool,
) -> list[Tensor]:  # fmt: skip
    x = dense_rows(x)
    normal, before = _normal_and_before(dy, x, gain, bias, mean, var, eps, act, slope, upsample)
    rest = list(range(2, x.dim()))
    per_sample = [sums.sum(rest) if rest else sums for sums in (before * normal, before)]
    scale = 1.0 if gain is None else gain.to(mean.dtype)
    totals = torch.stack([(sums * scale).sum(0) for sums in reversed(per_sample)])
    own = [sums.clone() if _stride(p) else sums.sum(0) for sums, p in zip(per_sample, (gain, bias), strict=True)]
    return [*own, totals, *([like(before.to(x.dtype), x)] if upsample else [])]


def _input_gradient_cpu(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, means: Tensor | None,
    eps: float, act: str, slope: float, upsample: bool,
) -> Tensor:  # fmt: skip
    x = dense_rows(x)
    if upsample and dy.shape == x.shape:  # pooled and through the activation already
        act, upsample = "none", False
    normal, before = _normal_and_before(dy, x, gain, bias, mean, var, eps, act, slope, upsample)
    dx = before if gain is None else before * _over(gain.to(mean.dtype), x)
    if means is not None:
        first, second = means.to(mean.dtype)
        dx = dx - _over(first, x) - normal * _over(second, x)
    return like((dx * _over((var + eps).rsqrt(), x)).to(x.dtype), x)


# --- Kernels ---------------------------------------------------------------------------------------------------------------
# A program has a tile of ROWS x COLS numbers at a time, and goes along `per` pixels with it. Channels last (LAST) its columns
# are channels and its rows pixels of one sample, or of all where nothing is a sample's own. Else its rows are planes, each one
# channel of one sample, and its columns pixels. What belongs to a channel is loaded as a vector of columns, or of rows: as part
# of a tile each thread would load it once for each number it has.


@triton.jit
def place(program, planes, channels, pixels, splits, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Its channels, samples, part of the pixels, offset of its first number, which channels exist, where its sums go."""
    if LAST:
        blocks = tl.cdiv(channels, COLS)
        group = program // blocks
        first = program % blocks * COLS
        channel = first + tl.arange(0, COLS)
        sample, split, base = group // splits, group % splits, group // splits * pixels * channels + first
        return channel, sample, split, base, channel < channels, group * channels + channel
    else:
        block = program // splits
        split = program % splits
        plane = block * ROWS + tl.arange(0, ROWS)
        sample, channel = plane // channels, plane % channels
        return channel, sample, split, block * ROWS * pixels, plane < planes, (sample * splits + split) * channels + channel


@triton.jit
def over_tile(vector, LAST: tl.constexpr):
    if LAST:
        return vector[None, :]
    else:
        return vector[:, None]


@triton.jit
def tile(base, at, end, inside, channels, pixels, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Offsets of the numbers from pixel `at` on, and which of them exist."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLS)[None, :]
    if LAST:
        wide = tl.full((), 1, tl.int64) * channels
        return base + at * wide + (row * channels + column), (at + row < end) & inside[None, :]
    else:
        return base + at + (row * pixels + column), (at + column < end) & inside[:, None]


@triton.jit
def upsampled(
    base, sample, channel, at, end, inside, channels, pixels, width,
    LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Offsets of the upper left copies (LAST), or of the upper copies in pairs, and which exist; how far the lower ones are."""
    row = tl.arange(0, ROWS)[:, None]
    if LAST:
        pixel = sample * pixels + at
        along = (pixel % width).to(tl.int32) + row
        offset = along // width * (4 * width) + along % width * 2
        start = pixel // width * (4 * width) * channels
        return start + (offset * channels + channel[None, :]), (at + row < end) & inside[None, :], 2 * width * channels
    else:
        pair = (2 * at + tl.arange(0, 2 * COLS)[None, :]).to(tl.int32)
        offset = pair // (2 * WIDTH) * (4 * WIDTH) + pair % (2 * WIDTH)
        return base * 4 + (row * (4 * pixels) + offset), (pair < 2 * end) & inside[:, None], 2 * WIDTH


@triton.jit
def of_channel(ptr, channel, inside, other: tl.constexpr, LAST: tl.constexpr, REAL: tl.constexpr):
    return over_tile(tl.load(ptr + channel, mask=inside, other=other).to(REAL), LAST)


@triton.jit
def of_sample(ptr, stride, channel, sample, inside, other: tl.constexpr, LAST: tl.constexpr, REAL: tl.constexpr):
    """A gain or bias; `stride` is 0 where all samples share it."""
    if ptr is None:
        return over_tile(tl.full(channel.shape, other, REAL), LAST)
    else:
        return over_tile(tl.load(ptr + sample * stride + channel, mask=inside, other=other).to(REAL), LAST)


@triton.jit
def inverse_deviation(var, eps: tl.float64, REAL: tl.constexpr):
    return tl.rsqrt(var + tl.full((), eps, REAL))


@triton.jit
def through_activation(v, dy, slope: tl.float64, ACT: tl.constexpr):
    """dy as it stands before the activation of v."""
    if ACT == "relu":
        return tl.where(v <= 0, 0.0, dy)
    elif ACT == "leaky":
        return tl.where(v > 0, dy, dy * tl.full((), slope, dy.dtype))
    else:
        return dy


@triton.jit
def pooled(
    dy_ptr, offset, exists, below, channels, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, REAL: tl.constexpr
):
    """Sums of the four gradients of each pixel that was upsampled."""
    upper = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
    lower = tl.load(dy_ptr + offset + below, mask=exists, other=0.0).to(REAL)
    if LAST:
        upper += tl.load(dy_ptr + offset + channels, mask=exists, other=0.0).to(REAL)
        lower += tl.load(dy_ptr + offset + below + channels, mask=exists, other=0.0).to(REAL)
        return upper + lower
    else:
        left, right = tl.split(tl.reshape(upper + lower, (ROWS, COLS, 2)))
        return left + right


@triton.jit
def moments_kernel(
    x_ptr, partial_ptr, planes, channels, pixels, per, splits, slots, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    _, _, split, base, inside, slot = place(tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS)
    first = base + split * per * (channels if LAST else 1) + tl.arange(0, COLS if LAST else ROWS) * (1 if LAST else pixels)
    shift = tl.load(x_ptr + first, mask=inside & (split * per < pixels), other=0.0).to(REAL)
    mean = tl.zeros((ROWS, COLS), REAL)
    squares = tl.zeros((ROWS, COLS), REAL)  # of deviations from the lane's own mean
    count = tl.zeros((ROWS, COLS), REAL)
    sweep = tl.full((), 0.0, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        x = tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL)
        sweep += 1.0
        away = tl.where(exists, x - over_tile(shift, LAST) - mean, 0.0)  # a lane has seen `sweep` numbers until it sees no more
        step = away * (1.0 / sweep)
        mean += step
        squares += away * (away - step)
        count += tl.where(exists, 1.0, 0.0)
    AXIS: tl.constexpr = 0 if LAST else 1
    middle = tl.sum(count * mean, AXIS) / tl.maximum(tl.sum(count, AXIS), 1.0)
    away = mean - over_tile(middle, LAST)
    tl.store(partial_ptr + slot, shift + middle, mask=inside)
    tl.store(partial_ptr + slots + slot, tl.sum(squares + count * away * away, AXIS), mask=inside)


@triton.jit
def statistics_kernel(
    partial_ptr,
    mean_ptr,
    var_ptr,
    sums_ptr,
    groups,
    channels,
    pixels,
    per,
    splits,
    slots,
    number: tl.float64,
    LINE: tl.constexpr,
):
    """Joins the groups' means and squared deviations, in float64."""
    channel = tl.program_id(0).to(tl.int64) * LINE + tl.arange(0, LINE)[None, :]
    total = tl.full((), number, tl.float64)
    mean = tl.zeros((1, LINE), tl.float64)
    for first in range(0, groups, LINE):
        group = first + tl.arange(0, LINE)[:, None]
        exists = (group < groups) & (channel < channels)
        count = tl.minimum(pixels - group % splits * per, per).to(tl.float64)
        middle = tl.load(partial_ptr + group.to(tl.int64) * channels + channel, mask=exists, other=0.0).to(tl.float64)
        mean += tl.sum(tl.where(exists, count * middle, 0.0), 0, keep_dims=True)
    mean = mean / total
    squares = tl.zeros((1, LINE), tl.float64)
    for first in range(0, groups, LINE):
        group = first + tl.arange(0, LINE)[:, None]
        exists = (group < groups) & (channel < channels)
        count = tl.minimum(pixels - group % splits * per, per).to(tl.float64)
        slot = group.to(tl.int64) * channels + channel
        middle = tl.load(partial_ptr + slot, mask=exists, other=0.0).to(tl.float64)
        own = tl.load(partial_ptr + slots + slot, mask=exists, other=0.0).to(tl.float64)
        squares += tl.sum(tl.where(exists, own + count * (middle - mean) * (middle - mean), 0.0), 0, keep_dims=True)
    inside = channel < channels
    if sums_ptr is not None:
        none = total == 0
        tl.store(sums_ptr + channel, tl.where(none, 0.0, total + tl.zeros_like(mean)), mask=inside)
        tl.store(sums_ptr + channels + channel, tl.where(none, 0.0, total * mean), mask=inside)
        tl.store(sums_ptr + 2 * channels + channel, tl.where(none, 0.0, squares + total * mean * mean), mask=inside)
    else:
        tl.store(mean_ptr + channel, mean.to(mean_ptr.dtype.element_ty), mask=inside)
        tl.store(var_ptr + channel, (squares / total).to(var_ptr.dtype.element_ty), mask=inside)


@triton.jit
def normalise_kernel(
    x_ptr, mean_ptr, var_ptr, gain_ptr, bias_ptr, y_ptr,
    planes, channels, pixels, width, per, splits, gain_stride, bias_stride, eps: tl.float64, slope: tl.float64,
    ACT: tl.constexpr, UP: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, _ = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_channel(mean_ptr, channel, inside, 0.0, LAST, REAL)
    inverse = inverse_deviation(of_channel(var_ptr, channel, inside, 1.0, LAST, REAL), eps, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        x = tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL)
        v = (x - mean) * inverse * gain + bias
        if ACT == "relu":
            v = tl.where(v <= 0, 0.0, v)  # NaN stays
        elif ACT == "leaky":
            v = tl.where(v > 0, v, v * tl.full((), slope, REAL))
        y = v.to(y_ptr.dtype.element_ty)
        if UP:
            offset, exists, below = upsampled(
                base, sample, channel, at, end, inside, channels, pixels, width, LAST, WIDTH, ROWS, COLS
            )
            if LAST:
                tl.store(y_ptr + offset + channels, y, mask=exists)
                tl.store(y_ptr + offset + below + channels, y, mask=exists)
            else:
                y = tl.interleave(y, y)
            tl.store(y_ptr + offset, y, mask=exists)
            tl.store(y_ptr + offset + below, y, mask=exists)
        else:
            tl.store(y_ptr + offset, y, mask=exists)


@triton.jit
def sums_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, gain_ptr, bias_ptr, partial_ptr, pooled_ptr,
    planes, channels, pixels, width, per, splits, slots, gain_stride, bias_stride, eps: tl.float64, slope: tl.float64,
    ACT: tl.constexpr, UP: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, slot = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_channel(mean_ptr, channel, inside, 0.0, LAST, REAL)
    inverse = inverse_deviation(of_channel(var_ptr, channel, inside, 1.0, LAST, REAL), eps, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    to_bias = tl.zeros((ROWS, COLS), REAL)
    to_gain = tl.zeros((ROWS, COLS), REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        normal = (tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL) - mean) * inverse
        if UP:
            place_of, there, below = upsampled(
                base, sample, channel, at, end, inside, channels, pixels, width, LAST, WIDTH, ROWS, COLS
            )
            dy = pooled(dy_ptr, place_of, there, below, channels, LAST, ROWS, COLS, REAL)
        else:
            dy = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
        dy = through_activation(normal * gain + bias, dy, slope, ACT)
        if pooled_ptr is not None:
            tl.store(pooled_ptr + offset, dy.to(pooled_ptr.dtype.element_ty), mask=exists)
        to_bias += dy
        to_gain += tl.where(exists, dy * normal, 0.0)
    AXIS: tl.constexpr = 0 if LAST else 1
    tl.store(partial_ptr + slot, tl.sum(to_gain, AXIS), mask=inside)
    tl.store(partial_ptr + slots + slot, tl.sum(to_bias, AXIS), mask=inside)


@triton.jit
def totals_kernel(
    partial_ptr, gain_ptr, to_gain_ptr, to_bias_ptr, totals_ptr, samples, channels, splits, slots, gain_stride,
    OWN_GAIN: tl.constexpr, OWN_BIAS: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Joins the groups of each sample, writes what is the samples' own, and joins the samples."""
    REAL: tl.constexpr = partial_ptr.dtype.element_ty
    channel = tl.program_id(0).to(tl.int64) * LINE + tl.arange(0, LINE)[None, :]
    inside = channel < channels
    all_to_gain = tl.zeros((1, LINE), REAL)
    all_to_bias = tl.zeros((1, LINE), REAL)
    first_total = tl.zeros((1, LINE), REAL)
    second_total = tl.zeros((1, LINE), REAL)
    for first in range(0, samples, LINE):
        sample = (first + tl.arange(0, LINE)[:, None]).to(tl.int64)
        exists = (sample < samples) & inside
        to_gain = tl.zeros((LINE, LINE), REAL)
        to_bias = tl.zeros((LINE, LINE), REAL)
        for split in range(0, splits):
            slot = (sample * splits + split) * channels + channel
            to_gain += tl.load(partial_ptr + slot, mask=exists, other=0.0)
            to_bias += tl.load(partial_ptr + slots + slot, mask=exists, other=0.0)
        if OWN_GAIN:
            tl.store(to_gain_ptr + sample * channels + channel, to_gain, mask=exists)
        if OWN_BIAS:
            tl.store(to_bias_ptr + sample * channels + channel, to_bias, mask=exists)
        if gain_ptr is not None:
            gain = tl.load(gain_ptr + sample * gain_stride + channel, mask=exists, other=0.0).to(REAL)
            first_total += tl.sum(gain * to_bias, 0, keep_dims=True)
            second_total += tl.sum(gain * to_gain, 0, keep_dims=True)
        all_to_gain += tl.sum(to_gain, 0, keep_dims=True)
        all_to_bias += tl.sum(to_bias, 0, keep_dims=True)
    if not OWN_GAIN:
        tl.store(to_gain_ptr + channel, all_to_gain, mask=inside)
    if not OWN_BIAS:
        tl.store(to_bias_ptr + channel, all_to_bias, mask=inside)
    tl.store(totals_ptr + channel, all_to_bias if gain_ptr is None else first_total, mask=inside)
    tl.store(totals_ptr + channels + channel, all_to_gain if gain_ptr is None else second_total, mask=inside)


@triton.jit
def gradient_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, gain_ptr, bias_ptr, totals_ptr, dx_ptr,
    planes, channels, pixels, width, per, splits, gain_stride, bias_stride,
    eps: tl.float64, slope: tl.float64, scale: tl.float64,
    ACT: tl.constexpr, UP: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """`scale` makes means of totals."""
    REAL: tl.constexpr = mean_ptr.dtype.element_ty
    channel, sample, split, base, inside, _ = place(
        tl.program_id(0).to(tl.int64), planes, channels, pixels, splits, LAST, ROWS, COLS
    )
    mean = of_channel(mean_ptr, channel, inside, 0.0, LAST, REAL)
    inverse = inverse_deviation(of_channel(var_ptr, channel, inside, 1.0, LAST, REAL), eps, REAL)
    gain = of_sample(gain_ptr, gain_stride, channel, sample, inside, 1.0, LAST, REAL)
    bias = of_sample(bias_ptr, bias_stride, channel, sample, inside, 0.0, LAST, REAL)
    if totals_ptr is not None:
        first_mean = of_channel(totals_ptr, channel, inside, 0.0, LAST, REAL) * tl.full((), scale, REAL)
        second_mean = of_channel(totals_ptr + channels, channel, inside, 0.0, LAST, REAL) * tl.full((), scale, REAL)
    end = tl.minimum(split * per + per, pixels)
    for at in range(split * per, end, ROWS if LAST else COLS):
        offset, exists = tile(base, at, end, inside, channels, pixels, LAST, ROWS, COLS)
        if UP:
            place_of, there, below = upsampled(
                base, sample, channel, at, end, inside, channels, pixels, width, LAST, WIDTH, ROWS, COLS
            )
            dy = pooled(dy_ptr, place_of, there, below, channels, LAST, ROWS, COLS, REAL)
        else:
            dy = tl.load(dy_ptr + offset, mask=exists, other=0.0).to(REAL)
        if (totals_ptr is not None) or (ACT != "none"):
            normal = (tl.load(x_ptr + offset, mask=exists, other=0.0).to(REAL) - mean) * inverse
            dy = through_activation(normal * gain + bias, dy, slope, ACT)
        dx = dy * gain
        if totals_ptr is not None:
            dx = dx - first_mean - normal * second_mean
        tl.store(dx_ptr + offset, (dx * inverse).to(dx_ptr.dtype.element_ty), mask=exists)


# --- Launchers -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tiles:
    """How programs share a dense tensor: see `place`."""

    last: bool
    rows: int
    columns: int
    samples: int  # that have parts of their own
    channels: int
    pixels: int  # of a sample
    per: int
    splits: int

    @property
    def planes(self) -> int:
        return self.samples * self.channels

    @property
    def programs(self) -> int:
        along = triton.cdiv(self.channels, self.columns) * self.samples if self.last else triton.cdiv(self.planes, self.rows)
        return along * self.splits

    @property
    def groups(self) -> int:
        """Partial sums of each channel."""
        return self.samples * self.splits

    def geometry(self) -> tuple[int, int, int]:
        return self.planes, self.channels, self.pixels

    def constants(self) -> dict:
        return {"LAST": self.last, "ROWS": self.rows, "COLS": self.columns}


def _tiles(x: Tensor, own: bool, up: bool, programs: int, sweeps: int) -> _Tiles:
    """As many as `programs` programs, but none with less than `sweeps` tiles for it. `own`: whether gains or biases are the
    samples' own."""
    batch, channels = x.shape[:2]
    pixels = math.prod(x.shape[2:])
    last = (pixels == 1 and not up) or is_channels_last(x)
    if last:
        samples, pixels = (batch, pixels) if own or not batch else (1, batch * pixels)
        rows, columns = _TILE // _LINE, _LINE
        blocks, step = samples * triton.cdiv(channels, columns), rows
    else:
        samples, columns = batch, next(size for size in (16, 64, 256, _TILE) if size >= min(pixels, _TILE))
        rows = _TILE // columns
        blocks, step = triton.cdiv(batch * channels, rows), columns
    splits = max(min(programs // max(blocks, 1), pixels // (step * sweeps)), 1)
    per = triton.cdiv(triton.cdiv(max(pixels, 1), splits), step) * step
    return _Tiles(last, rows, columns, samples, channels, pixels, per, max(triton.cdiv(pixels, per), 1))


def _for_sums(x: Tensor, own: bool, up: bool) -> _Tiles:
    return _tiles(x, own, up, programs=1024, sweeps=8)


def _for_elements(x: Tensor, own: bool, up: bool) -> _Tiles:
    return _tiles(x, own, up, programs=4096, sweeps=4)


def _moments(x: Tensor, mean: Tensor | None, var: Tensor | None, sums: Tensor | None) -> None:
    tiles = _for_sums(x, own=False, up=False)
    partial = torch.empty(2, tiles.groups, tiles.channels, dtype=accumulator(x.dtype), device=x.device)
    geometry = (*tiles.geometry(), tiles.per, tiles.splits, partial[0].numel())
    launch(moments_kernel, (tiles.programs,), x, partial, *geometry, warps=WARPS, **tiles.constants())
    launch(
        statistics_kernel, (triton.cdiv(tiles.channels, _LINE),), partial, mean, var, sums, tiles.groups, tiles.channels,
        tiles.pixels, tiles.per, tiles.splits, partial[0].numel(), float(tiles.samples * tiles.pixels), warps=WARPS, LINE=_LINE,
    )  # fmt: skip


def _stride(parameter: Tensor | None) -> int:
    return parameter.shape[1] if parameter is not None and parameter.dim() == 2 else 0


def _compact(*parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(parameter if parameter is None else parameter.contiguous() for parameter in parameters)


def _constants(x: Tensor, tiles: _Tiles, act: str, up: bool) -> dict:
    width = x.shape[3] if up and not tiles.last else 0
    return {"ACT": act, "UP": up, "WIDTH": width, **tiles.constants()}


def _width(x: Tensor) -> int:
    return x.shape[3] if x.dim() == 4 else 1


def _launch_sums_of_channels(x: Tensor) -> Tensor:
    sums = torch.empty(3, x.shape[1], dtype=torch.float64, device=x.device)
    _moments(dense_rows(x), None, None, sums)
    return sums


def _launch_given(x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool) -> Tensor:
    x = dense_rows(x)
    gain, bias, mean, var = _compact(gain, bias, mean, var)
    y = _empty(x, upsample)
    tiles = _for_elements(x, _per_sample(gain, bias), upsample)
    numbers = (*tiles.geometry(), _width(x), tiles.per, tiles.splits, _stride(gain), _stride(bias), eps, slope)
    options = _constants(x, tiles, act, upsample)
    launch(normalise_kernel, (tiles.programs,), x, mean, var, gain, bias, y, *numbers, warps=WARPS, **options)
    return y


def _launch_computed(x, gain, bias, eps: float, act: str, slope: float, upsample: bool) -> tuple[Tensor, Tensor, Tensor]:
    x = dense_rows(x)
    mean, var = (torch.empty(x.shape[1], dtype=accumulator(x.dtype), device=x.device) for _ in range(2))
    _moments(x, mean, var, None)
    return _launch_given(x, gain, bias, mean, var, eps, act, slope, upsample), mean, var


def _launch_backward_sums(dy, x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool) -> list[Tensor]:
    x = dense_rows(x)
    dy = dy.contiguous(memory_format=_format(x))
    gain, bias, mean, var = _compact(gain, bias, mean, var)
    pool = torch.empty_like(x) if upsample else None
    own = _per_sample(gain, bias)
    tiles = _for_sums(x, own, upsample)
    partial = torch.empty(2, tiles.groups, tiles.channels, dtype=mean.dtype, device=x.device)
    slots = partial[0].numel()
    numbers = (*tiles.geometry(), _width(x), tiles.per, tiles.splits, slots, _stride(gain), _stride(bias), eps, slope)
    options = _constants(x, tiles, act, upsample)
    tensors = (dy, x, mean, var, gain, bias, partial, pool)
    launch(sums_kernel, (tiles.programs,), *tensors, *numbers, warps=WARPS, **options)
    own_gain, own_bias = _stride(gain) > 0, _stride(bias) > 0
    to_gain = torch.empty(x.shape[:2] if own_gain else x.shape[1:2], dtype=mean.dtype, device=x.device)
    to_bias = torch.empty(x.shape[:2] if own_bias else x.shape[1:2], dtype=mean.dtype, device=x.device)
    totals = torch.empty(2, x.shape[1], dtype=mean.dtype, device=x.device)
    # Where nothing is a sample's own, every group may pass for a sample.
    samples, splits = (tiles.samples, tiles.splits) if own else (tiles.groups, 1)
    launch(
        totals_kernel, (triton.cdiv(tiles.channels, _LINE),), partial, gain, to_gain, to_bias, totals, samples, tiles.channels,
        splits, slots, _stride(gain), warps=WARPS, OWN_GAIN=own_gain, OWN_BIAS=own_bias, LINE=_LINE,
    )  # fmt: skip
    return [to_gain, to_bias, totals, *([pool] if upsample else [])]


def _launch_input_gradient(dy, x, gain, bias, mean, var, means, eps: float, act: str, slope: float, upsample: bool) -> Tensor:
    x = dense_rows(x)
    if upsample and dy.shape == x.shape:  # pooled and through the activation already
        act, upsample = "none", False
    return _launch_gradient(dy, x, gain, bias, mean, var, means, torch.empty_like(x), eps, act, slope, upsample, 1.0)


def _launch_gradient(dy, x, gain, bias, mean, var, totals, dx, eps, act, slope, upsample, scale: float) -> Tensor:
    dy = dy.contiguous(memory_format=_format(x))
    gain, bias, mean, var, totals = _compact(gain, bias, mean, var, totals)
    tiles = _for_elements(x, _per_sample(gain, bias), upsample)
    numbers = (*tiles.geometry(), _width(x), tiles.per, tiles.splits, _stride(gain), _stride(bias), eps, slope, scale)
    options = _constants(x, tiles, act, upsample)
    launch(gradient_kernel, (tiles.programs,), dy, x, mean, var, gain, bias, totals, dx, *numbers, warps=WARPS, **options)
    return dx


def _launch_backward(
    dy, x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool, computed: bool, wanted: list[bool]
) -> list[Tensor]:
    x, (to_x, to_gain, to_bias) = dense_rows(x), wanted
    settings = (eps, act, slope, upsample)
    if not (computed or to_gain or to_bias):
        return [_launch_gradient(dy, x, gain, bias, mean, var, None, torch.empty_like(x), *settings, 1.0)]
    for_gain, for_bias, totals, *pool = _launch_backward_sums(dy, x, gain, bias, mean, var, *settings)
    gradients = []
    if to_x:
        if pool:  # dx takes the place of what it is made from
            dy, dx, settings = pool[0], pool[0], (eps, "none", slope, False)
        else:
            dx = torch.empty_like(x)
        scale = x.shape[1] / max(x.numel(), 1)
        gradients.append(_launch_gradient(dy, x, gain, bias, mean, var, totals if computed else None, dx, *settings, scale))
    gradients += [for_gain.to(gain.dtype)] if to_gain else []
    return gradients + ([for_bias.to(bias.dtype)] if to_bias else [])


# --- Operators -------------------------------------------------------------------------------------------------------------


def _fake_given(x, gain, bias, mean, var, eps, act, slope, upsample):
    return _empty(dense_rows(x), upsample)


def _fake_computed(x, gain, bias, eps, act, slope, upsample):
    real = accumulator(x.dtype)
    return _empty(dense_rows(x), upsample), *(x.new_empty(x.shape[1], dtype=real) for _ in range(2))


def _fake_backward_sums(dy, x, gain, bias, mean, var, eps, act, slope, upsample):
    shapes = [x.shape[:2] if _stride(parameter) else x.shape[1:2] for parameter in (gain, bias)]
    sums = [mean.new_empty(shape) for shape in (*shapes, (2, x.shape[1]))]
    return sums + ([torch.empty_like(dense_rows(x))] if upsample else [])


def _fake_backward(dy, x, gain, bias, mean, var, eps, act, slope, upsample, computed, wanted):
    tensors = (dense_rows(x), gain, bias)
    return [torch.empty_like(tensor) for tensor, asked in zip(tensors, wanted, strict=True) if asked]


_sums = operator(
    "channel_sums",
    cpu=_sums_cpu,
    kernels=_launch_sums_of_channels,
    fake=lambda x: x.new_empty((3, x.shape[1]), dtype=torch.float64),
)
_given = operator("norm_act", cpu=_given_cpu, kernels=_launch_given, fake=_fake_given)
_computed = operator("batch_norm_act", cpu=_computed_cpu, kernels=_launch_computed, fake=_fake_computed)
_backward_sums = operator(
    "norm_act_backward_sums", cpu=_backward_sums_cpu, kernels=_launch_backward_sums, fake=_fake_backward_sums
)
_input_gradient = operator(
    "norm_act_input_gradient",
    cpu=_input_gradient_cpu,
    kernels=_launch_input_gradient,
    fake=lambda dy, x, *_: torch.empty_like(dense_rows(x)),
)
_backward = operator("norm_act_backward", cpu=_backward_cpu, kernels=_launch_backward, fake=_fake_backward)


def _save_given(ctx, inputs, output) -> None:
    *tensors, ctx.eps, ctx.act, ctx.slope, ctx.upsample = inputs
    ctx.save_for_backward(*tensors)


def _save_computed(ctx, inputs, output) -> None:
    *tensors, ctx.eps, ctx.act, ctx.slope, ctx.upsample = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(*tensors, mean, var)


def _gradients(ctx, dy: Tensor, computed: bool) -> list[Tensor | None]:
    x, gain, bias, mean, var = ctx.saved_tensors
    wanted, settings = list(ctx.needs_input_grad[:3]), (ctx.eps, ctx.act, ctx.slope, ctx.upsample)
    if torch.is_grad_enabled():  # to be differentiated again: in operations that torch differentiates
        found = backward_reference(dy, x, gain, bias, *(None, None) if computed else (mean, var), *settings)
        return [gradient if asked else None for gradient, asked in zip(found, wanted, strict=True)]
    found = iter(_backward(dy, x, gain, bias, mean, var, *settings, computed, wanted))
    return [next(found) if asked else None for asked in wanted]


def _backward_of_given(ctx, dy: Tensor):
    return *_gradients(ctx, dy, computed=False), *[None] * 6


def _backward_of_computed(ctx, dy: Tensor, *_):
    return *_gradients(ctx, dy, computed=True), *[None] * 4


_given.register_autograd(_backward_of_given, setup_context=_save_given)
_computed.register_autograd(_backward_of_computed, setup_context=_save_computed)


def backward_reference(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    eps: float, act: str, slope: float, upsample: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients towards x, gain and bias in plain torch, differentiable; statistics None where they are x's own."""
    wide, computed = x.to(accumulator(x.dtype)), mean is None
    if computed:
        mean, var = _own_statistics(wide)
    normal, before = _normal_and_before(dy, wide, gain, bias, mean, var, eps, act, slope, upsample)
    axes = list(range(2, x.dim()))
    to_gain, to_bias = (
        None if p is None else to_p.sum(axes if p.dim() == 2 else [0, *axes]) if axes or p.dim() == 1 else to_p
        for p, to_p in ((gain, before * normal), (bias, before))
    )
    dx = before if gain is None else before * _over(gain.to(wide.dtype), x)
    if computed:
        axes = [0, *axes]
        dx = dx - dx.mean(axes, keepdim=True) - normal * (dx * normal).mean(axes, keepdim=True)
    dx = (dx * _over((var + eps).rsqrt(), x)).to(x.dtype)
    return dx, to_gain if gain is None else to_gain.to(gain.dtype), to_bias if bias is None else to_bias.to(bias.dtype)


def _normal_and_before(
    dy, x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool
) -> tuple[Tensor, Tensor]:
    """xhat; and dy as it stands before upsampling and activation."""
    real = mean.dtype
    normal = (x.to(real) - _over(mean, x)) * _over((var + eps).rsqrt(), x)
    dy = dy.to(real)
    dy = dy.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5)) if upsample else dy
    if act != "none":
        side = normal if gain is None else normal * _over(gain.to(real), x)
        side = side if bias is None else side + _over(bias.to(real), x)
        dy = torch.where(side.detach() <= 0, dy * slope if act == "leaky" else 0.0, dy)
    return normal, dy


# --- The catalogue's rows --------------------------------------------------------------------------------------------------


def _eager(x, gain, bias, mean=None, var=None, act: str = "none", slope: float = 0.2, upsample: bool = False) -> Tensor:
    own = _per_sample(gain, bias)
    y = functional.batch_norm(x, mean, var, None if own else gain, None if own else bias, training=mean is None)
    if own:
        y = y * _over(gain, x) + _over(bias, x)
    y = functional.relu(y) if act == "relu" else functional.leaky_relu(y, slope) if act == "leaky" else y
    return functional.interpolate(y, scale_factor=2) if upsample else y


def _arguments(example: Example, device: str, seed: int) -> dict:
    options = dict(example.options)
    batch, channels = example.shape[:2]
    own, given, bare = options.pop("own", True), options.pop("given", False), options.pop("bare", False)
    shape = (batch, channels) if own else (channels,)
    x = example.tensor(device, seed) * 2 + 1
    arguments = {"x": x, "gain": None, "bias": None, **options}
    if not bare:
        arguments["gain"] = example.tensor(device, seed + 1, *shape) * 0.1 + 1
        arguments["bias"] = example.tensor(device, seed + 2, *shape)
    if given:
        real = accumulator(example.dtype)
        arguments["mean"] = example.tensor(device, seed + 3, channels, dtype=real)
        arguments["var"] = example.tensor(device, seed + 4, channels, dtype=real).square() + 0.5
    return arguments


def _fits(example: Example) -> bool:
    """Whether a channel has more than a few numbers: of two, rounding alone decides what is left of the gradient."""
    known = "given" in example.options or math.prod(example.shape) == 0
    return known or math.prod(example.shape) >= 8 * example.shape[1]


def _clear(arguments: dict) -> dict:
    """With no number so near the activation's kink that rounding might carry it over."""
    x, gain, bias = arguments["x"], arguments["gain"], arguments["bias"]
    if arguments.get("act", "none") == "none" or not x.numel():
        return arguments
    gain = 1.0 if gain is None else _over(gain.double(), x)
    bias = x.new_zeros((), dtype=torch.float64) if bias is None else _over(bias.double(), x)
    margin = 0.04 * (1 + bias.abs())  # the CPU's path rounds thrice, each time by up to 2**-9 of numbers of the bias's size
    for _ in range(20):  # what is moved moves the statistics
        mean, var = (arguments.get(name) for name in ("mean", "var"))
        mean, var = _own_statistics(x.double()) if mean is None else (mean.double(), var.double())
        slope = gain * _over((var + 1e-5).rsqrt(), x)
        side = (x.double() - _over(mean, x)) * slope + bias
        near = side.abs() < margin
        if not near.any():
            break
        moved = x.double() + (torch.copysign(2 * margin, side) - side) / slope
        x = torch.where(near, moved.to(x.dtype), x)
    return arguments | {"x": x}


def _slack(example: Example) -> float:
    """The gradients of gain and bias add up what belongs to a channel, or to a sample's, each number rounded before where gains
    are the samples' own or y was upsampled. Those are sums of four then, twice as large; so is xhat with the statistics that
    `_arguments` gives."""
    own, up, given = (example.options.get(*option) for option in (("own", True), ("upsample", False), ("given", False)))
    count = math.prod(example.shape[2:]) * (1 if own else example.shape[0])
    return max(math.sqrt(count) * (2 if up else 1) * (2 if given else 1) / 2, 1.0) if own or up else 1.0


def _minimum(example: Example) -> tuple[int, int]:
    size = example.dtype.itemsize
    image = math.prod(example.shape) * size
    options = example.options
    parameters = 2 * size * (math.prod(example.shape[:2]) if options.get("own", True) else example.shape[1])
    parameters = 0 if options.get("bare") else parameters
    up = 4 if options.get("upsample") else 1
    forward = image * ((1 if options.get("given") else 2) + up) + parameters
    backward = image * (1 + up + (1 if up == 4 else 0) + 3)
    return forward, backward + 3 * parameters


# The gradients are sums of up to 1700 numbers of size 1, and differences of such sums. In half precision they are made of
# numbers that were rounded before: act' dy, pooled, where y was upsampled. The CPU's path rounds y after each of its parts.
_TOLERANCE = {
    torch.float64: (1e-10, 1e-11),
    torch.float32: (1e-5, 2e-5),
    torch.float16: (2**-9, 2**-8),
    torch.bfloat16: (2**-6, 2**-5),
}
_OWN = {"act": "relu", "upsample": True}
_PLAIN = {"act": "relu", "own": False}

OPERATIONS = (
    Operation(
        name="norm_act",
        summary="batch norm, gain and bias of each sample, activation, nearest upsampling",
        arguments=_arguments,
        fused=norm_act,
        eager=_eager,
        reference=norm_act_reference,
        minimum=_minimum,
        wrt=("x", "gain", "bias"),
        fits=_fits,
        clear=_clear,
        tolerance=_TOLERANCE,
        slack=_slack,
        examples=(
            Example("BigGAN 32x32, 8 to 16", (64, 256, 8, 8), options=_OWN),
            Example("BigGAN 32x32, 16", (64, 256, 16, 16), torch.bfloat16, channels_last=True, options={"act": "relu"}),
            Example("BigGAN 128x128, 64 to 128", (256, 192, 64, 64), torch.bfloat16, channels_last=True, options=_OWN),
            Example("BigGAN 128x128, 64 to 128", (256, 192, 64, 64), torch.bfloat16, options=_OWN),
            Example("BigGAN 128x128, 128", (256, 96, 128, 128), channels_last=True, options={"act": "relu"}),
            Example("BigGAN 128x128, 128", (256, 96, 128, 128), torch.bfloat16, options={"act": "relu"}),
            Example("given statistics, 64 to 128", (256, 192, 64, 64), torch.bfloat16, True, {**_OWN, "given": True}),
        ),
        small=(
            Example("odd", (3, 5, 3, 7), options={**_OWN, "slope": 0.0}),
            Example("odd", (3, 5, 3, 7), channels_last=True, options=_OWN),
            Example("leaky", (2, 33, 2, 2), channels_last=True, options={"act": "leaky", "slope": 0.3}),
            Example("leaky upsampled", (2, 3, 4, 2), options={"act": "leaky", "upsample": True}),
            Example("no activation", (3, 2, 2, 5), options={"upsample": True}),
            Example("given", (3, 5, 2, 3), options={**_OWN, "given": True}),
            Example("given", (3, 5, 2, 3), channels_last=True, options={"act": "leaky", "given": True}),
            Example("given, no activation", (3, 5, 2, 3), options={"given": True}),
            Example("vectors", (4, 3), options={"act": "relu"}),
            Example("one pixel", (5, 3, 1, 1), options=_OWN),
            Example("one number", (1, 1, 1, 1), options={**_OWN, "given": True}),
            Example("no samples", (0, 3, 4, 4), options=_OWN),
        ),
        share=0.5,
    ),
    Operation(
        name="norm_act_plain",
        summary="batch norm and activation, as in DCGAN's and SNGAN's generators",
        arguments=_arguments,
        fused=norm_act,
        eager=_eager,
        reference=norm_act_reference,
        minimum=_minimum,
        wrt=("x", "gain", "bias"),
        fits=_fits,
        clear=_clear,
        tolerance=_TOLERANCE,
        slack=_slack,
        examples=(
            Example("CIFAR SNGAN 32", (64, 64, 32, 32), channels_last=True, options=_PLAIN),
            Example("CIFAR SNGAN 32", (64, 64, 32, 32), torch.bfloat16, channels_last=True, options=_PLAIN),
            Example("DCGAN 64x64's D, 16", (64, 128, 16, 16), torch.bfloat16, options={"act": "leaky", "own": False}),
            Example("ResNet 32, 8 to 16", (64, 256, 8, 8), options={**_PLAIN, "upsample": True}),
            Example("given statistics", (64, 64, 32, 32), channels_last=True, options={**_PLAIN, "given": True}),
        ),
        small=(
            Example("odd", (3, 5, 3, 7), options=_PLAIN),
            Example("odd", (3, 5, 3, 7), channels_last=True, options={**_PLAIN, "upsample": True}),
            Example("more than a tile", (5, 3, 33, 18), options={**_PLAIN, "upsample": True}),
            Example("more than a program", (3, 34, 24, 24), channels_last=True, options={"own": False, "act": "leaky"}),
            Example("given", (3, 5, 2, 3), options={**_PLAIN, "given": True}),
            Example("bare", (3, 5, 2, 3), options={"bare": True, "upsample": True}),
            Example("bare", (3, 5, 2, 3), channels_last=True, options={"bare": True, "act": "relu", "given": True}),
            Example("vectors", (7, 3), options={"own": False, "act": "leaky"}),
            Example("no samples", (0, 3, 4, 4), options=_PLAIN),
        ),
    ),
)
