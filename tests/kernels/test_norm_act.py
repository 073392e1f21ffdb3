"""Normalisation, gain and bias, activation, upsampling: what the catalogue's tests leave."""

import math

import pytest
import torch
from operations import DEVICE, PATHS, through
from torch import nn

from fastgan.kernels.norm_act import (
    backward_sums,
    batch_norm_act,
    channel_sums,
    input_gradient,
    norm_act,
    norm_act_reference,
    statistics,
)

paths = pytest.mark.parametrize("path", PATHS)


def draw(*shape, dtype=torch.float64, seed=0, path="cpu"):
    numbers = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return numbers.to(dtype).to(DEVICE if path == "kernel" else "cpu")


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


@paths
def test_by_hand(path):
    """Channel of 1, 3: mean 2, deviation 1, so -1 and 1; times 3, less 1."""
    x = torch.tensor([[[[1.0, 3.0]]]], device=DEVICE if path == "kernel" else "cpu")
    gain, bias = (torch.tensor([number], device=x.device) for number in (3.0, -1.0))
    with through(path):
        linear = norm_act(x, gain, bias, eps=1e-9)
        leaky = norm_act(x, gain, bias, eps=1e-9, act="leaky", slope=0.5)
        larger = norm_act(x, gain, bias, eps=1e-9, act="relu", upsample=True)
        given = norm_act(x, mean=x.new_tensor([1.0]), var=x.new_tensor([4.0]), eps=1e-9)
    torch.testing.assert_close(linear.flatten().tolist(), [-4.0, 2.0])
    torch.testing.assert_close(leaky.flatten().tolist(), [-2.0, 2.0])
    torch.testing.assert_close(larger[0, 0].tolist(), [[0.0, 0.0, 2.0, 2.0]] * 2)
    torch.testing.assert_close(given.flatten().tolist(), [0.0, 1.0])


@paths
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_averages_move_as_torchs(path, momentum):
    x = draw(3, 4, 5, 2, dtype=torch.float32, path=path) * 3 + 1
    theirs = nn.BatchNorm2d(4, momentum=momentum).to(x.device)
    mean, var = torch.zeros(4, device=x.device), torch.ones(4, device=x.device)
    for _ in range(2):
        expected = theirs(x)
        with through(path):
            got = batch_norm_act(x, running_mean=mean, running_var=var, momentum=momentum)
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(mean, theirs.running_mean)
    torch.testing.assert_close(var, theirs.running_var)


@paths
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_mean_far_above_the_deviation_costs_no_digits_of_the_variance(path, channels_last, offset):
    """Sums of squares in float32 would lose all of them at 1e4."""
    x = draw(4, 3, 40, 24, dtype=torch.float32, path=path) + offset
    x = last(x) if channels_last else x
    wide = x.double()
    with through(path):
        mean, var = statistics(channel_sums(x), x.dtype)
        running = torch.zeros(3, device=x.device), torch.ones(3, device=x.device)
        batch_norm_act(x, running_mean=running[0], running_var=running[1], momentum=1.0)
    torch.testing.assert_close(mean.double(), wide.mean((0, 2, 3)), rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), wide.var((0, 2, 3), correction=0), rtol=3e-5, atol=0)
    theirs = 3e-5 if path == "kernel" else 1e-3  # on the CPU that is torch's own batch norm
    torch.testing.assert_close(running[1].double(), wide.var((0, 2, 3)), rtol=theirs, atol=0)


