"""Metropolis-Hastings chains against a mixture whose density, and so whose D, is known exactly."""

import math
from dataclasses import replace

import pytest
import torch
from lines import Affine, Function, distance, draw, make_pair, mixture_cdf, mixture_pair

from fastgan.draw import Draw
from fastgan.latent.samplers import MetropolisHastings
from fastgan.latent.samplers.calibration import METHODS, calibrate

COUNT, BOUND = 4000, 0.03  # by chance alone the distance is above 0.026 once in a hundred times; calibration adds its own


@pytest.mark.parametrize("calibration", ["logistic", "isotonic"])
@pytest.mark.parametrize("distort", [lambda odds: odds, lambda odds: 0.2 * odds - 3], ids=["logit", "score"])
def test_chains_end_at_the_data(distort, calibration):
    pair = mixture_pair(distort)
    drawn = draw(MetropolisHastings(proposals=30, calibration=calibration), pair, COUNT)
    assert distance(drawn.images, mixture_cdf) < BOUND
    assert torch.equal(drawn.images, pair.generator(drawn.z))


def test_what_wrong_odds_would_give_is_told_apart(monkeypatch):
    for wrong in (0.2, 2.0, -1.0):  # too flat, too steep, upside down
        monkeypatch.setitem(METHODS, "isotonic", lambda real, generated, wrong=wrong: lambda scores: wrong * scores.double())
        assert distance(draw(MetropolisHastings(proposals=30), mixture_pair(), COUNT).images, mixture_cdf) > 2 * BOUND


def test_each_chain_is_the_one_that_the_paper_writes():
    """Row by row, in plain numbers: D = 1 / (1 + exp(-log-odds)), alpha = (1 / D - 1) / (1 / D' - 1)."""
    sampler, rows, pair = MetropolisHastings(proposals=6, calibration="logistic", calibrated_on=400), 60, mixture_pair()
    found, calibrated, restarted = draw(sampler, pair, rows), calibrate(pair, 400, "logistic"), 0
    for row in range(rows):
        draws = Draw(0, "samples", 0, torch.tensor([row]))
        inverse = 1 + math.exp(-calibrated.real[int(draws.uniform("start").item() * 400)].item())  # 1 / D
        z = None
        for chain in (0, 1):
            for turn in range(6 * chain, 6 * chain + 6):
                proposal = replace(draws, turn=turn)
                new = pair.prior(proposal)
                new_inverse = 1 + math.exp(-calibrated.log_odds(pair.judge(new)[1]).item())
                if proposal.uniform("accept").item() < min(1, (inverse - 1) / (new_inverse - 1)):
                    z, inverse = new, new_inverse
            if z is not None:
                break
            restarted, inverse = restarted + 1, math.inf
        assert torch.equal(found.z[row], z[0])
    assert 0 < restarted < rows / 2


def test_a_chain_that_never_left_begins_again_at_a_generated_image():
    """D is sure of the real images, and the same of all generated ones: the first chain never moves, the second always does."""
    pair = make_pair(
        Affine(), Function(lambda x: torch.where(x[:, 0] > 50, 60.0, 0.0)), real=lambda n: (torch.full((n, 1), 99.0), None)
    )
    drawn = draw(MetropolisHastings(proposals=3, calibrated_on=3000, calibration="logistic"), pair, 20)
    assert drawn.z.abs().max() < 50
    assert pair.passes["generator"] == 3000 + 2 * 3 * 20
    last = replace(Draw(0, "samples", 0, torch.arange(20)), turn=5)
    assert torch.equal(drawn.z, pair.prior(last))


def test_a_chain_begins_at_an_image_of_its_class():
    """Real images of class 0 score far above all generated ones, those of class 1 far below: only the latter chains move at
    once."""
    score = Function(lambda x, labels: torch.where(x[:, 0].abs() > 50, x[:, 0].sign() * 8.0, 0.1 * x[:, 0]))
    labels = (torch.arange(1000) % 10 == 0).long()
    real = 99.0 - 198.0 * labels[:, None], labels
    pair = make_pair(Affine(), score, classes=2, real=lambda n: real)
    sampler = MetropolisHastings(proposals=1, calibrated_on=1000, calibration="logistic")
    labels = torch.arange(60) % 2
    sample = sampler.prepare(pair)
    before = pair.passes["generator"]
    sample(Draw(0, "samples", 0, torch.arange(60)), labels)
    again = pair.passes["generator"] - before - 60
    assert 25 <= again <= 30  # of class 0, nearly all


def test_a_sample_is_the_same_in_every_batch_and_number():
    sampler = MetropolisHastings(proposals=5, calibrated_on=500)
    whole = draw(sampler, mixture_pair(), 40)
    for batch in (1, 7):
        assert torch.equal(draw(sampler, mixture_pair(), 40, batch).images, whole.images)
    assert torch.equal(draw(sampler, mixture_pair(), 13).z, whole.z[:13])
    assert not torch.equal(draw(sampler, mixture_pair(), 40, seed=1).z, whole.z)
