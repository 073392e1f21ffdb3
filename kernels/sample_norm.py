"""Instance norm and layer norm: each sample by its own statistics, then a gain and a bias, and ReLU or a sum.

    y = act((x - mean) / sqrt(var + eps) * gain + bias)         or, with a residual r,      y = ... + r

mean and var are x's own: of each channel of each sample over its pixels (over="pixels"; Ulyanov, Vedaldi, Lempitsky,
"Instance normalization", 2016), or of each sample over all of its numbers (over="sample"; Ba, Kiros, Hinton, "Layer
normalization", 2016). Gain and bias are each channel's, or each channel's of each sample, which with over="pixels" is adaptive
instance norm (Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization", ICCV 2017).

    dxhat = gain act'(.) dy,   dx = (dxhat - m dxhat - xhat m(dxhat xhat)) / sqrt(var + eps),   m the mean over the same numbers
    dbias = sum act' dy,   dgain = sum act' dy xhat,   dr = dy

Arithmetic and sums are in float32 (float64 for float64) whatever the precision of x, gain and bias; y is rounded once, to x's
type, and on the CPU layer norm once more before it is activated or added to. Autocast changes nothing: y has x's type.
Variances are joined as `norm_act` joins them: from means and squared deviations, without cancellation.

Only x is kept for the backward: ReLU's side is computed again (on the CPU y, which the next layer keeps anyway). The
kernels are in `sample_norm_kernels`.

Bytes per element of x, e to the element; eager is F.instance_norm or F.layer_norm, then gain and bias by themselves where
torch's has none of that shape, then relu or the sum:

                                           kernel                                          eager
    forward and backward, instance norm    3 e + 5 e   (statistics: 1, y: 2; sums: 2,      12 e
        gain and bias of samples           3 e + 5 e    dx: 3)                             23 e
            and a residual for ReLU        4 e + 5 e                                       21 e
    layer norm                             3 e + 5 e                                       21 e
"""

import math

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from .activation import relu_, through_relu
from .channels import check_parameters
from .launch import taken
from .layout import dense_rows, is_channels_last, like
from .operation import Example, Operation
from .operator import operator
from .reduction import accumulator
from .sample_norm_kernels import empty_statistics, launch_backward, launch_forward

OVER = ("pixels", "sample")
ACTIVATIONS = ("none", "relu")


def sample_norm_act(
    x: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    over: str = "pixels",
    eps: float = 1e-5,
    act: str = "none",
) -> Tensor:
    """Normalises every sample by itself, scales and shifts its channels, then activates or adds.

    Args:
        x: floating point, (B, C, H, W).
        gain, bias: floating point of any type, (C,), or (B, C) for one of each sample; None for 1 and 0.
        residual: of x's shape and type, added at last; None for 0.
        over: "pixels" for statistics of each channel, "sample" for those of all channels together; biased variances.
        eps: what is added to the variance, above 0.
        act: "none" or "relu".

    Returns:
        (B, C, H, W), of x's type; channels last where x is, else contiguous. Differentiable to any order in x, gain, bias and
        residual.

    Raises:
        ValueError: another shape or type, an unknown word, an eps that is not above 0, or both an activation and a residual.
    """
    _check(x, gain, bias, residual, over, eps, act)
    if x.device.type != "cpu" or taken():
        return _operator(x, gain, bias, residual, over, float(eps), act)[0]
    if torch.compiler.is_compiling():  # what is exported from a CPU is made of torch's own operators
        return sample_norm_act_reference(x, gain, bias, residual=residual, over=over, eps=eps, act=act)
    if over == "sample" and x.numel() and all(p is None or p.dim() == 1 for p in (gain, bias)):
        return _layer_norm(x, gain, bias, residual, float(eps), act)
    return _SampleNorm.apply(x, gain, bias, residual, over, float(eps), act)


def sample_norm_act_reference(
    x: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    over: str = "pixels",
    eps: float = 1e-5,
    act: str = "none",
) -> Tensor:
    """`sample_norm_act` in plain torch, without its checks."""
    real = accumulator(x.dtype)
    wide, axes = x.to(real), _axes(over)
    away = wide - wide.mean(axes, keepdim=True)
    y = away * (away.square().mean(axes, keepdim=True) + eps).rsqrt()
    y = y if gain is None else y * gain.to(real)[..., None, None]
    y = y if bias is None else y + bias.to(real)[..., None, None]
    y = y.relu() if act == "relu" else y
    return (y if residual is None else y + residual.to(real)).to(x.dtype)


