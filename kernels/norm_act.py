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
operators: see `norm_act_cpu`. The kernels are in `norm_act_kernels`.

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

import torch
from torch import Tensor
from torch.nn import functional

from .activation import ACTIVATIONS, empty_output
from .activation import activate as activate  # offered here, too
from .activation import relu_ as relu_  # offered here, too
from .channels import check_parameters, over_pixels, per_sample, sample_stride
from .launch import taken
from .layout import dense_rows
from .norm_act_cpu import (
    backward_cpu,
    backward_reference,
    backward_sums_cpu,
    channel_sums_cpu,
    composed,
    computed_cpu,
    given_cpu,
    input_gradient_cpu,
    norm_act_reference,
    own_statistics,
)
from .norm_act_kernels import (
    launch_backward,
    launch_backward_sums,
    launch_channel_sums,
    launch_computed,
    launch_given,
    launch_input_gradient,
)
from .operation import Example, Operation
from .operator import operator
from .reduction import accumulator


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
        return composed(x, gain, bias, mean.detach(), var.detach(), False, 0.0, *settings)
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
        return composed(x, gain, bias, running_mean, running_var, True, momentum, *settings)
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
    check_parameters(x, gain, bias)


def _check_statistics(x: Tensor, **statistics: Tensor) -> None:
    real = accumulator(x.dtype)
    for name, given in statistics.items():
        if given.shape != x.shape[1:2] or given.dtype not in (real, x.dtype) or given.device != x.device:
            raise ValueError(
                f"{name} must be {real} {tuple(x.shape[1:2])} on {x.device}, not "
                f"{given.dtype} {tuple(given.shape)} on {given.device}"
            )


# --- Operators -------------------------------------------------------------------------------------------------------------


def _fake_given(x, gain, bias, mean, var, eps, act, slope, upsample):
    return empty_output(dense_rows(x), upsample)


def _fake_computed(x, gain, bias, eps, act, slope, upsample):
    real = accumulator(x.dtype)
    return empty_output(dense_rows(x), upsample), *(x.new_empty(x.shape[1], dtype=real) for _ in range(2))


def _fake_backward_sums(dy, x, gain, bias, mean, var, eps, act, slope, upsample):
    shapes = [x.shape[:2] if sample_stride(parameter) else x.shape[1:2] for parameter in (gain, bias)]
    sums = [mean.new_empty(shape) for shape in (*shapes, (2, x.shape[1]))]
    return sums + ([torch.empty_like(dense_rows(x))] if upsample else [])


def _fake_backward(dy, x, gain, bias, mean, var, eps, act, slope, upsample, computed, wanted):
    tensors = (dense_rows(x), gain, bias)
    return [torch.empty_like(tensor) for tensor, asked in zip(tensors, wanted, strict=True) if asked]


_sums = operator(
    "channel_sums",
    cpu=channel_sums_cpu,
    kernels=launch_channel_sums,
    fake=lambda x: x.new_empty((3, x.shape[1]), dtype=torch.float64),
)
_given = operator("norm_act", cpu=given_cpu, kernels=launch_given, fake=_fake_given)
_computed = operator("batch_norm_act", cpu=computed_cpu, kernels=launch_computed, fake=_fake_computed)
_backward_sums = operator(
    "norm_act_backward_sums", cpu=backward_sums_cpu, kernels=launch_backward_sums, fake=_fake_backward_sums
)
_input_gradient = operator(
    "norm_act_input_gradient",
    cpu=input_gradient_cpu,
    kernels=launch_input_gradient,
    fake=lambda dy, x, *_: torch.empty_like(dense_rows(x)),
)
_backward = operator("norm_act_backward", cpu=backward_cpu, kernels=launch_backward, fake=_fake_backward)


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


# --- The catalogue's rows --------------------------------------------------------------------------------------------------


def _eager(x, gain, bias, mean=None, var=None, act: str = "none", slope: float = 0.2, upsample: bool = False) -> Tensor:
    own = per_sample(gain, bias)
    y = functional.batch_norm(x, mean, var, None if own else gain, None if own else bias, training=mean is None)
    if own:
        y = y * over_pixels(gain, x) + over_pixels(bias, x)
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
    gain = 1.0 if gain is None else over_pixels(gain.double(), x)
    bias = x.new_zeros((), dtype=torch.float64) if bias is None else over_pixels(bias.double(), x)
    margin = 0.04 * (1 + bias.abs())  # the CPU's path rounds thrice, each time by up to 2**-9 of numbers of the bias's size
    for _ in range(20):  # what is moved moves the statistics
        mean, var = (arguments.get(name) for name in ("mean", "var"))
        mean, var = own_statistics(x.double()) if mean is None else (mean.double(), var.double())
        slope = gain * over_pixels((var + 1e-5).rsqrt(), x)
        side = (x.double() - over_pixels(mean, x)) * slope + bias
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
