"""Instance norm and layer norm: each sample by its own statistics, then a gain and a bias, and ReLU or a sum.

    y = act((x - mean) / sqrt(var + eps) * gain + bias)         or, with a residual r,      y = ... + r

mean and var are x's own: of each channel of each sample over its pixels (over="pixels"; Ulyanov, Vedaldi, Lempitsky,
"Instance normalization", 2016), or of each sample over all of its numbers (over="sample"; Ba, Kiros, Hinton, "Layer
normalization", 2016). Gain and bias are each channel's, or each channel's of each sample, which with over="pixels" is adaptive
instance norm (Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization", ICCV 2017).

    dxhat = gain act'(.) dy,   dx = (dxhat - m dxhat - xhat m(dxhat xhat)) / sqrt(var + eps),   m the mean over the same numbers
    dbias = sum act' dy,   dgain = sum act' dy xhat,   dr = dy

Arithmetic and sums are in float32 (float64 for float64) whatever the precision of x, gain and bias; y is rounded once, to x's
type. Autocast changes nothing: y has x's type.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from .layout import dense_rows, is_channels_last, like
from .norm_act import relu_
from .reduction import accumulator

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
    if torch.compiler.is_compiling():  # what is exported is made of torch's own operators
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
        before = upstream[part] if kept is None else _through_relu(upstream[part], kept[part])
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


def _through_relu(dy: Tensor, y: Tensor) -> Tensor:
    """dy where y is above 0; half precision by its bits, which torch compares six times as fast."""
    if y.dtype.itemsize == 2:
        return torch.ops.aten.threshold_backward(dy.view(torch.int16), y.view(torch.int16), 0).view(dy.dtype)
    return torch.ops.aten.threshold_backward(dy, y, 0)


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
