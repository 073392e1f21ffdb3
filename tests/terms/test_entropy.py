"""The entropy term against its formula, written pair by pair."""

import math

import pytest
import torch

from fastgan.draw import Draw
from fastgan.terms import Entropy, Imagined, Scene


def scene(images, **more):
    z = torch.zeros(len(images), 2)
    draw = Draw(0, "G", 0, torch.arange(len(images)))
    return Scene(images, None, lambda: Imagined(z, None, images), lambda z, labels=None: images, draw, **more)


def by_hand(images):
    rows = images.flatten(1).tolist()
    apart = [
        [math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x)) for j, y in enumerate(rows) if j != i]
        for i, x in enumerate(rows)
    ]
    return -sum(math.log(min(found) + 1e-8) for found in apart) / len(rows)


@pytest.mark.parametrize("shape", [(2, 2), (5, 3), (7, 1, 3, 5)])
def test_value_and_gradient(shape):
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = Entropy(weight=0.3).loss(scene(images), {})
    assert loss.item() == pytest.approx(0.3 * by_hand(images.detach()), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: Entropy(weight=0.3).loss(scene(x), {}), images)


def test_equal_images_give_no_nan_and_one_image_gives_nothing():
    images = torch.ones(4, 1, 2, 2, requires_grad=True)
    loss = Entropy().loss(scene(images), {})
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.isfinite()
    assert not gradient.any()
    assert Entropy().loss(scene(images[:1]), {}).item() == 0


def test_descending_it_spreads_images():
    images = (0.1 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    before = by_hand(images.detach())
    for _ in range(50):
        (gradient,) = torch.autograd.grad(Entropy(weight=1.0).loss(scene(images), {}), images)
        with torch.no_grad():
            images -= 0.01 * gradient
    assert by_hand(images.detach()) < before - 0.1


def test_over_ranks_it_is_the_whole_batchs():
    """Two halves, each gathering both."""
    images = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = Entropy().loss(scene(images), {})
    half = Entropy().loss(scene(images[:3], gather=lambda x: torch.cat([x, images[3:]])), {})
    assert half.item() == pytest.approx(whole.item(), rel=1e-12)
