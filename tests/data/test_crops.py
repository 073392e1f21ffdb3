"""Rectangles: inside the image, square, as likely as they should be, and the same for an ordinal whoever asks."""

import math

import numpy as np
import pytest

from fastgan.data.crops import CROPS, boxes

SIZES = np.array([[4, 4], [1, 9], [50, 20], [20, 50], [1, 1], [333, 500]])


@pytest.mark.parametrize("crop", CROPS)
def test_every_box_lies_inside_its_image(crop):
    sizes = SIZES[np.arange(3000) % len(SIZES)]
    found = boxes(crop, sizes, 1, np.arange(3000), 0.01)
    assert found.dtype == np.int32
    assert (found[:, 2:] >= 1).all()
    assert (found >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= sizes).all()
    if crop != "stretch":
        assert np.array_equal(found[:, 2], found[:, 3])


def test_centre_is_the_largest_square_in_the_middle():
    assert boxes("centre", SIZES, 0, np.arange(6), 1.0).tolist() == [
        [0, 0, 4, 4], [0, 4, 1, 1], [15, 0, 20, 20], [0, 15, 20, 20], [0, 0, 1, 1], [0, 83, 333, 333]
    ]  # fmt: skip


def test_stretch_is_the_whole_image():
    assert np.array_equal(boxes("stretch", SIZES, 0, np.arange(6), 1.0), np.concatenate([0 * SIZES, SIZES], axis=1))


@pytest.mark.parametrize("min_area", [0.1, 0.5, 1.0])
def test_areas_and_places_are_uniform(min_area):
    count, sizes = 20_000, (3000, 4000)
    found = boxes("random", np.tile(sizes, (count, 1)), 7, np.arange(count), min_area).astype(float)
    area = (found[:, 2] / 3000) ** 2
    five_sigma = 5 / math.sqrt(12 * count)
    assert area.min() >= min_area - 1e-3
    assert area.max() <= 1
    assert abs(area.mean() - (1 + min_area) / 2) < five_sigma * (1 - min_area) + 1e-3
    for axis in (0, 1):
        wide = sizes[axis] - found[:, 2] > 200
        place = found[wide, axis] / (sizes[axis] - found[wide, 2])
        if len(place):
            assert abs(place.mean() - 0.5) < 5 / math.sqrt(12 * len(place)) + 1e-3
            assert abs(place.var() - 1 / 12) < 0.005
    if min_area == 1:
        assert not found[:, 0].any()


def test_every_place_occurs():
    found = boxes("random", np.tile((2, 4), (400, 1)), 0, np.arange(400), 1.0)
    assert sorted(set(map(tuple, found.tolist()))) == [(0, 0, 2, 2), (0, 1, 2, 2), (0, 2, 2, 2)]


def test_a_box_depends_on_seed_and_ordinal_alone():
    sizes = np.tile((300, 400), (50, 1))
    whole = boxes("random", sizes, 3, np.arange(100, 150), 0.2)
    assert np.array_equal(boxes("random", sizes[:7], 3, np.arange(120, 127), 0.2), whole[20:27])
    assert (boxes("random", sizes, 4, np.arange(100, 150), 0.2) != whole).any(axis=1).mean() > 0.9


def test_what_is_drawn_is_pinned():
    """A run of an earlier version resumes exactly: another value here means that it would see other crops."""
    assert boxes("random", np.tile((300, 400), (3, 1)), 3, np.array([0, 1, 2**40]), 0.25).tolist() == [
        [55, 56, 243, 243],
        [1, 89, 277, 277],
        [68, 141, 176, 176],
    ]
