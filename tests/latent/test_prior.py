import math

import pytest
import torch

from fastgan.draw import Draw
from fastgan.latent import Prior


def draw(rows, **changes):
    return Draw(**({"seed": 1, "purpose": "test", "step": 0, "rows": rows} | changes))


def test_a_sample_does_not_depend_on_who_else_is_drawn():
    prior = Prior(5)
    whole = prior(draw(torch.arange(8)))
    assert torch.equal(torch.cat([prior(draw(torch.arange(4))), prior(draw(torch.arange(4, 8)))]), whole)
    for change in ({"seed": 2}, {"purpose": "other"}, {"step": 1}, {"turn": 1}):
        assert not (prior(draw(torch.arange(8), **change)) == whole).any()
    assert torch.equal(prior(draw(torch.arange(8), part=3)), whole)


def test_samples_in_the_place_of_one_are_new():
    tripled = Prior(4)(draw(torch.arange(5)).times(3))
    assert tripled.shape == (15, 4)
    assert len(tripled.unique(dim=0)) == 15


@pytest.mark.parametrize(
    ("prior", "bound", "deviation"),
    [
        (Prior(50), math.inf, 1.0),
        (Prior(50, "uniform"), 1.0, 1 / math.sqrt(3)),
        # the variance of a standard normal cut at t is 1 - 2 t pdf(t) / (2 cdf(t) - 1)
        (
            Prior(50, "truncated-normal", 0.5),
            0.5,
            math.sqrt(1 - math.exp(-0.125) / math.sqrt(2 * math.pi) / math.erf(0.5**1.5)),
        ),
        (Prior(50, "truncated-normal", 2.0), 2.0, 0.8796),
    ],
)
def test_the_distribution(prior, bound, deviation):
    z = prior(draw(torch.arange(4000)))
    assert z.shape == (4000, 50)
    assert z.isfinite().all()
    assert z.abs().max() <= bound
    assert abs(z.mean()) < 0.01
    assert z.std().item() == pytest.approx(deviation, abs=0.01)
