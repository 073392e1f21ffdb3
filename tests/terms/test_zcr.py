"""Both halves of zCR against their formulas."""

import pytest
import torch
from scenes import Critic, Maker, applied, assert_same, scene, weights

from fastgan.terms import LatentConsistency, LatentDiversity


def close_by(seen, noise):
    return seen.fake.z + noise * seen.draw.normal("zcr", 5).double()


@pytest.mark.parametrize(("maps", "classes"), [(False, 0), (True, 0), (False, 3)])
@pytest.mark.parametrize("noise", [0.05, 0.7])
def test_ds_half_with_its_gradients(maps, classes, noise):
    made, network, seen = Maker(classes), Critic(maps, classes), scene(classes=classes)
    labels = () if not classes else (seen.fake.labels,)
    images = [made(z, *labels).detach() for z in (seen.fake.z, close_by(seen, noise))]
    near, far = (network(x, *labels) for x in images)
    expected = 7 * ((near - far) ** 2).sum() / near.numel()
    assert_same(applied(LatentConsistency(weight=7, noise=noise), network, seen), expected, weights(network))


@pytest.mark.parametrize("classes", [0, 3])
def test_gs_half_with_its_gradients(classes):
    made = Maker(classes)
    seen = scene(made, classes=classes, purpose="G")
    labels = () if not classes else (seen.fake.labels,)
    distance = made(seen.fake.z, *labels) - made(close_by(seen, 0.3), *labels)
    expected = -0.5 * (distance * distance).sum() / distance.numel()
    found = LatentDiversity(weight=0.5, noise=0.3).loss(seen, {})
    assert -4 * 0.5 <= found < 0
    assert_same(found, expected, weights(made))
    assert LatentDiversity().player == "generator"


def test_the_halves_have_noise_of_their_own():
    first, second = (scene(batch=4, purpose=purpose) for purpose in "DG")
    assert torch.equal(first.fake.z, second.fake.z)
    assert (close_by(first, 1.0) != close_by(second, 1.0)).all()


def test_noise_belongs_to_the_sample():
    """Whoever holds which part of the batch."""
    whole = scene(batch=4).draw.normal("zcr", 5)
    part = scene(batch=2).draw.normal("zcr", 5)
    assert torch.equal(whole[:2], part)


def test_without_noise_there_is_no_distance():
    network, seen = Critic(), scene()
    loss = applied(LatentConsistency(noise=0), network, seen)
    assert loss == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, weights(network)))


def test_a_step_on_gs_half_pushes_images_apart():
    made = Maker()
    loss = LatentDiversity().loss(scene(made, purpose="G"), {})
    gradients = torch.autograd.grad(loss, weights(made))
    with torch.no_grad():
        for weight, gradient in zip(weights(made), gradients, strict=True):
            weight -= gradient
    assert LatentDiversity().loss(scene(made, purpose="G"), {}) < loss < 0
