"""Spectral normalisation against singular values and against torch's own; batch norm with what follows against torch's."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastgan.judgement import holds_batch_statistics
from fastgan.latent.frozen import frozen
from fastgan.networks.layers import BatchNormAct, SNConv2d, SNLinear, channels_last, iterate_spectral_norms


@pytest.fixture(params=["linear", "convolution"])
def layer(request):
    torch.manual_seed(0)
    made = SNLinear(6, 5, bias=False) if request.param == "linear" else SNConv2d(3, 5, 3, bias=False)
    return made.double()


def inputs(layer):
    return torch.randn(2, 6, dtype=torch.float64) if layer.weight.dim() == 2 else torch.randn(2, 3, 5, 5, dtype=torch.float64)


def test_the_largest_singular_value_becomes_one(layer):
    layer.iterate(200)
    assert torch.linalg.matrix_norm(layer.normalised_weight().flatten(1), 2).item() == pytest.approx(1, rel=1e-6)


def test_fifteen_iterations_at_the_start_come_close(layer):
    assert torch.linalg.matrix_norm(layer.normalised_weight().detach().flatten(1), 2).item() == pytest.approx(1, rel=0.05)


def test_gradients_are_those_of_torch(layer):
    """The same u and v in torch's own spectral norm: sigma is part of the graph, u and v are not."""
    plain = nn.Linear(6, 5, bias=False) if layer.weight.dim() == 2 else nn.Conv2d(3, 5, 3, bias=False)
    plain = plain.double()
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
    parametrizations.spectral_norm(plain)
    theirs = plain.parametrizations.weight[0]
    v = layer.v if layer.weight.dim() == 2 else layer.v.view(3, 3, 3).permute(2, 0, 1).flatten()  # ours is channels last
    theirs._u, theirs._v = layer.u.clone(), v.clone()
    plain.eval()
    x = inputs(layer)
    torch.testing.assert_close(layer(x), plain(x))
    (ours,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    (expected,) = torch.autograd.grad(plain(x).square().sum(), plain.parametrizations.weight.original)
    torch.testing.assert_close(ours, expected)
    assert torch.autograd.gradcheck(lambda x: layer(x), inputs(layer).requires_grad_())


def test_a_forward_moves_nothing(layer):
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.train()(inputs(layer)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_a_frozen_weight_is_normalised_once_until_it_changes(layer):
    layer.requires_grad_(False)
    first = layer.normalised_weight()
    assert layer.normalised_weight() is first
    layer.weight.mul_(3)
    torch.testing.assert_close(layer.normalised_weight(), first)  # a scale does not matter
    assert layer.normalised_weight() is not first
    kept = layer.normalised_weight()
    layer.weight.data[0].mul_(5)  # as ZeRO writes: no version tells, but the engine iterates
    iterate_spectral_norms(layer)
    assert not torch.equal(layer.normalised_weight(), kept)
    layer.load_state_dict({name: torch.ones_like(tensor) for name, tensor in layer.state_dict().items()})
    assert layer.normalised_weight().unique().numel() == 1


def test_loaded_vectors_and_replaced_weights_are_seen(layer):
    layer.requires_grad_(False)
    layer.normalised_weight()
    other = copy.deepcopy(layer)
    other.u.copy_(torch.nn.functional.normalize(torch.randn_like(other.u), dim=0))
    expected = other._normalise()
    layer.load_state_dict(other.state_dict() | {"weight": layer.weight})
    torch.testing.assert_close(layer.normalised_weight(), expected)
    layer.load_state_dict({name: torch.ones_like(t) for name, t in layer.state_dict().items()}, assign=True)
    assert layer.normalised_weight().unique().numel() == 1
    assert pickle.loads(pickle.dumps(layer))._kept is None


def test_a_trained_weight_is_never_kept(layer):
    assert layer.normalised_weight() is not layer.normalised_weight()
    with torch.no_grad():
        frozen = layer.normalised_weight()
    assert not frozen.requires_grad
    assert layer.normalised_weight().requires_grad


def test_half_precision_keeps_sigma_in_single():
    torch.manual_seed(0)
    layer = SNLinear(64, 64, bias=False)
    exact = layer.normalised_weight().detach()
    layer.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = layer.normalised_weight()
    assert torch.equal(kept, exact.bfloat16())
    assert layer.normalised_weight().dtype == torch.float32


def norms(act="relu", upsample=True):
    """The same by one module and by torch's own, with the same numbers, and the former's place kept by identities."""
    activation = nn.LeakyReLU(0.3) if act == "leaky" else nn.ReLU()
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.BatchNorm2d(3), activation, nn.Upsample(scale_factor=2) if upsample else nn.Identity())
    ours = nn.Sequential(BatchNormAct(3, act, 0.3, upsample), nn.Identity(), nn.Identity())
    nn.init.normal_(theirs[0].weight)
    nn.init.normal_(theirs[0].bias)
    ours.load_state_dict(theirs.state_dict())
    return ours.double(), theirs.double()


@pytest.mark.parametrize("act", ["relu", "leaky"])
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_batch_norm_and_what_follows_are_torchs(act, upsample, channels_last):
    ours, theirs = norms(act, upsample)
    for train in (True, True, False):
        x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
        x = (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
        got, expected = (network.train(train)(x) for network in (ours, theirs))
        torch.testing.assert_close(got, expected)
        grads = [torch.autograd.grad(y.square().sum(), [x, *n.parameters()]) for y, n in ((got, ours), (expected, theirs))]
        torch.testing.assert_close(*grads)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_a_checkpoint_holds_what_torchs_batch_norm_holds():
    ours, theirs = norms()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert holds_batch_statistics(ours)
    assert not holds_batch_statistics(ours.eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_keeps_its_types_under_autocast_and_in_half_precision(dtype):
    ours, theirs = (network.float() for network in norms())
    x = torch.randn(4, 3, 5, 6, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == theirs(x).dtype == dtype
    for network in (ours, theirs):
        network.to(torch.bfloat16)
    got, expected = ours(x.bfloat16()), theirs(x.bfloat16())
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours[0].running_var, theirs[0].running_var)


def test_frozen_statistics_do_not_move():
    ours, _ = norms()
    before = copy.deepcopy(ours.state_dict())
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64).requires_grad_()
    with frozen(ours):
        torch.autograd.grad(ours(x).sum(), x)
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_a_penalty_on_the_gradient_goes_through_batch_norm():
    """As for a D with batch norm: the gradient towards the images, and its square differentiated again."""
    ours, theirs = norms("leaky", upsample=False)
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for network in (ours, theirs):
        (slope,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, network[0].weight]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_can_be_exported(channels_last, dtype):
    ours = norms()[0].eval().float().requires_grad_(False)
    x = torch.randn(2, 3, 4, 4, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    program = torch.export.export(ours, (x,))
    torch.testing.assert_close(program.module()(x), ours(x))


def test_channels_last_holds_for_one_channel_too():
    """Both formats are one memory there, and a 1x1 convolution would answer in the other."""
    weight = torch.randn(4, 1, 1, 1)
    for channels in (1, 3):
        x = torch.randn(2, channels, 6, 4)
        assert torch.equal(channels_last(x), x)
        assert channels_last(x).stride() == (24 * channels, 1, 4 * channels, channels)
    y = torch.nn.functional.conv2d(channels_last(x[:, :1]), weight)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()
    assert channels_last(torch.empty(0, 1, 6, 4)).shape == (0, 1, 6, 4)
