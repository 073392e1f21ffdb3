import pytest
import torch
from torch import nn

from fastgan.networks.attention import Attention, allow_second_order, by_products, by_torch


def attention(channels=16):
    torch.manual_seed(0)
    made = Attention(channels, lambda before, after: nn.Conv2d(before, after, 1, bias=False)).double()
    nn.init.constant_(made.gamma, 0.7)
    return made


def by_hand(made, x):
    """Pixel by pixel."""
    batch, _, height, width = x.shape
    q, k, v = made.query(x), nn.functional.max_pool2d(made.key(x), 2), nn.functional.max_pool2d(made.value(x), 2)
    mixed = torch.empty(batch, v.shape[1], height, width, dtype=x.dtype)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                weights = torch.einsum("c,chw->hw", q[b, :, i, j], k[b]).flatten().softmax(0)
                mixed[b, :, i, j] = v[b].flatten(1) @ weights
    return x + made.gamma * made.out(mixed)


def test_equals_the_formula():
    made, x = attention(), torch.randn(2, 16, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x), by_hand(made, x))
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made(last), made(x))
    assert made(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("twice", [False, True])
def test_the_ways_are_one_function(twice):
    query, key, value = (torch.randn(2, *sides, dtype=torch.float64, requires_grad=True) for sides in ((24, 2), (6, 2), (6, 8)))
    found = [by_products(query, key, value), by_torch(query, key, value, twice)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), (query, key, value)) for y in found))


def test_half_precision_stays_half():
    """A vector of one number, as gamma is, would make the whole map wide, and all that follows it."""
    made, x = attention().float(), torch.randn(2, 16, 4, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), by_hand(made, x.float()), rtol=0.05, atol=0.05)


def test_it_starts_as_the_identity():
    made, x = Attention(8, lambda before, after: nn.Conv2d(before, after, 1, bias=False)), torch.randn(2, 8, 4, 4)
    assert torch.equal(made(x), x)


def test_second_derivatives_where_they_are_allowed():
    made = attention(8)
    allow_second_order(nn.Sequential(made))
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(made, x)
