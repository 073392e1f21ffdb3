"""`norm_act` in plain torch: the formula and its gradients, differentiable; and the CPU's path, one function an operator."""

import torch
from torch import Tensor
from torch.nn import functional

from .activation import activate
from .channels import over_pixels, per_sample, sample_stride
from .layout import dense_rows, like
from .reduction import accumulator


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
        mean, var = own_statistics(wide)
    y = (wide - over_pixels(mean, x)) * (over_pixels(var, x) + eps).rsqrt()
    y = y if gain is None else y * over_pixels(gain.to(real), x)
    y = y if bias is None else y + over_pixels(bias.to(real), x)
    y = functional.relu(y) if act == "relu" else functional.leaky_relu(y, slope) if act == "leaky" else y
    y = y.to(x.dtype)
    return y.repeat_interleave(2, 2).repeat_interleave(2, 3) if upsample else y


def own_statistics(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (C,), of a tensor in the precision of sums."""
    axes = [axis for axis in range(wide.dim()) if axis != 1]
    mean = wide.mean(axes)
    return mean, (wide - over_pixels(mean, wide)).square().mean(axes)


def backward_reference(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    eps: float, act: str, slope: float, upsample: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients towards x, gain and bias in plain torch, differentiable; statistics None where they are x's own."""
    wide, computed = x.to(accumulator(x.dtype)), mean is None
    if computed:
        mean, var = own_statistics(wide)
    normal, before = _normal_and_before(dy, wide, gain, bias, mean, var, eps, act, slope, upsample)
    axes = list(range(2, x.dim()))
    to_gain, to_bias = (
        None if p is None else to_p.sum(axes if p.dim() == 2 else [0, *axes]) if axes or p.dim() == 1 else to_p
        for p, to_p in ((gain, before * normal), (bias, before))
    )
    dx = before if gain is None else before * over_pixels(gain.to(wide.dtype), x)
    if computed:
        axes = [0, *axes]
        dx = dx - dx.mean(axes, keepdim=True) - normal * (dx * normal).mean(axes, keepdim=True)
    dx = (dx * over_pixels((var + eps).rsqrt(), x)).to(x.dtype)
    return dx, to_gain if gain is None else to_gain.to(gain.dtype), to_bias if bias is None else to_bias.to(bias.dtype)


def _normal_and_before(
    dy, x, gain, bias, mean, var, eps: float, act: str, slope: float, upsample: bool
) -> tuple[Tensor, Tensor]:
    """xhat; and dy as it stands before upsampling and activation."""
    real = mean.dtype
    normal = (x.to(real) - over_pixels(mean, x)) * over_pixels((var + eps).rsqrt(), x)
    dy = dy.to(real)
    dy = dy.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5)) if upsample else dy
    if act != "none":
        side = normal if gain is None else normal * over_pixels(gain.to(real), x)
        side = side if bias is None else side + over_pixels(bias.to(real), x)
        dy = torch.where(side.detach() <= 0, dy * slope if act == "leaky" else 0.0, dy)
    return normal, dy


# --- The CPU's path --------------------------------------------------------------------------------------------------------
# torch's own batch norm, which is well vectorised, and all that follows in place, differentiated by torch: an operator's
# dispatch and a backward in Python took 160 microseconds, a third of the whole at 2 MiB, and going through the batch in chunks
# that stay in cache gained less than it cost.


def composed(
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
    own = per_sample(gain, bias)
    if bias is not None and gain is None and not own:
        gain = torch.ones_like(bias)  # torch's second derivative asks for a weight where there is a bias
    # Contiguous: torch's batch norm's backward misreads weights and statistics with gaps.
    if not training:
        mean, var = (s if s is None else s.contiguous() for s in (mean, var))
    weights = [p if p is None or own else p.to(real if mean is None else mean.dtype).contiguous() for p in (gain, bias)]
    y = functional.batch_norm(x, mean, var, *((None, None) if own else weights), training, momentum, eps)
    if own:
        gain, bias = (None if p is None else over_pixels(p.to(x.dtype), x) for p in (gain, bias))
        y = y if gain is None else y * gain
        y = y if bias is None else y.add_(bias)
    return activate(y, act, slope, upsample)


def channel_sums_cpu(x: Tensor) -> Tensor:
    """`channel_sums`."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    wide, count = x.double(), x.numel() // max(x.shape[1], 1)
    return torch.stack([wide.new_full(x.shape[1:2], count), wide.sum(axes), wide.square().sum(axes)])


def given_cpu(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, act: str, slope: float,
    upsample: bool,
) -> Tensor:  # fmt: skip
    """`norm_act` with statistics given."""
    return composed(x, gain, bias, mean, var, False, 0.0, eps, act, slope, upsample)


def computed_cpu(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, act: str, slope: float, upsample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`norm_act` with x's own statistics, and these."""
    mean, var = own_statistics(x.to(accumulator(x.dtype)))
    return composed(x, gain, bias, mean, var, False, 0.0, eps, act, slope, upsample), mean, var


def backward_cpu(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, act: str,
    slope: float, upsample: bool, computed: bool, wanted: list[bool],
) -> list[Tensor]:  # fmt: skip
    """The gradients of those of x, gain and bias that are `wanted`; `computed`: statistics were x's own."""
    statistics_given = (None, None) if computed else (mean, var)
    found = backward_reference(dy, dense_rows(x), gain, bias, *statistics_given, eps, act, slope, upsample)
    return [gradient.clone() for gradient, asked in zip(found, wanted, strict=True) if asked]


def backward_sums_cpu(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, act: str,
    slope: float, upsample: bool,
) -> list[Tensor]:  # fmt: skip
    """`backward_sums`: to gain, to bias, totals, and where y was upsampled what takes dy's place."""
    x = dense_rows(x)
    normal, before = _normal_and_before(dy, x, gain, bias, mean, var, eps, act, slope, upsample)
    rest = list(range(2, x.dim()))
    per_sample = [sums.sum(rest) if rest else sums for sums in (before * normal, before)]
    scale = 1.0 if gain is None else gain.to(mean.dtype)
    totals = torch.stack([(sums * scale).sum(0) for sums in reversed(per_sample)])
    own = [sums.clone() if sample_stride(p) else sums.sum(0) for sums, p in zip(per_sample, (gain, bias), strict=True)]
    return [*own, totals, *([like(before.to(x.dtype), x)] if upsample else [])]


def input_gradient_cpu(
    dy: Tensor, x: Tensor, gain: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, means: Tensor | None,
    eps: float, act: str, slope: float, upsample: bool,
) -> Tensor:  # fmt: skip
    """`input_gradient`."""
    x = dense_rows(x)
    if upsample and dy.shape == x.shape:  # pooled and through the activation already
        act, upsample = "none", False
    normal, before = _normal_and_before(dy, x, gain, bias, mean, var, eps, act, slope, upsample)
    dx = before if gain is None else before * over_pixels(gain.to(mean.dtype), x)
    if means is not None:
        first, second = means.to(mean.dtype)
        dx = dx - over_pixels(first, x) - normal * over_pixels(second, x)
    return like((dx * over_pixels((var + eps).rsqrt(), x)).to(x.dtype), x)
