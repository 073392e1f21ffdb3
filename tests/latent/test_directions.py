"""Directions of attributes, against numpy in float64."""

import numpy as np
import pytest
import torch

from fastgan.checked import UserError
from fastgan.latent.directions import directions


@pytest.fixture(scope="module")
def known():
    """400 latents z = y W + noise, two attributes that mostly go together, and W."""
    random = np.random.default_rng(0)
    first = random.random(400) < 0.5
    second = np.where(random.random(400) < 0.85, first, ~first)
    y, of_each = np.stack([first, second], 1).astype(float), random.normal(size=(2, 6))
    return y @ of_each + 0.01 * random.normal(size=(400, 6)) + 3, y, of_each


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_means_and_least_squares_are_numpys(known):
    z, y, _ = known
    means = directions(torch.from_numpy(z), torch.from_numpy(y), ("a", "b"), "means")
    squares = directions(torch.from_numpy(z), torch.from_numpy(y), ("a", "b"), "least-squares")
    expected = np.stack([z[column == 1].mean(0) - z[column == 0].mean(0) for column in y.T])
    solved = np.linalg.lstsq(np.concatenate([np.ones((400, 1)), y], 1), z, rcond=None)[0][1:]
    np.testing.assert_allclose(means, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(squares, solved, rtol=0, atol=1e-10)


def test_least_squares_separate_what_means_entangle(known):
    z, y, of_each = (torch.from_numpy(x) for x in known)
    squares = directions(z, y, ("a", "b"))
    means = directions(z, y, ("a", "b"), "means")
    torch.testing.assert_close(squares, of_each, rtol=0, atol=0.01)
    # 70 % of the other attribute goes along: P(b | a) - P(b | not a)
    torch.testing.assert_close(means[0], of_each[0] + 0.7 * of_each[1], rtol=0, atol=0.3)
    assert cosine(means[0], means[1]) > cosine(of_each[0], of_each[1]) + 0.3


def test_classes_which_sum_to_one_have_the_solution_of_least_norm():
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(90) % 3
    y, centres = torch.eye(3)[labels], torch.randn(3, 5, generator=generator)
    z = centres[labels] + 0.01 * torch.randn(90, 5, generator=generator)
    found = directions(z, y, "abc")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, centres - centres.mean(0), rtol=0, atol=0.02)
    padded = np.concatenate([np.ones((90, 1)), y.numpy() - 1 / 3], 1)
    np.testing.assert_allclose(found, np.linalg.pinv(padded)[1:] @ z.numpy(), atol=1e-5)


def standardised(y, z):
    """The solution of least norm over columns of deviation 1, in the columns' own units, in numpy."""
    deviation = y.std(0)
    return np.linalg.pinv((y - y.mean(0)) / deviation, rcond=1e-12) @ (z - z.mean(0)) / deviation[:, None]


def test_units_divide_nothing_otherwise():
    """What attributes share is divided among them alike in any units, also where they differ by 200 orders."""
    random = np.random.default_rng(4)
    y = np.eye(3)[random.choice(3, 200, p=[0.6, 0.3, 0.1])]
    y = np.concatenate([y, random.normal(size=(200, 1))], 1)
    z = y @ random.normal(size=(4, 5)) + 0.1 * random.normal(size=(200, 5))
    for units in (np.ones(4), np.array([1.0, 7.0, 0.01, 100.0]), np.array([1.0, 1e-100, 1.0, 1e100])):
        found = directions(torch.from_numpy(z), torch.from_numpy(y * units), "abcd").numpy()
        np.testing.assert_allclose(found, standardised(y * units, z), rtol=1e-8)
        np.testing.assert_allclose(found * units[:, None], standardised(y, z), rtol=1e-8)


@pytest.mark.parametrize("kind", ["means", "least-squares"])
def test_what_is_not_finite_is_one_line(kind):
    z, y = torch.randn(10, 3), torch.arange(20.0).view(10, 2) % 3
    for bad in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="latents of these images are not finite"):
            directions(z.clone().index_fill_(0, torch.tensor([4]), bad), y, ("young", "age"), kind)
        with pytest.raises(UserError, match="attribute age is not finite in all 10 images"):
            directions(z, torch.stack([y[:, 0], y[:, 1].where(y[:, 1] < 2, bad)], 1), ("young", "age"), kind)


def test_units_beyond_the_latents_type_are_one_line():
    z, y = torch.randn(10, 3), torch.arange(10.0, dtype=torch.float64)[:, None]
    for unit in (1e-60, 1e60):
        with pytest.raises(UserError, match=r"direction of the attribute age is beyond torch\.float32"):
            directions(z, unit * y, ("age",))
        assert directions(z.double(), unit * y, ("age",)).isfinite().all()


def test_real_numbers_have_a_slope_and_a_cut():
    y = torch.linspace(0, 3, 40, dtype=torch.float64)[:, None]
    z = torch.cat([2 * y + 1, -y], 1)
    torch.testing.assert_close(directions(z, y, ("age",)), torch.tensor([[2.0, -1.0]], dtype=torch.float64))
    high = y[:, 0] > 1.5
    torch.testing.assert_close(directions(z, y, ("age",), "means")[0], z[high].mean(0) - z[~high].mean(0))


def test_what_has_no_direction_is_refused():
    z, y = torch.randn(10, 3), torch.stack([torch.arange(10.0) % 2, torch.ones(10)], 1)
    with pytest.raises(UserError, match="attribute bald is the same in all 10 images"):
        directions(z, y, ("young", "bald"))
    with pytest.raises(ValueError, match="attributes"):
        directions(z, y[:4], ("young", "bald"))
    with pytest.raises(ValueError, match="kind"):
        directions(z, y, ("young", "bald"), "median")
