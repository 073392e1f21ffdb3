"""R2 against its formula, and beside R1."""

import pytest
import torch
from scenes import Critic, Given, Maker, applied, assert_same, scene, squared_norms, weights
from torch import nn

from fastgan.judgement import View, judge
from fastgan.terms import R1, R2


def by_hand(network, seen, gamma):
    found = squared_norms(network, seen.fake.images, seen.fake.labels)
    return gamma / 2 * sum(found) / len(found)


@pytest.mark.parametrize(("maps", "classes"), [(False, 0), (True, 0), (False, 3)])
def test_value_and_gradients(maps, classes):
    network, seen = Critic(maps, classes), scene(classes=classes)
    assert_same(applied(R2(gamma=0.3), network, seen), by_hand(network, seen, 0.3), weights(network))


def test_with_r1_it_is_r3gans_pair():
    """Each in its own pass, the objective's scores from the same two."""
    network, seen, passes = Critic(), scene(), []

    def watched(x):
        passes.append(len(x))
        return network(x)

    views = {"real": View(seen.real), "fake": View(seen.fake.images)} | R1().views(seen) | R2().views(seen)
    judged = judge(Given(watched), views)
    assert passes == [5, 5]
    found = R1(gamma=2).loss(seen, judged) + R2(gamma=2).loss(seen, judged)
    by_r1 = sum(squared_norms(network, seen.real)) / 5
    assert_same(found, by_r1 + by_hand(network, seen, 2), weights(network))


def test_second_order():
    torch.manual_seed(0)
    seen = scene(batch=2)

    def loss(weight, last):
        return applied(R2(), lambda x: torch.tanh(x[..., :2, :2].flatten(1) @ weight) @ last, seen)

    inputs = [(torch.randn(*size, dtype=torch.float64) / 2).requires_grad_() for size in ((12, 2), (2,))]
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_g_learns_nothing_from_it():
    """Even where its images came with a graph."""
    made = Maker()
    loss = applied(R2(), Critic(), scene(made))
    assert all(g is None for g in torch.autograd.grad(loss, weights(made), allow_unused=True))


def test_at_zero_slope_it_is_zero_without_nan():
    network = Critic()
    nn.init.zeros_(network.last.weight)
    loss = applied(R2(), network, scene())
    assert loss == 0
    assert all(g is None or not g.any() for g in torch.autograd.grad(loss, weights(network), allow_unused=True))
    assert R2().second_order
    assert R2().looks_at == "generated"
