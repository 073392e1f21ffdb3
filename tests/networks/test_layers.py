"""Spectral normalisation against singular values and against torch's own."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastgan.networks.layers import SNConv2d, SNLinear, iterate_spectral_norms


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
