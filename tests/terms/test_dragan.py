"""Both forms of DRAGAN against their formulas."""

import pytest
import torch
from scenes import SIDE, Critic, applied, assert_same, scene, squared_norms, weights
from torch import nn

from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.terms import Dragan

FORMS = ["uniform", "normal"]


def around(seen, form, scale):
    x = seen.real
    if form == "normal":
        return x + scale * seen.draw.normal("dragan", 3, *SIDE).double()
    deviation = ((x - x.sum() / x.numel()) ** 2).sum().div(x.numel()).sqrt()
    share, noise = seen.draw.uniform("dragan/share", 1, 1, 1), seen.draw.uniform("dragan", 3, *SIDE)
    return x + share.double() * scale * deviation * noise.double()


def by_hand(network, seen, form, scale, target, weight):
    norms = [square.sqrt() for square in squared_norms(network, around(seen, form, scale), seen.real_labels)]
    return weight * sum((norm - target) ** 2 for norm in norms) / len(norms)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("maps", "classes"), [(False, 0), (True, 0), (False, 3)])
def test_value_and_gradients(form, maps, classes):
    network, seen = Critic(maps, classes, slope=3.0), scene(classes=classes)
    found = applied(Dragan(weight=3, target=0.5, form=form, scale=0.2), network, seen)
    assert_same(found, by_hand(network, seen, form, 0.2, 0.5, 3), weights(network), tolerance=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_second_order(form):
    torch.manual_seed(0)
    seen = scene(batch=2)

    def loss(weight, last):
        return applied(Dragan(form=form), lambda x: torch.tanh(x[..., :2, :2].flatten(1) @ weight) @ last, seen)

    inputs = [(torch.randn(*size, dtype=torch.float64) / 2).requires_grad_() for size in ((12, 2), (2,))]
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize("form", FORMS)
def test_at_zero_slope_it_is_the_squared_target_without_nan(form):
    network = Critic()
    nn.init.zeros_(network.last.weight)
    loss = applied(Dragan(weight=2, target=3, form=form), network, scene())
    assert loss == 18
    assert all(g is None or not g.any() for g in torch.autograd.grad(loss, weights(network), allow_unused=True))


def test_the_cloud_lies_where_its_form_says():
    """The published code's noise is never below 0: it moves pictures to one side."""
    seen = scene(batch=64)
    cloud = {form: Dragan(form=form, scale=0.5).views(seen)["dragan"].images - seen.real for form in FORMS}
    assert cloud["uniform"].min() >= 0
    assert cloud["normal"].std().item() == pytest.approx(0.5, rel=0.05)
    assert cloud["uniform"].mean().item() == pytest.approx(0.5 * seen.real.std().item() / 4, rel=0.2)


def test_parts_that_know_all_ranks_make_the_whole():
    """The deviation from moments of parts: here the parts are rows of one batch, and their mean is taken by hand."""
    whole = scene(batch=6)
    moments: list[list[torch.Tensor]] = [[], []]
    parts = [whole.real[:3] + 1, whole.real[3:]]  # means that differ

    def seen(i, over_ranks):
        part = scene(batch=3, over_ranks=over_ranks)
        object.__setattr__(part, "real", parts[i])
        return part

    def noting(i):
        def over_ranks(x):
            moments[i].append(x)
            return replayed[len(moments[i]) - 1] if len(moments[i]) <= len(replayed) else x

        return over_ranks

    replayed: list[torch.Tensor] = []
    for _ in range(3):  # each time one more mean is known
        moments[0].clear(), moments[1].clear()
        clouds = [Dragan().views(seen(i, noting(i)))["dragan"].images - parts[i] for i in range(2)]
        replayed = [(a + b) / 2 for a, b in zip(*moments, strict=True)][: len(replayed) + 1]
    share = scene(batch=3).draw.uniform("dragan/share", 1, 1, 1) * scene(batch=3).draw.uniform("dragan", 3, *SIDE)
    expected = 0.5 * torch.cat(parts).std(correction=0) * share.double()
    for cloud in clouds:
        torch.testing.assert_close(cloud, expected, rtol=1e-6, atol=1e-9)


def test_the_uniform_form_takes_whole_batches():
    assert Dragan().couples
    assert Dragan().spans_ranks
    assert not Dragan(form="normal").couples
    with pytest.raises(UserError, match=r"dragan couples the samples of a batch, so training.accumulate must be 1"):
        override(Config(), ["terms.dragan.weight=1", "training.accumulate=2"])
    override(Config(), ["terms.dragan.form=normal", "training.accumulate=2"])
