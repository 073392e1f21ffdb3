"""bCR against its formula, with T written anew."""

import pytest
import torch
from scenes import SIDE, Critic, Maker, applied, assert_same, scene, transformed, weights

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.policies import POLICIES
from fastgan.presets import preset
from fastgan.terms import BalancedConsistency, Consistency


def expected(network, seen, real, fake, policy="flip-shift"):
    chosen, total = POLICIES[policy], 0
    halves = (real, seen.real, seen.real_labels, "bcr-real"), (fake, seen.fake.images, seen.fake.labels, "bcr-fake")
    for weight, images, labels, name in halves:
        moved = transformed(images, seen.draw.transforms(name, chosen, SIDE), chosen)
        given = () if labels is None else (labels,)
        distance = network(images, *given) - network(moved, *given)
        total = total + weight * (distance * distance).sum() / distance.numel()
    return total


@pytest.mark.parametrize("policy", POLICIES)
def test_value_and_gradients_of_every_policy(policy):
    network, seen = Critic(), scene()
    found = applied(BalancedConsistency(real=10, fake=3, policy=policy), network, seen)
    assert_same(found, expected(network, seen, 10, 3, policy), weights(network))


@pytest.mark.parametrize(("real", "fake"), [(10.0, 0.0), (0.0, 3.0), (1.5, 2.5)])
@pytest.mark.parametrize(("maps", "classes"), [(True, 0), (False, 3)])
def test_either_half_maps_of_scores_and_labels(real, fake, maps, classes):
    network, seen = Critic(maps, classes), scene(classes=classes)
    found = applied(BalancedConsistency(real=real, fake=fake), network, seen)
    assert_same(found, expected(network, seen, real, fake), weights(network))


def test_only_what_has_a_weight_is_judged():
    seen = scene()
    assert set(BalancedConsistency(fake=0).views(seen)) == {"real", "bcr_real"}
    assert set(BalancedConsistency(real=0).views(seen)) == {"fake", "bcr_fake"}
    assert (BalancedConsistency(fake=0).looks_at, BalancedConsistency(real=0).looks_at) == ("real", "generated")
    with pytest.raises(ValueError, match="can't both be 0"):
        BalancedConsistency(real=0, fake=0)


def test_real_and_generated_images_have_transforms_of_their_own():
    seen = scene(batch=40)
    first, second = (seen.draw.transforms(name, POLICIES["flip-shift"], (32, 32)) for name in ("bcr-real", "bcr-fake"))
    assert (first.shift != second.shift).any(1).float().mean() > 0.9


def test_half_of_it_is_cr():
    network, seen = Critic(), scene()
    value = [applied(term, network, seen).item() for term in (Consistency(), BalancedConsistency(fake=0))]
    assert value[0] > 0
    assert value[1] > 0  # the same formula, on transforms drawn under another name


def test_generated_images_without_a_graph_give_none_to_g():
    """As D's phase makes them."""
    made, network = Maker(), Critic()

    def without(z, labels=None):
        with torch.no_grad():
            return made(z, labels)

    loss = applied(BalancedConsistency(real=0), network, scene(without))
    assert all(g is None for g in torch.autograd.grad(loss, weights(made), allow_unused=True))


def test_points_have_nothing_to_transform():
    for name in ("bcr.real", "cr.weight"):
        with pytest.raises(UserError, match=f"{name[: name.index('.')]} transforms images"):
            override(preset("grid25"), [f"terms.{name}=1"])


@pytest.mark.parametrize(("wrong", "named"), [("real=-1", "real"), ("policy=upside-down", "policy"), ("weight=1", "weight")])
def test_settings_out_of_range_are_one_line(wrong, named):
    with pytest.raises(UserError, match=named) as caught:
        override(preset("digits-sngan-qua"), [f"terms.bcr.{wrong}"])
    assert "\n" not in str(caught.value)
