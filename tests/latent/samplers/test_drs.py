"""Rejection sampling against a mixture whose density, and so whose D, is known exactly."""

from dataclasses import replace

import pytest
import torch
from lines import Affine, Function, distance, draw, make_pair, mixture_cdf, mixture_pair

from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.latent.samplers import DRS, Plain
from fastgan.latent.samplers.calibration import METHODS

COUNT, BOUND = 4000, 0.03  # by chance alone the distance is above 0.026 once in a hundred times; calibration adds its own


@pytest.mark.parametrize("calibration", ["logistic", "isotonic"])
@pytest.mark.parametrize("distort", [lambda odds: odds, lambda odds: 0.2 * odds - 3], ids=["logit", "score"])
def test_exact_rejection_draws_from_the_data(distort, calibration):
    pair = mixture_pair(distort)
    drawn = draw(DRS(percentile=None, calibration=calibration), pair, COUNT)
    assert distance(drawn.images, mixture_cdf) < BOUND
    assert torch.equal(drawn.images, pair.generator(drawn.z))
    assert pair.passes["exhausted"] == 0
    plain = draw(Plain(), pair, COUNT)
    assert distance(pair.generator(plain.z), mixture_cdf) > 5 * BOUND


def test_what_a_wrong_formula_would_give_is_told_apart(monkeypatch):
    score = mixture_pair(lambda odds: 0.2 * odds - 3)
    with monkeypatch.context() as changed:  # scores taken for logits
        changed.setitem(METHODS, "logistic", lambda real, generated: lambda scores: scores.double())
        assert distance(draw(DRS(percentile=None), score, COUNT).images, mixture_cdf) > 2 * BOUND
    monkeypatch.setattr(DRS, "excess", lambda self, odds, top: odds)  # accept with probability D
    assert distance(draw(DRS(percentile=None), score, COUNT).images, mixture_cdf) > 2 * BOUND


def test_the_formula_of_the_paper():
    odds, top, eps = torch.tensor([-3.0, -1.0, 0.0, 2.0, 2.5]).double(), torch.tensor(2.0).double(), 1e-3
    found = DRS(eps=eps).excess(odds, top)
    below = odds[:4] - top
    torch.testing.assert_close(found[:4], below - (1 - (below - eps).exp()).log())
    assert found[4] == found[3]
    # gamma = 0 and eps -> 0: the probability is the ratio of the densities over its greatest value
    torch.testing.assert_close(DRS(eps=1e-12).excess(odds[:3], top).sigmoid(), (odds[:3] - top).exp())


def test_gamma_is_a_percentile_of_the_burn_in():
    """At the percentile itself a proposal is kept half of the time, so a higher one costs more proposals."""
    passes = []
    for percentile in (50.0, 80.0, 99.0):
        pair = mixture_pair()
        draw(DRS(percentile=percentile), pair, COUNT)
        passes.append((pair.passes["generator"] - 10_000) / COUNT)
    assert 1 < passes[0] < passes[1] < passes[2]


def test_who_is_refused_to_the_end_is_the_best_scored_and_counted():
    """Where gamma is the greatest F of the burn-in, hardly any proposal is accepted."""
    pair = make_pair(Affine(), Function(lambda x: -x[:, 0].abs()), real=lambda n: (torch.linspace(-0.3, 0.3, n)[:, None], None))
    sampler = DRS(percentile=100, burn_in=500, max_tries=4)
    drawn = draw(sampler, pair, 50)
    tries = torch.stack([pair.prior(replace(Draw(0, "samples", 0, torch.arange(50)), turn=turn)) for turn in range(4)])
    refused = drawn.z.abs() == tries.abs().min(0).values
    assert 40 < pair.passes["exhausted"] <= refused.sum()
    assert pair.passes["generator"] <= 500 + 4 * 50


def test_a_sample_is_the_same_in_every_batch_and_number():
    sampler = DRS(percentile=90, burn_in=500)
    whole = draw(sampler, mixture_pair(), 40)
    for batch in (1, 7):
        found = draw(sampler, mixture_pair(), 40, batch)
        assert torch.equal(found.z, whole.z)
        assert torch.equal(found.images, whole.images)
    assert torch.equal(draw(sampler, mixture_pair(), 13).z, whole.z[:13])
    assert not torch.equal(draw(sampler, mixture_pair(), 40, seed=1).z, whole.z)


def test_labels_stay_with_their_rows():
    score = Function(lambda x, labels: -(x[:, 0] - labels).abs())
    pair = make_pair(Affine(), score, classes=3, real=lambda n: (torch.arange(n)[:, None] % 3.0, torch.arange(n) % 3))
    labels = torch.arange(30) % 3
    drawn = draw(DRS(percentile=50, burn_in=300), pair, 30, labels=labels)
    assert torch.equal(drawn.labels, labels)
    assert torch.equal(drawn.images, drawn.z + labels[:, None])


def test_real_images_are_asked_for():
    with pytest.raises(UserError, match="needs real images"):
        DRS().prepare(make_pair(Affine(), Function(lambda x: x[:, 0])))
