"""Self-attention over a map (Zhang et al., "Self-attention generative adversarial networks", ICML 2019, section 3).

    y = x + gamma o( softmax(q(x)' k(x)) v(x) ),     q, k: 1x1 to C/8 channels, v: 1x1 to C/2, o: 1x1 back to C

Keys and values are max-pooled by 2, as in that paper's code and in BigGAN; gamma starts at 0. No scale under the softmax.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


class Attention(nn.Module):
    """(B, C, h, w) -> (B, C, h, w), h and w even.

    Args:
        convolve: (before, after) -> a 1x1 convolution without bias.
    """

    def __init__(self, channels: int, convolve: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.query, self.key = convolve(channels, max(channels // 8, 1)), convolve(channels, max(channels // 8, 1))
        self.value, self.out = convolve(channels, max(channels // 2, 1)), convolve(max(channels // 2, 1), channels)
        self.gamma = nn.Parameter(torch.zeros(1))  # not a scalar: DeepSpeed can't broadcast one
        self.twice_differentiable = False
        """Whether a second-order term differentiates through this: then by plain products, as on the CPU they always are, since
        torch's fused attention has no second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), _pooled(self.key(x)), _pooled(self.value(x))
        mixed = self._attend(*(t.flatten(2).transpose(1, 2) for t in (query, key, value)))
        mixed = mixed.transpose(1, 2).unflatten(2, x.shape[2:])
        out = self.out(mixed)
        return x + self.gamma.to(out.dtype) * out  # a vector of one number would widen half precision

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if query.device.type == "cpu":
            return by_products(query, key, value)
        return by_torch(query, key, value, self.twice_differentiable)


def by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key') value, of (B, n, c), (B, m, c) and (B, m, d): (B, n, d). Differentiable to any order.

    On the CPU torch has no fused attention for keys narrower than values; what it has in its place widens half precision and
    looks for rows of minus infinity: 57 milliseconds where this takes 17, forward and backward, 32 maps of 32x32 in bf16. Here
    half precision rounds the products before the softmax.
    """
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(2), value)


def by_torch(query: Tensor, key: Tensor, value: Tensor, twice_differentiable: bool) -> Tensor:
    """`by_products` in one kernel where there is one that can do what is asked."""
    given = [t[:, None] for t in (query, key, value)]
    with sdpa_kernel(SDPBackend.MATH) if twice_differentiable else nullcontext():
        return functional.scaled_dot_product_attention(*given, scale=1.0)[:, 0]


def allow_second_order(network: nn.Module) -> None:
    """Make every attention in `network` differentiable twice."""
    for part in network.modules():
        if isinstance(part, Attention):
            part.twice_differentiable = True


def _pooled(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2)
