"""Activations after a norm, by themselves: `norm_act`'s and `sample_norm_act`'s tests have them in the kernels."""

import math

import pytest
import torch
from torch.nn import functional

from fastgan.kernels.activation import activate, relu_, through_relu

PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_relu_and_its_gradient_are_torchs(dtype):
    numbers = torch.tensor([math.inf, -math.inf, math.nan, -math.nan, 0.0, -0.0, 1e-3, -1e-3]).to(dtype)
    for x in (numbers, draw(300, dtype=dtype)):
        x, theirs = (x.clone().requires_grad_() for _ in range(2))
        dy = draw(len(x), dtype=dtype, seed=1)
        y, expected = relu_(x * 1), theirs.relu()
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        gradient, wanted = (torch.autograd.grad(of, leaf, dy)[0] for of, leaf in ((y, x), (expected, theirs)))
        finite = ~x.isnan()
        assert torch.equal(gradient[finite], wanted[finite])
        assert torch.equal(through_relu(dy, expected.detach())[finite], wanted[finite])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_relu_is_differentiated_twice(dtype):
    """d (sum of squares of 2 y dy/dx) = 8 x where x is above 0."""
    x = draw(50, dtype=dtype).requires_grad_()
    (first,) = torch.autograd.grad(relu_(x * 1).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    torch.testing.assert_close(second, 8 * x.detach().relu())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("act", ["none", "relu", "leaky"])
@pytest.mark.parametrize("upsample", [False, True])
def test_activate_is_torchs_activation_and_interpolation(layout, act, upsample):
    x = draw(2, 3, 4, 5).contiguous(memory_format=layout)
    x, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = activate(x * 1, act, 0.3, upsample)
    expected = {"none": theirs, "relu": functional.relu(theirs), "leaky": functional.leaky_relu(theirs, 0.3)}[act]
    expected = functional.interpolate(expected, scale_factor=2) if upsample else expected
    dy = draw(*expected.shape, seed=1)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(*(torch.autograd.grad(of, leaf, dy)[0] for of, leaf in ((y, x), (expected, theirs))))
