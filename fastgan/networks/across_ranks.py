"""Batch norm whose statistics are those of all ranks' batches together (cross-replica batch norm, BigGAN, Brock et al. 2019).

Count, sum and sum of squares of every channel go through one all-reduce forward, the two sums that the input's gradient needs
through one backward, between the halves of `kernels.norm_act`. Every rank has to come to it as often as the others, in one
order.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn

from fastgan.kernels.norm_act import backward_sums, channel_sums, input_gradient, norm_act, statistics
from fastgan.networks.layers import BatchNormAct


def share_statistics(network: nn.Module, group: distributed.ProcessGroup | None = None) -> None:
    """Make every batch norm in `network` one over the ranks of `group`; over all, where it is None. Their running statistics
    are then the same on all of these ranks."""
    for part in network.modules():
        if isinstance(part, BatchNormAct):
            part.over_ranks = lambda *arguments, **options: _norm(group, *arguments, **options)


def _norm(
    group: distributed.ProcessGroup | None,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    **options: Any,
) -> Tensor:
    """`kernels.norm_act.batch_norm_act` over ranks."""
    sums = channel_sums(x)
    distributed.all_reduce(sums, group=group)
    mean, var = statistics(sums, x.dtype)
    with torch.no_grad():
        count = sums[0]
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return _Shared.apply(x, gain, bias, mean, var, sums[0], group, options)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, bias, mean, var, count, group, options) -> Tensor:
        ctx.save_for_backward(x, gain, bias, mean, var, count)
        ctx.group, ctx.options = group, options
        return norm_act(x, gain, bias, mean=mean, var=var, **options)

    @staticmethod
    def backward(ctx, dy: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError("batch statistics over several ranks have no second derivative here")
        *given, mean, var, count = ctx.saved_tensors
        _, gain, bias = given
        dy, to_gain, to_bias, totals = backward_sums(dy, *given, mean, var, **ctx.options)
        distributed.all_reduce(totals, group=ctx.group)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = input_gradient(dy, *given, mean, var, (totals / count).to(totals.dtype), **ctx.options)
        to_gain = to_gain.to(gain.dtype) if ctx.needs_input_grad[1] else None
        to_bias = to_bias.to(bias.dtype) if ctx.needs_input_grad[2] else None
        return to_x, to_gain, to_bias, None, None, None, None, None
