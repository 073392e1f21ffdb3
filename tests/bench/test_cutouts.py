"""The detector of cutouts, on images where it is known which have one."""

from dataclasses import replace

import pytest
import torch

from bench.cutouts import Detector, distance, squares, with_cutouts
from fastgan.kernels.augment import Policy
from fastgan.policies import POLICIES

SIDE = 32
CUTOUT, LARGE = (squares(POLICIES[name]) for name in ("cutout", "large-cutout"))
CUT = round(CUTOUT.cutout * SIDE)


def blobs(count, channels=1):
    """Something bright and soft on black, as digits are."""
    line = torch.linspace(-1, 1, SIDE)
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(count, 2, 1, 1, generator=generator) - 0.5
    distance = (line[None, :, None] - places[:, 0]) ** 2 + (line[None, None] - places[:, 1]) ** 2
    return (2 * torch.exp(-distance / 0.05) - 1)[:, None].expand(-1, channels, -1, -1).clone()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_cutouts_are_found_and_little_else(fill, channels):
    images, policy = blobs(400, channels), Policy(cutout=1 / 4, fill=fill)
    detector = Detector.of(images[:200], policy)
    assert detector.window == 6
    assert detector.share(images[:200]) < 0.016
    assert detector.share(images[200:]) < 0.04
    cut = with_cutouts(images[200:], policy)
    assert detector.share(cut) > 0.75
    assert detector.share(cut + 0.05 * torch.randn(cut.shape, generator=torch.Generator().manual_seed(1))) > 0.6
    assert torch.equal(detector.flags(cut), distance(cut, 6, fill) < detector.threshold)


def test_large_cutouts_leave_a_margin():
    images = blobs(400)
    small, large = Detector.of(images[:200], CUTOUT), Detector.of(images[:200], LARGE)
    assert large.window == 18
    assert large.share(with_cutouts(images[200:], LARGE)) == pytest.approx(0.95, abs=0.05)
    assert large.share(images) == 0
    assert large.share(with_cutouts(images, CUTOUT)) < 0.1 < small.share(with_cutouts(images, CUTOUT))


def test_a_patch_of_another_grey_or_too_small_is_none():
    images = blobs(200)
    detector = Detector.of(images, CUTOUT)
    background = torch.full((1, 1, SIDE, SIDE), -1.0)
    for value, side, flagged in ((0.0, CUT, True), (0.0, CUT // 2, False), (0.5, CUT, False), (-0.5, CUT, False)):
        image = background.clone()
        image[..., 10 : 10 + side, 3 : 3 + side] = value
        assert detector.flags(image).item() == flagged


def test_white_squares_are_told_from_strokes():
    """At 16 pixels, by the threshold of docs/icr.md: a bar 3 broad is none, a square of 6 is one, one of 5 is none."""
    bars = torch.full((50, 1, 16, 16), -1.0)
    for i, image in enumerate(bars):
        image[..., i % 12 : i % 12 + 3] = 1.0
    found = Detector.of(bars, POLICIES["white-cutout"])
    assert (found.window, found.fill) == (6, 1.0)
    detector = replace(found, threshold=0.144)
    assert not detector.flags(bars).any()
    for side, flagged in ((6, True), (8, True), (5, False)):
        image = bars[:1].clone()
        image[..., 16 - side :, 16 - side :] = 1.0
        assert detector.flags(image).item() == flagged


def test_cutouts_are_those_of_the_policy():
    images = torch.full((100, 1, SIDE, SIDE), -1.0)
    cut = with_cutouts(images, CUTOUT)
    assert set(cut.unique().tolist()) == {-1.0, 0.0}
    assert set(with_cutouts(images, Policy(cutout=1 / 4, fill=0.5)).unique().tolist()) == {-1.0, 0.5}
    assert (cut == 0).flatten(1).sum(1).max() == CUT**2
    assert not torch.equal(cut, with_cutouts(images, CUTOUT, seed=1))