@paths
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_ranks_that_add_up_their_sums_act_as_one(path, upsample, own, channels_last):
    """Two ranks of uneven share, forward and backward, against the whole batch on one."""
    x = draw(5, 3, 4, 6, path=path) * 2 + 1
    x = (last(x) if channels_last else x).requires_grad_()
    gain, bias = (draw(*((5, 3) if own else (3,)), seed=seed, path=path).requires_grad_() for seed in (1, 2))
    settings = {"act": "leaky", "slope": 0.3, "upsample": upsample}
    whole = norm_act_reference(x, gain, bias, **settings)
    dy = draw(*whole.shape, seed=3, path=path)
    expected = torch.autograd.grad(whole, [x, gain, bias], dy)

    parts = [slice(0, 2), slice(2, 5)]
    mine = [(x[p].detach(), *(q.detach()[p] if own else q.detach() for q in (gain, bias))) for p in parts]
    with through(path):
        sums = sum(channel_sums(part) for part, _, _ in mine)
        mean, var = statistics(sums, x.dtype)
        ys = [norm_act(*tensors, mean=mean, var=var, **settings) for tensors in mine]
        halves = [backward_sums(dy[p], *tensors, mean, var, **settings) for p, tensors in zip(parts, mine, strict=True)]
        means = sum(totals for *_, totals in halves) / sums[0]
        dxs = [
            input_gradient(half[0], *tensors, mean, var, means, **settings) for half, tensors in zip(halves, mine, strict=True)
        ]
    torch.testing.assert_close(torch.cat(ys), whole.detach())
    torch.testing.assert_close(torch.cat(dxs), expected[0])
    for place in (1, 2):
        pieces = [half[place] for half in halves]
        torch.testing.assert_close(torch.cat(pieces) if own else sum(pieces), expected[place])


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 6, 4), (4, 3)])
def test_operators(shape, upsample):
    if upsample and len(shape) == 2:
        pytest.skip("vectors have no pixels")
    operators = torch.ops.fastgan
    x, mean, var = draw(*shape).requires_grad_(), draw(shape[1], seed=1), draw(shape[1], seed=2).square() + 1
    gain, bias = draw(*shape[:2], seed=3).requires_grad_(), draw(shape[1], seed=4).requires_grad_()
    settings = (1e-5, "relu", 0.2, upsample)
    dy = draw(*norm_act(x, upsample=upsample).shape, seed=5)
    tensors = [t.detach() for t in (x, gain, bias, mean, var)]
    sums = operators.norm_act_backward_sums(dy, *tensors, *settings)
    calls = [
        (operators.channel_sums, (x.detach(),)),
        (operators.norm_act, (x, gain, bias, mean, var, *settings)),
        (operators.batch_norm_act, (x, gain, bias, *settings)),
        (operators.norm_act_backward_sums, (dy, *tensors, *settings)),
        (operators.norm_act_input_gradient, (sums[3] if upsample else dy, *tensors, sums[2], *settings)),
        (operators.norm_act_backward, (dy, *tensors, *settings, True, [True, True, False])),
        (operators.norm_act_backward, (dy, *tensors, *settings, False, [True, False, True])),
    ]
    for operator, arguments in calls:
        torch.library.opcheck(operator.default, arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_is_rounded_once(dtype, channels_last):
    x = draw(3, 40, 5, 6, dtype=dtype, path="kernel")
    x = last(x) if channels_last else x
    gain, bias = draw(3, 40, dtype=dtype, seed=1, path="kernel"), draw(3, 40, seed=2, dtype=torch.float32, path="kernel")
    with through("kernel"):
        y = norm_act(x, gain, bias, act="relu", upsample=True)
    wanted = norm_act_reference(x.double(), gain, bias, act="relu", upsample=True)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-5)  # a unit: the interpreter truncates


@paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("act", ["relu", "leaky"])
def test_nan_and_infinity_pass_as_through_torchs_activations(path, dtype, act):
    numbers = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, -0.0, 0.0, -1e-3, 1.0]).to(dtype)
    assert numbers.isnan()[:2].all()
    assert numbers.view(torch.int32 if dtype == torch.float32 else torch.int16)[1] < 0  # the other NaN has a sign
    x = numbers.reshape(1, 1, 2, 4).to(DEVICE if path == "kernel" else "cpu")
    mean, var = torch.zeros(1, device=x.device), torch.ones(1, device=x.device)
    with through(path):
        y = norm_act(x, mean=mean, var=var, eps=1e-9, act=act, slope=0.5)
    expected = nn.functional.relu(x) if act == "relu" else nn.functional.leaky_relu(x, 0.5)
    assert y.isnan().sum() == 2
    # A unit in the last place: the interpreter truncates to bfloat16.
    torch.testing.assert_close(y, expected, rtol=2**-7 if dtype == torch.bfloat16 else 1e-3, atol=0, equal_nan=True)


