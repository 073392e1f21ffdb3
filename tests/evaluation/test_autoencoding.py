"""Measures of autoencoders, against numbers worked out by hand and by numpy and scipy."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from fastgan.evaluation.autoencoding import (
    gradient_energy,
    mean_error,
    rank_correlation,
    ranks,
    sharpness,
    structure_kept,
)


def board(side=8):
    """Pixels that alternate along both directions."""
    return (torch.arange(side)[:, None] + torch.arange(side)).remainder(2).mul(2).sub(1).float()[None, None]


def test_gradient_energy_of_known_images():
    assert gradient_energy(board()) == pytest.approx(1)
    assert gradient_energy(torch.full((3, 1, 4, 4), 0.3)) == 0
    ramp = (2 * torch.arange(5.0) / 4 - 1).expand(2, 3, 5, 5)  # rises by 1/4 of [0, 1] a pixel, in one direction
    assert gradient_energy(ramp) == pytest.approx(1 / 32)


def test_sharpness_falls_with_blur_and_not_with_brightness():
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert sharpness(images, images) == pytest.approx(1)
    assert sharpness(images / 2, images) == pytest.approx(1 / 4)
    assert sharpness(images * 0.5 + 0.2, images) == pytest.approx(1 / 4)
    assert sharpness(blurred, images) < 0.2
    with pytest.raises(ValueError, match="one colour"):
        sharpness(images, torch.zeros(2, 1, 8, 8))


def test_errors_are_of_pixels_between_0_and_1():
    assert mean_error(torch.full((2, 1, 2, 2), -1.0), torch.ones(2, 1, 2, 2)) == 1
    assert mean_error(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)) == 0.25
    with pytest.raises(ValueError, match="same size"):
        mean_error(torch.zeros(1, 1, 2, 2), torch.zeros(2, 1, 2, 2))


def test_equal_numbers_share_their_ranks():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 0.0, 3.0])).tolist() == [4, 2, 4, 1, 4]
    x, y = torch.randint(0, 5, (2, 200), generator=torch.Generator().manual_seed(0)).double()
    assert rank_correlation(x, x + y) == pytest.approx(spearmanr(x, x + y).statistic, abs=1e-12)
    assert rank_correlation(x, x.exp()) == pytest.approx(1)
    assert rank_correlation(x, -x) == pytest.approx(-1)
    assert math.isnan(rank_correlation(x, torch.ones(200)))


def test_structure_is_kept_by_what_keeps_the_order_of_distances():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(40, 1, 4, 4, generator=generator) * 2 - 1
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    assert structure_kept(images, 7 * images.flatten(1) @ turn) == pytest.approx(1, abs=1e-6)
    assert abs(structure_kept(images, torch.randn(40, 3, generator=generator))) < 0.2
    above = torch.triu_indices(40, 40, 1)
    latents = torch.randn(40, 5, generator=generator)
    distances = [torch.cdist(rows, rows)[*above] for rows in (images.flatten(1).double(), latents.double())]
    assert structure_kept(images, latents) == pytest.approx(spearmanr(*distances).statistic, abs=1e-9)
    assert math.isnan(structure_kept(torch.zeros(5, 1, 4, 4), latents[:5]))
    with pytest.raises(ValueError, match="at least 3"):
        structure_kept(images[:2], latents[:2])