def _axes(over: str) -> tuple[int, ...]:
    return (2, 3) if over == "pixels" else (1, 2, 3)


def _check(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, residual: Tensor | None, over: str, eps: float, act: str
) -> None:
    if over not in OVER:
        raise ValueError(f"over must be one of {', '.join(OVER)}, not {over!r}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, not {act!r}")
    if not eps > 0:  # NaN fails too
        raise ValueError(f"eps must be above 0, not {eps}")
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point (B, C, H, W) tensor, not {x.dtype} {tuple(x.shape)}")
    if residual is not None and act != "none":
        raise ValueError(f"there is no {act} in front of a residual")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype or residual.device != x.device):
        raise ValueError(
            f"residual must be {x.dtype} {tuple(x.shape)} on {x.device}, not "
            f"{residual.dtype} {tuple(residual.shape)} on {residual.device}"
        )
    check_parameters(x, gain, bias)


# --- The CPU's path --------------------------------------------------------------------------------------------------------
# Sums along an axis and passes in place, which torch has vectorised in either layout. Its own instance norm is not: for 1 MiB
# of channels-last bf16 var_mean takes 3,300 microseconds and group_norm of as many groups as channels 13,100, the whole of
# what is below 310. Layer norm is, as group_norm of one group: 100, and 170 backward.


def _layer_norm(x: Tensor, gain: Tensor | None, bias: Tensor | None, residual: Tensor | None, eps: float, act: str) -> Tensor:
    x, real = dense_rows(x), accumulator(x.dtype)
    with torch.autocast("cpu", enabled=False):  # which would widen x
        y = functional.group_norm(x, 1, *(p if p is None else p.to(real) for p in (gain, bias)), eps)
    if act == "relu":
        return relu_(y)
    return y if residual is None else y.add_(residual)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """x as (B, pixels, C) or (B, C, pixels), a view, and the axis of the pixels."""
    return (x.permute(0, 2, 3, 1).flatten(1, 2), 1) if is_channels_last(x) else (x.flatten(2), 2)


def _along(parameter: Tensor, axis: int) -> Tensor:
    """(C,) or (B, C) as it broadcasts over `_rows`."""
    return parameter.unsqueeze(-1 if axis == 2 else -2)


def _mean(sums: Tensor, count: int, over: str) -> Tensor:
    """Of the numbers whose sums over the pixels are given."""
    return sums / count if over == "pixels" else sums.mean((1, 2), keepdim=True) / count


