"""Convolution and its adjoints by each way, against torch's and against the definition of an adjoint."""

import pytest
import torch
from torch.nn import functional

from fastgan.kernels import convolution
from fastgan.kernels.convolution import (
    blocks_convolve,
    conv2d,
    conv_transpose2d,
    product_adjoint,
    product_convolve,
    product_correlate,
)
from fastgan.networks.layers import Conv2d

GEOMETRIES = [  # batch, channels in and out, sides, kernel, stride, padding
    (2, 3, 4, (6, 6), 3, 1, 1),
    (3, 2, 5, (7, 4), 4, 2, 1),
    (1, 4, 1, (5, 8), 5, 2, 2),
    (2, 1, 2, (3, 3), 3, 1, 0),
    (2, 3, 2, (9, 7), 2, 3, 1),
    (2, 2, 3, (8, 7), 4, 3, 1),
    (2, 2, 3, (6, 8), 2, 3, 0),
    (2, 2, 3, (2, 1), 7, 1, 3),
]


@pytest.fixture
def by_product(monkeypatch):
    """Everything goes by matrix products."""
    monkeypatch.setattr(convolution, "_has_own_way", lambda *args: True)
    monkeypatch.setattr(convolution, "_by_product", lambda *args: True)
    monkeypatch.setattr(convolution, "adjoint", product_adjoint)
    monkeypatch.setattr(convolution, "_by_blocks", lambda *args: False)


@pytest.fixture
def by_blocks(monkeypatch):
    """3x3 and 7x7 convolutions onto one or two channels from four or more go by blocks."""
    monkeypatch.setattr(convolution, "FEW_CHANNELS", 2)
    monkeypatch.setattr(convolution, "MANY_CHANNELS", {3: 4, 7: 4})
    monkeypatch.setattr(convolution, "MANY_ONTO_ONE", 4)


def tensors(batch, before, after, sides, kernel, dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(batch, before, *sides, dtype=dtype, requires_grad=True)
    return x, torch.randn(after, before, kernel, kernel, dtype=dtype, requires_grad=True)


def same(ours, theirs, inputs):
    """Equal in value, and in the gradients of a sum with random weights; gradients of gradients by gradgradcheck."""
    ours, theirs = ours(*inputs), theirs(*inputs)
    assert ours.grad_fn.name() in ("_ConvolveBackward", "_AdjointBackward")  # and not torch's against torch's
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    for mine, other in zip(*(torch.autograd.grad(y, inputs, weights) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_products_are_convolutions(by_product, geometry, layout):
    *shapes, stride, padding = geometry
    x, w = (t.detach().contiguous(memory_format=layout).requires_grad_() for t in tensors(*shapes))
    same(lambda x, w: conv2d(x, w, None, stride, padding), lambda x, w: functional.conv2d(x, w, None, stride, padding), (x, w))
    y = torch.randn_like(functional.conv2d(x, w, None, stride, padding)).requires_grad_()
    transposed = lambda f: lambda y, w: f(y, w, None, stride, padding)  # noqa: E731
    same(transposed(conv_transpose2d), transposed(functional.conv_transpose2d), (y, w))


@pytest.mark.parametrize(("before", "after"), [(5, 2), (4, 1), (1, 4), (2, 6)])
@pytest.mark.parametrize("sides", [(2, 2), (6, 4), (8, 4)])
def test_blocks_are_convolutions(by_blocks, before, after, sides):
    x, w = tensors(3, before, after, sides, 3)
    same(lambda x, w: conv2d(x, w, None, 1, 1), lambda x, w: functional.conv2d(x, w, None, 1, 1), (x, w))
    y = torch.randn_like(functional.conv2d(x, w, None, 1, 1)).requires_grad_()
    same(lambda y, w: conv_transpose2d(y, w, None, 1, 1), lambda y, w: functional.conv_transpose2d(y, w, None, 1, 1), (y, w))


@pytest.mark.parametrize(("before", "after"), [(5, 2), (4, 1), (1, 4), (2, 6)])
@pytest.mark.parametrize(("sides", "padding"), [((8, 12), 0), ((10, 14), 0), ((8, 4), 3), ((6, 10), 3)])
def test_blocks_of_seven_are_convolutions(by_blocks, before, after, sides, padding):
    """Sides that blocks of two and four divide, and those that they don't."""
    x, w = tensors(3, before, after, sides, 7)
    same(lambda x, w: conv2d(x, w, None, 1, padding), lambda x, w: functional.conv2d(x, w, None, 1, padding), (x, w))
    y = torch.randn_like(functional.conv2d(x, w, None, 1, padding)).requires_grad_()
    transposed = lambda f: lambda y, w: f(y, w, None, 1, padding)  # noqa: E731
    same(transposed(conv_transpose2d), transposed(functional.conv_transpose2d), (y, w))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sides", [(4, 4), (10, 6)])
@pytest.mark.parametrize("padding", [0, 1])
def test_halves_are_adjoints(sides, layout, padding):
    x, w = (t.detach().contiguous(memory_format=layout).requires_grad_() for t in tensors(3, 5, 2, sides, 4))
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)
    of = lambda convolve: lambda *given: convolve(*given, 2, padding)  # noqa: E731
    same(of(conv2d), of(functional.conv2d), (x, w, b))
    assert torch.autograd.gradgradcheck(of(conv2d), (x[:1, :, :4, :4], w, b))
    y = torch.randn_like(functional.conv2d(x, w, None, 2, padding)).requires_grad_()
    transposed = lambda convolve: lambda y, w: convolve(y, w, None, 2, padding)  # noqa: E731
    same(transposed(conv_transpose2d), transposed(functional.conv_transpose2d), (y, w))
    assert conv_transpose2d(y, w, None, 2, padding).is_contiguous(memory_format=torch.channels_last)


def second_order_is_right():
    x, w = tensors(2, 4, 2, (4, 4), 3)
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d(x, w, None, 1, 1), (x, w))
    assert torch.autograd.gradgradcheck(lambda y, w: conv_transpose2d(y, w.transpose(0, 1), None, 1, 1), (x, w))


def test_gradients_of_gradients_by_product(by_product):
    second_order_is_right()
    x, w = tensors(2, 2, 3, (6, 4), 4)
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d(x, w, None, 2, 1), (x, w))
    assert torch.autograd.gradcheck(
        lambda x, w: torch.autograd.grad(conv2d(x, w, None, 2, 1).square().sum(), x, create_graph=True), (x, w)
    )