@paths
def test_a_constant_channel_is_its_bias(path):
    """Variance 0: the gradient is finite, too."""
    x = torch.full((2, 3, 4, 4), 7.0, device=DEVICE if path == "kernel" else "cpu").requires_grad_()
    bias = torch.arange(3.0, device=x.device)
    with through(path):
        y = norm_act(x, None, bias)
        (dx,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(y, bias[:, None, None].expand_as(y), rtol=0, atol=1e-4)
    assert dx.isfinite().all()


def test_the_kernels_keep_nothing_of_the_maps_size_but_the_input():
    x, gain = draw(4, 3, 8, 8, path="kernel").requires_grad_(), draw(4, 3, seed=1, path="kernel").requires_grad_()
    kept = []
    with through("kernel"), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm_act(x, gain, act="relu", upsample=True)
    large = [t for t in kept if t.numel() >= x.numel()]
    assert [t.data_ptr() for t in large] == [x.data_ptr()]


@paths
@pytest.mark.parametrize("upsample", [False, True])
def test_the_layout_stays(path, upsample):
    for x in (draw(2, 3, 4, 4, path=path), last(draw(2, 3, 4, 4, path=path))):
        x.requires_grad_()
        with through(path):
            y = norm_act(x, act="relu", upsample=upsample)
            (dx,) = torch.autograd.grad(y.sum(), x)
        assert y.shape[2:] == ((8, 8) if upsample else (4, 4))
        for given in (y, dx):
            assert given.is_contiguous(memory_format=torch.channels_last) == (not x.is_contiguous())
            assert given.is_contiguous() == x.is_contiguous()


def test_under_autocast_the_type_is_that_of_torchs_batch_norm():
    for dtype in (torch.float32, torch.bfloat16):
        x, theirs = draw(4, 3, 2, 2, dtype=dtype), nn.BatchNorm2d(3)
        with torch.autocast("cpu", torch.bfloat16):
            assert norm_act(x, theirs.weight, theirs.bias, act="relu").dtype == theirs(x).relu().dtype == dtype


def test_a_program_that_was_cut_short_sums_what_there_is():
    """Sizes around those of tiles and of what a program goes along."""
    for shape in ((1, 33, 32, 9), (2, 2, 64, 129), (70, 1, 3, 3), (1, 70, 1, 2), (3, 1, 1, 1)):
        for x in (draw(*shape, path="kernel"), last(draw(*shape, path="kernel"))):
            with through("kernel"):
                count, first, second = channel_sums(x)
            torch.testing.assert_close(count, torch.full_like(count, x.numel() // x.shape[1]))
            torch.testing.assert_close(first, x.sum((0, 2, 3)))
            torch.testing.assert_close(second, x.square().sum((0, 2, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act": "gelu"}, "act must be one of none, relu, leaky, not 'gelu'"),
        ({"eps": 0.0}, "eps must be above 0, not 0"),
        ({"eps": math.nan}, "eps must be above 0, not nan"),
        ({"slope": -0.1}, "slope must be at least 0, not -0.1"),
        ({"x": torch.zeros(2, 3, 4)}, r"x must be a floating-point \(B, C, H, W\) or \(B, C\) tensor, not .* \(2, 3, 4\)"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, "x must be a floating-point"),
        ({"x": torch.zeros(2, 3), "upsample": True}, r"only \(B, C, H, W\) maps"),
        ({"x": torch.zeros(1, 3, 1, 1)}, r"more than one value a channel, not \(1, 3, 1, 1\)"),
        ({"gain": torch.ones(2)}, r"gain must be floating-point \(3,\) or \(2, 3\) on cpu, not torch.float32 \(2,\) on cpu"),
        ({"bias": torch.ones(3, dtype=torch.int32)}, "bias must be floating-point"),
        ({"mean": torch.zeros(3)}, "mean and var go together"),
        ({"mean": torch.zeros(2), "var": torch.ones(3)}, r"mean must be torch.float32 \(3,\) on cpu"),
        ({"mean": torch.zeros(3), "var": torch.ones(3).double()}, "var must be torch.float32"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        norm_act(**({"x": torch.zeros(2, 3, 4, 4)} | change))


def test_a_lone_running_average_is_refused():
    with pytest.raises(ValueError, match="running_mean and running_var go together"):
        batch_norm_act(torch.zeros(2, 3, 4, 4), running_mean=torch.zeros(3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_with_gaps_in_memory(layout):
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64).contiguous(memory_format=layout)
    found = []
    for gap in (False, True):
        mean, var = torch.tensor([0.1, -0.2, 0.3]).double(), torch.tensor([0.5, 1.0, 1.5]).double()
        if gap:
            mean, var = (torch.stack([s, s * 7], 1)[:, 0] for s in (mean, var))
        leaf = x.clone().requires_grad_()
        gain = torch.ones(3, dtype=torch.float64, requires_grad=True)
        y = norm_act(leaf, gain, mean=mean, var=var, act="leaky")
        found.append(torch.autograd.grad(y.square().sum(), [leaf, gain]))
    for plain, gapped in zip(*found, strict=True):
        torch.testing.assert_close(plain, gapped, rtol=1e-12, atol=0)


@pytest.mark.parametrize("act", ["none", "relu"])
def test_second_order_with_a_bias_alone(act):
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, b: norm_act(x, None, b, act=act), (x, b))
