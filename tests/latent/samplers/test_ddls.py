"""Langevin dynamics on an energy whose law is known after every step: D's score makes it a Gaussian's.

D(G(z)) = log N(z; M, S^2) - log N(z; 0, 1), so E is that of N(M, S^2), and an iteration

    z <- z - e / 2 (z - M) / S^2 + sqrt(e) n

is an autoregression with factor 1 - e / (2 S^2). From N(0, 1) it has, after t of them, the law that `after` gives;
in the end S^2 / (1 - e / (4 S^2)), not S^2: the bias of a finite step, which Metropolis and Hastings' rule takes away.
"""

import pytest
import torch
from lines import Affine, Function, distance, draw, log_mixture, log_normal, make_pair, mixture_cdf
from scipy.stats import norm

from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.latent import Prior, samplers
from fastgan.latent.samplers import DDLS

M, S, COUNT = 0.8, 0.6, 20_000
BOUND = 0.0115  # of the Kolmogorov-Smirnov distance of 20,000 samples: above it once in a hundred times


def to_gaussian(generator=None, slope=1.0, **options):
    generator = generator or Affine()
    score = Function(lambda x: slope * (log_normal(x, M, S) - log_normal(x, 0.0, 1.0)))
    return make_pair(generator, score, **({"batch_size": COUNT} | options))


def after(steps, step_size, noise=1.0):
    factor = 1 - step_size / (2 * S**2)
    variance = factor ** (2 * steps) + noise**2 * step_size * (1 - factor ** (2 * steps)) / (1 - factor**2)
    return M * (1 - factor**steps), variance**0.5


@pytest.mark.parametrize("options", [{"steps": 1}, {"steps": 5}, {"steps": 5, "noise": 0.5}, {"steps": 50}])
def test_the_law_after_some_steps(options):
    found = draw(DDLS(calibrated=False, step_size=0.3, **options), to_gaussian(), COUNT)
    mean, deviation = after(step_size=0.3, **options)
    assert distance(found.z, norm(mean, deviation).cdf) < BOUND
    assert found.z.std().item() == pytest.approx(deviation, rel=0.015)  # three standard errors
    assert found.images is None


def test_wrong_dynamics_would_be_told_apart():
    found = draw(DDLS(calibrated=False, step_size=0.3, steps=50), to_gaussian(), COUNT).z
    assert after(50, 0.3)[1] / S == pytest.approx((1 - 0.3 / (4 * S**2)) ** -0.5, rel=1e-6)
    for wrong in (norm(M, S), norm(M, after(50, 0.6)[1]), norm(0, 1)):  # no bias; the step not halved; nothing at all
        assert distance(found, wrong.cdf) > 2 * BOUND


def test_metropolis_takes_the_bias_away():
    found = draw(DDLS(calibrated=False, step_size=0.3, steps=50, metropolis=True), to_gaussian(), COUNT).z
    assert distance(found, norm(M, S).cdf) < BOUND
    assert found.std().item() == pytest.approx(S, rel=0.015)


def test_long_chains_of_latents_draw_the_mixture():
    pair = make_pair(Affine(1.5, 0.8), Function(lambda x: log_mixture(x) - log_normal(x, 0.8, 1.5)), batch_size=5000)
    found = draw(DDLS(calibrated=False, step_size=0.2, steps=150, metropolis=True), pair, 5000)
    assert distance(pair.generator(found.z), mixture_cdf) < 2 * BOUND


@pytest.mark.parametrize("calibrated", [True, False])
def test_scores_that_are_no_logits_are_made_so(calibrated):
    """A score of a tenth of the logit: taken as it is, latents would hardly move."""
    real = lambda n: (M + S * Prior(1)(Draw(7, "real", 0, torch.arange(n))), None)  # noqa: E731
    pair = to_gaussian(slope=0.1, real=real)
    found = draw(DDLS(step_size=0.3, steps=50, calibrated=calibrated, calibrated_on=20_000), pair, 5000).z
    assert (abs(found.mean() - M) < 0.04) == calibrated
    assert pair.passes["discriminator"] == 50 * 5000 + (40_000 if calibrated else 0)


def test_passes_are_counted():
    for metropolis, passes in ((False, 7), (True, 8)):
        pair = to_gaussian()
        draw(DDLS(calibrated=False, steps=7, metropolis=metropolis), pair, 20)
        assert pair.passes == dict.fromkeys(samplers.PASSES, passes * 20)


def test_a_sample_is_the_same_in_every_batch_and_number():
    for sampler in (DDLS(calibrated=False, steps=5), DDLS(calibrated=False, steps=5, step_size=0.5, metropolis=True)):
        whole = draw(sampler, to_gaussian(), 40).z
        for batch in (1, 7):
            assert torch.equal(draw(sampler, to_gaussian(), 40, batch).z, whole)
        assert torch.equal(draw(sampler, to_gaussian(), 13).z, whole[:13])
        assert not torch.equal(draw(sampler, to_gaussian(), 40, seed=1).z, whole)


def test_what_it_can_not_do_is_refused():
    for prior in (Prior(1, "uniform"), Prior(1, "truncated-normal")):
        with pytest.raises(UserError, match="ddls needs the normal prior"):
            DDLS(calibrated=False).prepare(to_gaussian(prior=prior))
    with pytest.raises(UserError, match="needs real images"):
        DDLS().prepare(to_gaussian())
    with pytest.raises(UserError, match="metropolis needs noise 1"):
        samplers.choose("ddls", ["metropolis=true", "noise=0.5"])