def test_gradients_of_gradients_by_blocks(by_blocks):
    second_order_is_right()


def test_torchs_adjoint_reaches_every_pixel_of_an_input_that_the_stride_does_not_divide(by_product):
    x, w = tensors(2, 2, 3, (8, 7), 4)
    same(lambda x, w: conv2d(x, w, None, 3, 1), lambda x, w: functional.conv2d(x, w, None, 3, 1), (x, w))


@pytest.mark.parametrize("bias", [True, False])
def test_half_precision_under_autocast(bias):
    """Published shapes that go by product and by blocks: within a rounding of bf16's 8 bits of the float64 result."""
    shapes = ((128, 256, 8, 4, 2), (64, 64, 8, 4, 2), (16, 32, 16, 4, 2), (64, 3, 8, 3, 1), (16, 1, 8, 3, 1), (16, 2, 12, 7, 1))
    for before, after, side, kernel, stride in shapes:
        x, w = (t.detach().float().requires_grad_() for t in tensors(2, before, after, (side, side), kernel))
        b = torch.randn(after, requires_grad=True) if bias else None
        with torch.autocast("cpu", torch.bfloat16):
            y = conv2d(x, w, b, stride, 1)
        assert y.dtype == torch.bfloat16
        exact = functional.conv2d(x.double(), w.double(), None if b is None else b.double(), stride, 1)
        assert (y - exact).abs().max() < 0.01 * exact.abs().max()
        inputs = (x, w) if b is None else (x, w, b)
        weights = torch.randn_like(exact)
        for ours, other in zip(
            torch.autograd.grad(y, inputs, weights.bfloat16()), torch.autograd.grad(exact, inputs, weights), strict=True
        ):
            assert ours.dtype == torch.float32
            assert (ours - other).abs().max() < 0.015 * other.abs().max()


