import math

import pytest
import torch
from sklearn.neighbors import KernelDensity

from fastgan.evaluation import parzen
from fastgan.evaluation.kde import log_density


def cloud(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def test_its_density_is_scikit_learns(monkeypatch):
    points, samples = cloud(40, 3), 0.8 * cloud(60, 3, seed=1)
    monkeypatch.setattr("fastgan.evaluation.kde._BLOCK", 700)
    found = log_density(points, samples, [0.2, 1.0])
    for row, bandwidth in zip(found, (0.2, 1.0), strict=True):
        theirs = KernelDensity(bandwidth=bandwidth).fit(samples.double()).score_samples(points.double())
        torch.testing.assert_close(row, torch.from_numpy(theirs), rtol=1e-9, atol=1e-9)


def test_a_gaussian_in_closed_form():
    """Many samples of N(0, 1) in one dimension: what is found nears the negative entropy, log(2 pi e) / 2."""
    found = parzen(cloud(400, 1), cloud(4000, 1, seed=1))
    assert found.value == pytest.approx(-math.log(2 * math.pi * math.e) / 2, abs=4 * found.error)
    assert found.error == pytest.approx(math.sqrt(0.5 / 400), rel=0.2)  # of x^2 / 2
    assert 0.05 < found.bandwidth < 0.6


def test_the_bandwidth_is_not_chosen_by_the_sample_that_it_judges():
    """One real sample far off: its fold's bandwidth comes from the others, which want a narrow one."""
    samples = cloud(500, 1)
    real = torch.cat([cloud(20, 1, seed=2), torch.tensor([[30.0]])])
    near = parzen(real[:-1], samples)
    assert parzen(real, samples).value < near.value - 10


def test_closer_is_likelier_and_disjoint_is_not():
    real = cloud(100, 4)
    values = [parzen(real, cloud(300, 4, seed=1) + shift).value for shift in (0.0, 1.0, 10.0)]
    assert values == sorted(values, reverse=True)


def test_what_has_no_density_is_refused():
    for real, generated in (((9, 2), (9, 3)), ((3, 2), (9, 2)), ((9, 2), (1, 2)), ((9, 2), (9, 2))):
        with pytest.raises(ValueError, match=r"samples come|folds needs|all the same"):
            parzen(torch.zeros(real), torch.zeros(generated))
