"""Classifiers of attributes, and what changes along directions."""

import math

import pytest
import torch

from fastgan.evaluation.entanglement import AttributeClassifiers, entanglement
from fastgan.latent.directions import directions


def scene(count, seed, correlation=0.8):
    """Images of a bright top and a bright left, which mostly go together, and whether they are."""
    generator = torch.Generator().manual_seed(seed)
    top = torch.rand(count, generator=generator) < 0.5
    left = torch.where(torch.rand(count, generator=generator) < correlation, top, ~top)
    images = 0.2 * torch.randn(count, 1, 32, 32, generator=generator) - 0.5
    images[:, :, :4] += top[:, None, None, None].float()
    images[:, :, :, :4] += left[:, None, None, None].float()
    return images, torch.stack([top, left], 1).float()


def test_classifiers_know_attributes_that_go_together():
    images, attributes = scene(400, 0)
    judge = AttributeClassifiers(images, attributes)
    assert judge.accuracy(*scene(200, 1)).min() > 0.98
    assert judge.accuracy(*scene(200, 2, correlation=0.0)).min() > 0.9  # they look at their own, not at each other's
    assert judge(images).shape == (400, 2)
    assert AttributeClassifiers(images, attributes * 6 - 1).has(attributes * 6 - 1).equal(attributes.double())
    with pytest.raises(ValueError, match="attributes"):
        AttributeClassifiers(images, attributes[:5])


def test_accuracy_is_of_the_kinds_that_are_there():
    judge = AttributeClassifiers(*scene(400, 0))
    images, attributes = scene(200, 1)
    right = (judge(images) > 0) == attributes.bool()
    having, without = attributes[:, 0] == 1, attributes[:, 0] == 0
    for rows, expected in (
        (having, right[having, 0].double().mean()),
        (without, right[without, 0].double().mean()),
        (having | without, (right[having, 0].double().mean() + right[without, 0].double().mean()) / 2),
    ):
        torch.testing.assert_close(judge.accuracy(images[rows], attributes[rows])[0], expected)
    assert judge.accuracy(images[having], attributes[having])[0] > 0.98


def test_one_image_is_enough():
    images, attributes = scene(1, 0)
    judge = AttributeClassifiers(images, attributes)
    assert judge(images).isfinite().all()
    assert judge.accuracy(images, attributes).isfinite().all()
    found = entanglement(lambda z: z, torch.ones(1, 2), torch.eye(2), lambda images: images, ("a", "b"))
    assert found.value == 0


def test_changes_along_known_directions():
    codes = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = codes.std(0, correction=0)
    found = entanglement(
        lambda z: z, codes, torch.tensor([[1.0, 0.5], [0.0, 2.0]]), lambda images: images, ("a", "b"), target=1
    )
    changes = torch.tensor(found.changes)
    assert changes.diagonal().tolist() == pytest.approx([1, 1], abs=0.02)
    assert changes[0, 1] == pytest.approx(0.5 * float(spread[0] / spread[1]), rel=0.02)
    assert changes[1, 0] == 0
    assert found.value == pytest.approx(float(changes[0, 1]) / 2, rel=0.02)
    assert found.steps == pytest.approx([float(spread[0]), float(spread[1]) / 2], rel=0.02)
    longer = entanglement(lambda z: z, codes, torch.tensor([[3.0, 1.5], [0.0, 0.7]]), lambda images: images, ("a", "b"))
    assert longer.value == pytest.approx(found.value, rel=0.03)


def test_least_squares_are_less_entangled_than_means():
    images, attributes = scene(600, 3)
    judge, codes = AttributeClassifiers(images, attributes), images.flatten(1)
    start = scene(100, 4)[0].flatten(1)
    values = {}
    for kind in ("means", "least-squares"):
        along = directions(codes, attributes, ("top", "left"), kind)
        values[kind] = entanglement(lambda z: z.view(-1, 1, 32, 32), start, along, judge, ("top", "left")).value
    assert values["least-squares"] < 0.5 * values["means"]


def test_a_direction_the_wrong_way_does_not_count():
    """It changes its attribute as much as any, backwards: nothing that another direction's value would hide."""
    codes = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = torch.tensor([[1.0, 0.1, 0.0], [0.0, -1.0, 0.9], [0.0, 0.2, 1.0]], dtype=torch.float64)
    found = entanglement(lambda z: z, codes, along, lambda images: images, ("a", "b", "c"))
    assert found.reached == (True, False, True)
    assert found.changes[1][1] < 0
    changes = torch.tensor(found.changes, dtype=torch.float64)
    expected = (changes[0, 1:].abs().sum() + changes[2, :2].abs().sum()) / 4 / changes[[0, 2], [0, 2]].mean()
    assert found.value == pytest.approx(float(expected))
    backwards = entanglement(lambda z: z, codes, -torch.eye(3), lambda images: images, ("a", "b", "c"))
    assert not any(backwards.reached)
    assert math.isnan(backwards.value)


def test_a_direction_that_turns_back_is_judged_where_it_gives_most():
    def judge(images):
        """The first rises to 1/10 on the way, and falls again; the second goes along."""
        return torch.stack([images[:, 0] + 0.2 * images[:, 1] - 0.1 * images[:, 1] ** 2, 2 * images[:, 1]], 1)

    codes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).repeat(10, 1)
    codes[::4, 1], codes[1::4, 1] = 1e-3, -1e-3
    found = entanglement(lambda z: z, codes, torch.tensor([[0.0, 1.0], [0.0, 1.0]]), judge, ("a", "b"))
    assert found.steps[0] == 1
    assert found.changes[0][0] == pytest.approx(0.1, rel=0.1)
    assert found.changes[1][1] > 0.25
    assert found.reached == (False, True)
    assert found.value == pytest.approx(abs(found.changes[1][0]) / found.changes[1][1])
    with pytest.raises(ValueError, match="at least 2"):
        entanglement(lambda z: z, codes, torch.eye(2)[:1], lambda images: images, ("a",))