@pytest.mark.parametrize(
    ("expected", "dtype", "before", "after", "side", "kernel", "stride"),
    [
        (True, torch.bfloat16, 256, 256, 8, 4, 2),
        (True, torch.bfloat16, 256, 512, 4, 3, 1),
        (True, torch.bfloat16, 128, 256, 8, 4, 2),
        (False, torch.bfloat16, 256, 256, 16, 4, 2),
        (True, torch.bfloat16, 64, 128, 8, 4, 2),
        (False, torch.bfloat16, 64, 32, 8, 4, 2),
        (False, torch.float32, 64, 128, 8, 4, 2),
        (True, torch.float32, 4, 128, 32, 4, 2),
        (False, torch.float32, 16, 128, 32, 4, 2),
        (True, torch.bfloat16, 16, 128, 32, 4, 2),
        (False, torch.bfloat16, 32, 128, 32, 4, 2),
        (True, torch.float32, 256, 256, 8, 4, 2),
        (True, torch.float32, 64, 3, 32, 3, 1),
        (True, torch.bfloat16, 3, 64, 32, 3, 1),
        (False, torch.float32, 64, 3, 31, 3, 1),
        (True, torch.float32, 16, 1, 32, 3, 1),
        (False, torch.float32, 16, 1, 30, 3, 1),
        (True, torch.float32, 32, 1, 30, 3, 1),
        (False, torch.float32, 16, 2, 32, 3, 1),
        (False, torch.float32, 64, 3, 32, 4, 2),
    ],
)
def test_which_way_is_taken(expected, dtype, before, after, side, kernel, stride):
    """By product: bf16, wide, onto small maps. By blocks: 3x3 between few channels and many, even sides. By halves: 4x4 with
    stride 2 from few channels."""
    x, w = torch.empty(1, before, side, side, dtype=dtype), torch.empty(after, before, kernel, kernel, dtype=dtype)
    small = (side + 2 - kernel) // stride + 1
    assert convolution._has_own_way(x, w, dtype, (small, small), (side, side), stride, 1) is expected


def test_an_empty_batch_goes_through():
    x, w = torch.randn(0, 64, 8, 8, requires_grad=True), torch.randn(3, 64, 3, 3, requires_grad=True)
    y = conv2d(x, w, None, 1, 1)
    assert y.shape == (0, 3, 8, 8)
    assert [g.shape for g in torch.autograd.grad(y.sum(), (x, w))] == [x.shape, w.shape]


def test_blocks_give_channels_last():
    x = torch.randn(2, 64, 6, 4).contiguous(memory_format=torch.channels_last)
    assert blocks_convolve(x, torch.randn(3, 64, 3, 3)).is_contiguous(memory_format=torch.channels_last)


def test_results_lie_channels_last_and_may_be_changed_in_place():
    x = torch.randn(2, 128, 8, 8).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(256, 128, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    y = conv2d(x, w, None, 2, 1)
    assert y.is_contiguous(memory_format=torch.channels_last)
    functional.leaky_relu_(y, 0.1).sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert w.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("function", [product_convolve, product_correlate, blocks_convolve])
def test_ways_leave_their_inputs_alone(function):
    x, w = (t.detach() for t in tensors(2, 3, 2, (4, 4), 3))
    second = w if function is not product_correlate else torch.randn(2, 2, 4, 4, dtype=torch.float64)
    before = x.clone(), second.clone()
    arguments = () if function is blocks_convolve else (3, 1, 1) if function is product_correlate else (1, 1)
    function(x, second, *arguments)
    assert torch.equal(x, before[0])
    assert torch.equal(second, before[1])


def test_padding_as_wide_as_the_kernel_is_left_to_torch():
    x, w = tensors(2, 256, 128, (1, 1), 2, dtype=torch.bfloat16)
    assert convolution._has_own_way(x, w, x.dtype, (2, 2), (1, 1), 1, 1)
    assert not convolution._has_own_way(x, w, x.dtype, (4, 4), (1, 1), 1, 2)


def test_what_is_exported_is_a_convolution():
    layer = Conv2d(64, 3, 3, padding=1)
    x = torch.randn(2, 64, 8, 8)
    program = torch.export.export(layer, (x,))
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"] == ["aten.conv2d.default"]
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-5)
