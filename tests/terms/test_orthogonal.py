"""Orthogonal regularisation against its formula."""

import pytest
import torch
from families import pair_of
from scenes import assert_same, scene
from torch import nn

from fastgan.networks.layers import SNConv2d, SNEmbedding
from fastgan.terms import Orthogonal


def by_hand(matrices):
    """Row by row, each pair of rows twice."""
    total = torch.zeros((), dtype=torch.float64)
    for matrix in matrices:
        rows = [row.double() for row in matrix]
        for i, row in enumerate(rows):
            for j, other in enumerate(rows):
                if i != j:
                    total = total + (row * other).sum() ** 2
    return total


def network():
    torch.manual_seed(0)
    layers = nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Conv2d(3, 2, 3), nn.ConvTranspose2d(3, 4, 2), nn.Embedding(4, 6)
    return nn.ModuleList(layers).double()


def test_value_and_gradients():
    """Of linear and convolutional weights, wide ones and tall ones, outputs first; not of norms, biases and class vectors."""
    played = network()
    weights = [played[0].weight, played[2].weight, played[3].weight]
    matrices = weights[0], weights[1].reshape(2, 27), weights[2].transpose(0, 1).reshape(4, 12)
    found = Orthogonal(weight=0.1).loss(scene(networks=[played]), {})
    assert_same(found, 0.1 * by_hand(matrices), [*weights, played[0].bias, played[4].weight])


def test_weights_of_several_networks_each_once():
    played = network()
    shared = nn.ModuleList([played[0], nn.Sequential(played[0])])
    once, twice = (Orthogonal().loss(scene(networks=networks), {}) for networks in ([played[0]], [shared]))
    assert torch.equal(once, twice)
    both = Orthogonal().loss(scene(networks=[played[0], played[2]]), {})
    torch.testing.assert_close(both, 1e-4 * by_hand([played[0].weight, played[2].weight.flatten(1)]))


def test_orthogonal_rows_and_single_rows_cost_nothing():
    straight, single = nn.Linear(7, 4, bias=False).double(), nn.Linear(7, 1).double()
    nn.init.orthogonal_(straight.weight)
    assert Orthogonal(weight=1).loss(scene(networks=[straight]), {}).abs() < 1e-14
    assert Orthogonal(weight=1).loss(scene(networks=[single]), {}).abs() < 1e-14
    assert Orthogonal(weight=1).loss(scene(), {}) == 0


def test_weights_as_they_are_stepped():
    """Before the spectral norm, in float32 whatever autocast or they themselves are in."""
    torch.manual_seed(0)
    layers = nn.ModuleList([SNConv2d(3, 4, 3), SNEmbedding(4, 6)])
    expected = 1e-4 * by_hand([layers[0].weight.reshape(4, 27)]).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Orthogonal().loss(scene(networks=[layers]), {})
    assert found.item() == pytest.approx(expected, rel=1e-5)
    half = Orthogonal().loss(scene(networks=[layers.bfloat16()]), {})
    assert half.item() == pytest.approx(expected, rel=0.02)  # the weights' own rounding


def test_a_wide_first_layer_does_not_need_its_outputs_squared():
    layer = nn.Linear(8, 30_000, bias=False)  # 30,000^2 products would be 3.6 GB
    loss = Orthogonal().loss(scene(networks=[layer]), {})
    (gradient,) = torch.autograd.grad(loss, layer.weight)
    assert loss > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("family", ["sn-cnn", "dcgan-cnn", "projection-resnet"])
def test_it_reaches_the_weights_of_families(family):
    generator, _ = pair_of(family, classes=3 if family == "projection-resnet" else 0)
    loss = Orthogonal().loss(scene(networks=[generator]), {})
    reached = torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True)
    assert sum(g is not None for g in reached) >= 3
    assert Orthogonal().player == "generator"
    assert Orthogonal(network="discriminator").player == "discriminator"
    assert Orthogonal().reads_weights
