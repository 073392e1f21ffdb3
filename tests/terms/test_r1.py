"""R1 against its formula."""

import pytest
import torch
from scenes import Critic, Given, applied, assert_same, scene, squared_norms, weights
from torch import nn

from fastgan.judgement import judge
from fastgan.terms import R1


def by_hand(network, images, labels, gamma):
    found = squared_norms(network, images, labels)
    return gamma / 2 * sum(found) / len(found)


@pytest.mark.parametrize(("maps", "classes"), [(False, 0), (True, 0), (False, 3)])
@pytest.mark.parametrize("batch", [1, 5])
def test_value_and_gradients(maps, classes, batch):
    """A map's slope is that of its sum."""
    network, seen = Critic(maps, classes), scene(batch=batch, classes=classes)
    assert_same(applied(R1(gamma=0.7), network, seen), by_hand(network, seen.real, seen.real_labels, 0.7), weights(network))


def test_second_order():
    torch.manual_seed(0)
    seen = scene(batch=2)

    def loss(weight, last):
        return applied(R1(), lambda x: torch.tanh(x[..., :2, :2].flatten(1) @ weight) @ last, seen)

    inputs = [(torch.randn(*size, dtype=torch.float64) / 2).requires_grad_() for size in ((12, 2), (2,))]
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_at_zero_slope_it_is_zero_without_nan():
    network = Critic()
    nn.init.zeros_(network.last.weight)
    loss = applied(R1(), network, scene())
    assert loss == 0
    found = torch.autograd.grad(loss, weights(network), allow_unused=True)
    assert all(g is None or not g.any() for g in found)


def test_it_asks_for_the_real_images_alone():
    seen = scene()
    ((name, view),) = R1().views(seen).items()
    assert name == "real"  # in the place of the objective's own view
    assert view.alone
    assert torch.equal(view.images, seen.real)
    assert not seen.real.requires_grad
    assert R1().looks_at == "real"
    assert R1().second_order


def test_no_images_are_no_number():
    """The mean of nothing, as everywhere; and no error."""
    seen = scene(batch=0)
    loss = R1().loss(seen, judge(Given(lambda x: x.flatten(1).sum(1)), R1().views(seen)))
    assert loss.isnan()


def test_half_precision():
    """A D in bf16: its slope to bf16's 8 bits, squares and sums in float32."""
    network, seen = Critic(slope=3.0), scene()
    expected = by_hand(network, seen.real, None, 1.0).item()
    object.__setattr__(seen, "real", seen.real.bfloat16())
    found = applied(R1(), network.bfloat16(), seen)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=0.05)


def test_a_setting_out_of_range_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        R1(gamma=-1)
