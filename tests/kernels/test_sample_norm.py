"""Instance norm and layer norm: what the catalogue's tests leave."""

import pytest
import torch
from operations import DEVICE, PATHS, through
from torch.nn import functional

from fastgan.kernels.sample_norm import sample_norm_act

paths = pytest.mark.parametrize("path", PATHS)


def draw(*shape, path="cpu", dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype).to(_device(path))


def _device(path):
    return DEVICE if path == "kernel" else "cpu"


@paths
def test_by_hand(path):
    """Channels of 1, 3 and 4, 8: means 2 and 6, deviations 1 and 2; together mean 4, variance (9 + 1 + 0 + 16) / 4."""
    x = torch.tensor([[[[1.0, 3.0]], [[4.0, 8.0]]]], device=_device(path))
    gain, bias = x.new_tensor([3.0, 1.0]), x.new_tensor([-1.0, 0.5])
    with through(path):
        of_channels = sample_norm_act(x, gain, bias, eps=1e-9, act="relu")
        added = sample_norm_act(x, gain[None], bias[None], eps=1e-9, residual=10 * x)
        of_sample = sample_norm_act(x, over="sample", eps=1e-9)
    torch.testing.assert_close(of_channels.flatten().tolist(), [0.0, 2.0, 0.0, 1.5])
    torch.testing.assert_close(added.flatten().tolist(), [6.0, 32.0, 39.5, 81.5])
    torch.testing.assert_close(of_sample.flatten().tolist(), [n / 6.5**0.5 for n in (-3.0, -1.0, 0.0, 4.0)])


@paths
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_torchs(path, layout):
    x, gain, bias = draw(3, 5, 4, 6, path=path).contiguous(memory_format=layout), draw(5, path=path), draw(5, path=path) + 1
    with through(path):
        instance, layer = (sample_norm_act(x, gain, bias, over=over) for over in ("pixels", "sample"))
    torch.testing.assert_close(instance, functional.instance_norm(x, weight=gain, bias=bias))
    torch.testing.assert_close(layer, functional.group_norm(x, 1, gain, bias))
    assert all(y.is_contiguous(memory_format=layout) for y in (instance, layer))


@paths
@pytest.mark.parametrize("over", ["pixels", "sample"])
def test_samples_know_nothing_of_each_other_nor_of_where_the_cpu_cuts_the_batch(path, over, monkeypatch):
    monkeypatch.setattr("fastgan.kernels.sample_norm._IN_CACHE", 2 * 3 * 16)
    x, gain, bias = draw(5, 3, 4, 4, path=path), draw(5, 3, path=path), draw(5, 3, path=path) + 1
    with through(path):
        together = sample_norm_act(x, gain, bias, over=over, act="relu")
        alone = [sample_norm_act(x[i : i + 1], gain[i : i + 1], bias[i : i + 1], over=over, act="relu") for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))


@paths
@pytest.mark.parametrize("over", ["pixels", "sample"])
def test_a_mean_far_above_the_deviation_costs_no_digits(path, over):
    x = draw(2, 3, 8, 8, path=path, dtype=torch.float32) + 4096  # whose spacing is 2**-11 there
    with through(path):
        y = sample_norm_act(x, over=over)
    torch.testing.assert_close(y, sample_norm_act(x.double(), over=over).float(), rtol=1e-3, atol=1e-3)


@paths
@pytest.mark.parametrize("over", ["pixels", "sample"])
def test_constant_maps_give_the_bias_and_finite_gradients(path, over):
    x = torch.full((2, 3, 4, 4), 0.7, device=_device(path), requires_grad=True)
    bias = x.new_tensor([1.0, -1.0, 0.0])
    with through(path):
        y = sample_norm_act(x, torch.ones_like(bias), bias, over=over)
        (gradient,) = torch.autograd.grad((y * draw(2, 3, 4, 4, path=path).float()).sum(), x)
    torch.testing.assert_close(y, bias[None, :, None, None].expand_as(y), rtol=0, atol=1e-3)
    assert gradient.isfinite().all()


def test_autocast_changes_nothing():
    x, gain = draw(2, 3, 4, 4, dtype=torch.bfloat16), torch.ones(3)
    for over in ("pixels", "sample"):
        with torch.autocast("cpu", torch.bfloat16):
            y = sample_norm_act(x, gain, over=over)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, sample_norm_act(x, gain, over=over))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3)}, "x must be"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, "x must be"),
        ({"gain": torch.zeros(2)}, "gain must be"),
        ({"bias": torch.zeros(3, 2)}, "bias must be"),
        ({"over": "batch"}, "over must be one of"),
        ({"act": "leaky"}, "act must be one of"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"residual": torch.zeros(2, 3, 4, 5)}, "residual must be"),
        ({"residual": torch.zeros(2, 3, 4, 4), "act": "relu"}, "no relu in front of a residual"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sample_norm_act(**({"x": torch.zeros(2, 3, 4, 4)} | change))
