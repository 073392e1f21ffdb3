"""What samples look like: grids of images stay grids, points are drawn over their modes."""

import numpy as np
import pytest
import torch

from fastgan.data import DISTRIBUTIONS, PointStream
from fastgan.training.picture import picture, usual_number
from fastgan.training.sampling import grid


def drawn(source, num=2000):
    return next(PointStream(DISTRIBUTIONS[source], batch_size=num, seed=1))["images"]


def bluish(image):
    """Number of pixels that are more blue than red."""
    return int((image[2] - image[0] > 0.1).sum())


def reddish(image):
    return int((image[0] - image[2] > 0.1).sum())


def test_images_are_the_grid_that_they_were():
    images = torch.rand(9, 1, 8, 8) * 2 - 1
    assert torch.equal(picture(images, "digits"), grid(images))
    assert (usual_number("digits"), usual_number("grid25")) == (64, 5000)


@pytest.mark.parametrize("source", DISTRIBUTIONS)
def test_points_are_a_picture_of_one_panel_or_two(source):
    points = drawn(source)
    one = picture(points, source)
    two = picture({"plain": points, "refined": points}, source)
    assert one.shape == (3, 480, 450)
    assert two.shape == (3, 480, 900)
    for image in (one, two):
        assert 0 <= image.min() < 0.5
        assert image.max() <= 1
        assert image[:, 0].min() == 1, "something runs over the upper edge"


def test_good_samples_are_blue_and_strays_red():
    good, astray = picture(drawn("grid25"), "grid25"), picture(drawn("grid25") + 0.5, "grid25")
    assert bluish(good) > 2000 > 50 > reddish(good)  # one point in 3,000 lies beyond 4 sigma
    assert reddish(astray) > 2000 > 50 > bluish(astray)


def test_what_is_not_finite_or_far_away_spoils_no_picture():
    points = torch.tensor([[float("nan"), 0.0], [1e30, 0.0], [0.0, 0.0]])
    assert picture(points, "grid25").shape == picture(drawn("grid25"), "grid25").shape
    assert np.isfinite(picture(points, "swiss-roll").numpy()).all()