def _forward_cpu(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, residual: Tensor | None, over: str, eps: float, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and what `_rows` were shifted and then scaled by."""
    real, (rows, axis) = accumulator(x.dtype), _rows(x)
    count, y = max(rows.shape[axis], 1), torch.empty_like(x)
    out = _rows(y)[0]
    gain, bias = (p if p is None else _along(p.to(real), axis) for p in (gain, bias))
    residual = residual if residual is None else _rows(like(residual, x))[0]
    means, inverses = [], []
    for part in _parts(rows):
        own_gain, own_bias = (p[part] if p is not None and p.dim() == 3 else p for p in (gain, bias))
        wide = rows[part].to(real)
        means.append(_mean(wide.sum(axis, keepdim=True), count, over))
        away = wide - means[-1] if x.dtype == real else wide.sub_(means[-1])
        inverses.append(_mean(away.square().sum(axis, keepdim=True), count, over).add_(eps).rsqrt_())
        scale = inverses[-1] if own_gain is None else inverses[-1] * own_gain
        away = away.mul_(scale) if own_bias is None else torch.addcmul(own_bias, away, scale, out=away)
        if act == "relu":
            away.clamp_min_(0)
        if residual is not None:
            away.add_(residual[part])
        out[part].copy_(away)
    return y, torch.cat(means), torch.cat(inverses)


def _backward_cpu(
    dy: Tensor, x: Tensor, y: Tensor | None, gain: Tensor | None, mean: Tensor, inverse: Tensor, over: str
) -> tuple[Tensor, Tensor, Tensor]:
    """dx; and (B, C) gradients of gain and bias, before samples that share one are added up. `y` where ReLU made it."""
    real, (rows, axis) = accumulator(x.dtype), _rows(x)
    count, dx = max(rows.shape[axis], 1), torch.empty_like(x)
    out, upstream = _rows(dx)[0], _rows(like(dy, x))[0]
    kept = None if y is None else _rows(y)[0]
    gain = None if gain is None else _along(gain.to(real), axis)
    to_gains, to_biases = [], []
    for part in _parts(rows):
        before = upstream[part] if kept is None else through_relu(upstream[part], kept[part])
        before, deviation = before.to(real), inverse[part]
        wide = rows[part].to(real)
        away = wide - mean[part] if x.dtype == real else wide.sub_(mean[part])
        to_biases.append(before.sum(axis, keepdim=True))
        to_gains.append((before * away).sum(axis, keepdim=True).mul_(deviation))
        own = 1 if gain is None else gain[part] if gain.dim() == 3 else gain
        first, second = (_mean(own * sums[-1], count, over) for sums in (to_biases, to_gains))
        gradient = torch.addcmul(first * -deviation, away, second * -deviation.square(), out=away)
        out[part].copy_(gradient.addcmul_(before, deviation * own))
    return dx, torch.cat(to_gains).squeeze(axis), torch.cat(to_biases).squeeze(axis)


_IN_CACHE = 2**19
"""Numbers that are worked on at a time: the second of the passes over them finds them there."""


def _parts(rows: Tensor) -> list[slice]:
    """Samples, together so many numbers."""
    size = max(_IN_CACHE // max(rows[0].numel(), 1), 1) if len(rows) else 1
    return [slice(first, first + size) for first in range(0, max(len(rows), 1), size)]


class _SampleNorm(Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, gain: Tensor | None, bias: Tensor | None, residual: Tensor | None, over: str, eps: float, act: str
    ) -> Tensor:
        x = dense_rows(x)
        y, mean, inverse = _forward_cpu(x, gain, bias, residual, over, eps, act)
        ctx.save_for_backward(x, gain, bias, y if act == "relu" else None, mean, inverse)
        ctx.settings = over, eps, act
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, gain, bias, y, mean, inverse = ctx.saved_tensors
        to_residual = dy if ctx.needs_input_grad[3] else None
        if torch.is_grad_enabled():  # to be differentiated again: in operations that torch differentiates
            found = _gradients(dy, x, gain, bias, *ctx.settings)
        else:
            dx, *sums = _backward_cpu(dy, x, y, gain, mean, inverse, ctx.settings[0])
            found = dx, *(_as_given(total, parameter) for total, parameter in zip(sums, (gain, bias), strict=True))
        return *found, to_residual, None, None, None


def _as_given(sums: Tensor, parameter: Tensor | None) -> Tensor | None:
    """(B, C) sums as the gradient of a parameter."""
    if parameter is None:
        return None
    return (sums if parameter.dim() == 2 else sums.sum(0)).to(parameter.dtype)


def _gradients(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, over: str, eps: float, act: str
) -> tuple[Tensor | None, ...]:
    """Of x, gain and bias, in a graph."""
    given = [tensor for tensor in (x, gain, bias) if tensor is not None]
    leaves = [tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in given]
    of = iter(leaves)
    y = sample_norm_act_reference(*(None if t is None else next(of) for t in (x, gain, bias)), over=over, eps=eps, act=act)
    found = iter(torch.autograd.grad(y, leaves, dy, create_graph=True))
    return tuple(None if tensor is None else next(found) for tensor in (x, gain, bias))


def _operator_cpu(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, residual: Tensor | None, over: str, eps: float, act: str
) -> tuple[Tensor, Tensor, Tensor]:
    x = dense_rows(x)
    y, *found = _forward_cpu(x, gain, bias, residual, over, eps, act)
    return y, *(part.flatten(1).expand(x.shape[:2]).contiguous() for part in found)


def _backward_operator_cpu(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, over: str, act: str
) -> list[Tensor]:
    x = dense_rows(x)
    if act == "relu":
        dy = dy.masked_fill(_before_activation(x, gain, bias, mean, inverse) <= 0, 0)
    axis = _rows(x)[1]
    mean, inverse = (_along(part if over == "pixels" else part[:, :1], axis) for part in (mean, inverse))
    return list(_backward_cpu(dy, x, None, gain, mean, inverse, over))


def _before_activation(x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor) -> Tensor:
    real = mean.dtype
    v = (x.to(real) - mean[..., None, None]) * inverse[..., None, None]
    v = v if gain is None else v * gain.to(real)[..., None, None]
    return v if bias is None else v + bias.to(real)[..., None, None]


# --- Operators -------------------------------------------------------------------------------------------------------------


_operator = operator(
    "sample_norm_act",
    cpu=_operator_cpu,
    kernels=launch_forward,
    fake=lambda x, *_: (torch.empty_like(dense_rows(x)), *empty_statistics(x, 2)),
)
_backward = operator(
    "sample_norm_act_backward",
    cpu=_backward_operator_cpu,
    kernels=launch_backward,
    fake=lambda dy, x, *_: [torch.empty_like(dense_rows(x)), *empty_statistics(x, 2)],
)


def _save(ctx, inputs, output) -> None:
    x, gain, bias, _, *ctx.settings = inputs
    _, mean, inverse = output
    ctx.mark_non_differentiable(mean, inverse)
    ctx.save_for_backward(x, gain, bias, mean, inverse)


def _differentiate(ctx, dy: Tensor, *_):
    x, gain, bias, mean, inverse = ctx.saved_tensors
    over, eps, act = ctx.settings
    if torch.is_grad_enabled():  # to be differentiated again: in operations that torch differentiates
        found = _gradients(dy, x, gain, bias, over, eps, act)
    else:
        dx, *sums = _backward(dy, x, gain, bias, mean, inverse, over, act)
        found = dx, *(_as_given(total, parameter) for total, parameter in zip(sums, (gain, bias), strict=True))
    return *found, dy if ctx.needs_input_grad[3] else None, None, None, None


_operator.register_autograd(_differentiate, setup_context=_save)


# --- The catalogue's rows --------------------------------------------------------------------------------------------------


def _eager(x, gain, bias, residual=None, over: str = "pixels", act: str = "none") -> Tensor:
    own, parameters = gain is not None and gain.dim() == 2, (gain, bias)
    if over == "pixels":
        y = functional.instance_norm(x, weight=None if own else gain, bias=None if own else bias)
    else:
        own, y = gain is not None, functional.layer_norm(x, x.shape[1:])
    if own:
        gain, bias = (parameter[..., None, None] for parameter in parameters)
        y = y * gain + bias
    y = functional.relu(y) if act == "relu" else y
    return y if residual is None else y + residual


def _arguments(example: Example, device: str, seed: int) -> dict:
    options = dict(example.options)
    own, added, bare = options.pop("own", False), options.pop("residual", False), options.pop("bare", False)
    shape = example.shape[:2] if own else example.shape[1:2]
    arguments = {"x": example.tensor(device, seed) * 2 + 1, "gain": None, "bias": None, **options}
    if not bare:
        arguments["gain"] = example.tensor(device, seed + 1, *shape) * 0.1 + 1
        arguments["bias"] = example.tensor(device, seed + 2, *shape)
    return arguments | ({"residual": example.tensor(device, seed + 3)} if added else {})


def _fits(example: Example) -> bool:
    """Whether statistics are of more than a few numbers: of two, rounding alone decides what is left of the gradient."""
    shape = example.shape
    count = math.prod(shape[2:] if example.options.get("over", "pixels") == "pixels" else shape[1:]) if len(shape) == 4 else 0
    return len(shape) == 4 and (math.prod(shape) == 0 or count >= 8)


def _clear(arguments: dict) -> dict:
    """With no number so near ReLU's kink that rounding might carry it over."""
    x, gain, bias = arguments["x"], arguments["gain"], arguments["bias"]
    if arguments.get("act", "none") == "none" or not x.numel():
        return arguments
    gain = 1.0 if gain is None else gain.double()[..., None, None]
    bias = x.new_zeros((), dtype=torch.float64) if bias is None else bias.double()[..., None, None]
    margin, axes = 0.04 * (1 + bias.abs()), _axes(arguments.get("over", "pixels"))
    for _ in range(20):  # what is moved moves the statistics
        var, mean = torch.var_mean(x.double(), axes, correction=0, keepdim=True)
        slope = gain * (var + 1e-5).rsqrt()
        side = (x.double() - mean) * slope + bias
        near = side.abs() < margin
        if not near.any():
            break
        x = torch.where(near, (x.double() + (torch.copysign(2 * margin, side) - side) / slope).to(x.dtype), x)
    return arguments | {"x": x}


def _minimum(example: Example) -> tuple[int, int]:
    size, options = example.dtype.itemsize, example.options
    image = math.prod(example.shape) * size
    parameters = 2 * size * (math.prod(example.shape[:2]) if options.get("own") else example.shape[1])
    parameters = 0 if options.get("bare") else parameters
    return image * (4 if options.get("residual") else 3) + parameters, 5 * image + 3 * parameters


_RELU = {"act": "relu"}
_ADAPTIVE = {"own": True}
_LAYER = {"over": "sample", "act": "relu"}

OPERATIONS = (
    Operation(
        name="sample_norm_act",
        summary="instance norm, adaptive or not, and layer norm, with ReLU or a residual",
        arguments=_arguments,
        fused=sample_norm_act,
        eager=_eager,
        reference=sample_norm_act_reference,
        minimum=_minimum,
        wrt=("x", "gain", "bias", "residual"),
        fits=_fits,
        clear=_clear,
        # The gradients are sums of up to 1700 numbers of size 1, and differences of such sums; the CPU's layer norm is rounded
        # before ReLU and the residual.
        tolerance={
            torch.float64: (1e-10, 1e-11),
            torch.float32: (1e-5, 2e-5),
            torch.float16: (2**-9, 2**-8),
            torch.bfloat16: (2**-6, 2**-5),
        },
        slack=lambda example: max(math.sqrt(math.prod(example.shape[2:])) / 2, 1.0),
        examples=(
            Example("GAIA 32x32, 8", (64, 64, 8, 8), torch.bfloat16, channels_last=True, options=_RELU),
            Example("GAIA 128x128, 32", (64, 256, 32, 32), torch.bfloat16, channels_last=True, options=_RELU),
            Example("GAIA 128x128, 32, adaptive", (64, 256, 32, 32), torch.bfloat16, True, {**_ADAPTIVE, **_RELU}),
            Example("GAIA 128x128, 32, residual", (64, 256, 32, 32), torch.bfloat16, True, {**_ADAPTIVE, "residual": True}),
            Example("GAIA 128x128, 128, layer", (64, 64, 128, 128), torch.bfloat16, True, _LAYER),
            Example("GAIA 128x128, 64, layer", (64, 128, 64, 64), options=_LAYER),
        ),
        small=(
            Example("odd", (3, 5, 3, 7), options=_RELU),
            Example("odd", (3, 5, 3, 7), channels_last=True, options={**_ADAPTIVE, **_RELU}),
            Example("residual", (2, 33, 4, 2), channels_last=True, options={**_ADAPTIVE, "residual": True}),
            Example("residual", (2, 3, 4, 4), options={"residual": True}),
            Example("layer", (3, 5, 3, 7), options=_LAYER),
            Example("layer", (2, 35, 3, 2), channels_last=True, options=_LAYER),
            Example("layer, residual, of samples", (3, 4, 2, 5), options={**_ADAPTIVE, "over": "sample", "residual": True}),
            Example("layer, residual", (3, 4, 2, 5), channels_last=True, options={"over": "sample", "residual": True}),
            Example("more than a tile", (2, 3, 33, 40), options=_RELU),
            Example("more than a program", (1, 34, 24, 24), channels_last=True, options=_LAYER),
            Example("bare", (3, 5, 2, 4), options={"bare": True}),
            Example("bare", (3, 5, 2, 4), channels_last=True, options={"bare": True, "over": "sample"}),
            Example("no samples", (0, 3, 4, 4), options=_RELU),
        ),
        share=0.7,
    ),
)
