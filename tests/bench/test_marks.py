"""The detector of an augmentation's marks, on images where it is known which have some."""

import pytest
import torch

from bench.marks import Detector, marked
from fastgan.policies import POLICIES

SIDE = 32
POLICY = POLICIES["translation-cutout"]


def blobs(count, channels=1):
    """Something bright and soft on black, as digits are."""
    line = torch.linspace(-1, 1, SIDE)
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(count, 2, 1, 1, generator=generator) - 0.5
    distance = (line[None, :, None] - places[:, 0]) ** 2 + (line[None, None] - places[:, 1]) ** 2
    return (2 * torch.exp(-distance / 0.05) - 1)[:, None].expand(-1, channels, -1, -1).clone()


@pytest.mark.parametrize("channels", [1, 3])
def test_marks_are_found_and_little_else(channels):
    images = blobs(400, channels)
    detector = Detector.of(images[:200], POLICY.cutout)
    assert detector.window == 12
    for kind in ("square", "band"):
        assert detector.shares(images[:200])[kind] == pytest.approx(0.01, abs=0.006)
        assert detector.shares(images[200:])[kind] < 0.04
        through = marked(images[200:], POLICY)
        assert detector.shares(through)[kind] > 0.6
        assert detector.shares(through + 0.02 * torch.randn(through.shape))[kind] > 0.5


def test_a_patch_of_another_grey_or_too_small_is_none():
    background = torch.full((1, 1, SIDE, SIDE), -1.0)
    detector = Detector(window=12, square=0.3, band=0.3)
    for value, side, flagged in ((0.0, 16, 1), (0.0, 6, 0), (0.8, 16, 0), (-0.8, 16, 0)):
        image = background.clone()
        image[..., 10 : 10 + side, 3 : 3 + side] = value
        assert detector.shares(image) == {"square": flagged, "band": 0}
    for value, width, flagged in ((0.0, 1, 1), (0.9, 2, 0), (-0.9, 2, 0)):
        for turned in range(4):
            image = background.clone()
            image[..., :width, :] = value
            assert detector.shares(image.rot90(turned, (2, 3))) == {"square": 0, "band": flagged}


def test_marks_are_those_of_the_policy():
    images = torch.full((100, 1, SIDE, SIDE), -1.0)
    cut = marked(images, POLICIES["cutout"])
    assert set(cut.unique().tolist()) == {-1.0, 0.0}
    assert (cut == 0).flatten(1).sum(1).max() == 8**2
    assert not torch.equal(cut, marked(images, POLICIES["cutout"], seed=1))
