"""CR against its formula, with T written anew."""

import pytest
import torch
from scenes import SIDE, Critic, applied, assert_same, scene, transformed, weights

from fastgan.policies import POLICIES
from fastgan.terms import Consistency


def expected(network, seen, weight, policy):
    chosen = POLICIES[policy]
    moved = transformed(seen.real, seen.draw.transforms("cr", chosen, SIDE), chosen)
    labels = () if seen.real_labels is None else (seen.real_labels,)
    distances = [(a - b) ** 2 for a, b in zip(network(seen.real, *labels), network(moved, *labels), strict=True)]
    return weight * sum(d.sum() for d in distances) / sum(d.numel() for d in distances)


@pytest.mark.parametrize("policy", POLICIES)
def test_value_and_gradients_of_every_policy(policy):
    network, seen = Critic(), scene()
    assert_same(
        applied(Consistency(weight=3, policy=policy), network, seen), expected(network, seen, 3, policy), weights(network)
    )


@pytest.mark.parametrize(("maps", "classes"), [(True, 0), (False, 3), (True, 3)])
def test_maps_of_scores_and_labels(maps, classes):
    """Score by score; T(x) is judged under x's label."""
    network, seen = Critic(maps, classes), scene(classes=classes)
    assert_same(applied(Consistency(), network, seen), expected(network, seen, 10, "flip-shift"), weights(network))


def test_generated_images_are_not_made_for_it():
    def nobody():
        raise AssertionError("CR has no use for generated images")

    seen = scene()
    object.__setattr__(seen, "imagine", nobody)
    assert set(Consistency().views(seen)) == {"real", "cr"}
    assert Consistency().looks_at == "real"


def test_half_precision():
    """Scores in bf16 are subtracted and summed in float32: to 1e-6 of what the rounded scores give."""
    network, seen = Critic(maps=True), scene()

    def rounded(x):
        return network(x).bfloat16()

    found = applied(Consistency(), rounded, seen)
    assert found.dtype == torch.float32
    exact = expected(lambda x: rounded(x).double(), seen, 10, "flip-shift")
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)
