"""Optimal transport under a discriminator for which the way's end is known.

D(G(z)) = -C |z|^2 / 2: beyond the sphere of radius K / C a step towards 0 gains more than it costs, within it less. So T moves
what lies beyond onto that sphere, along its radius, and leaves the rest where it is.
"""

import math

import pytest
import torch
from lines import Affine, Function, draw, make_pair

from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.latent import Prior, samplers
from fastgan.latent.samplers import DOT

C, K, ROWS = 2.0, 1.5, 300


def bowl(dim, **options):
    return make_pair(Affine(), Function(lambda x: -C * x.square().sum(1) / 2), dim, **options)


def starts(prior, rows=ROWS):
    return prior(Draw(0, "samples", 0, torch.arange(rows)))


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("delta", [0.0, 0.001])
def test_latents_go_to_the_sphere_where_gain_and_cost_are_equal(dim, delta):
    found = draw(DOT(k=K, steps=1500, step_size=4e-3, delta=delta, projection="none"), bowl(dim), ROWS).z
    y = starts(Prior(dim))
    radius = y.norm(dim=1, keepdim=True)
    expected = y * (K / C / radius).clamp(max=1)
    assert (radius > K / C).sum() > ROWS / 4
    assert (found - expected).abs().max() < 0.012  # the last step leads across the kink and back: step_size times the slope


def test_the_radius_is_proportional_to_the_constant():
    y = starts(Prior(2))
    for k in (0.5, 1.0):
        found = draw(DOT(k=k, steps=1500, step_size=4e-3, projection="none"), bowl(2), ROWS).z.norm(dim=1)
        assert (found - y.norm(dim=1).clamp(max=k / C)).abs().max() < 0.012


def test_the_constant_is_the_greatest_slope_between_two_latents():
    """|a.(z1 - z2)| / |z1 - z2| is at most |a|, in one dimension always; float32 divides what nearly cancels."""
    slope = torch.tensor([3.0, -4.0])
    pair = make_pair(Affine(2.0, 1.0), Function(lambda x: x @ slope), 2)
    assert 0.95 * 10 < DOT(pairs=1000).constant(pair) <= 10.01
    assert pair.passes == {"generator": 2000, "discriminator": 2000}
    one = make_pair(Affine(2.0), Function(lambda x: 3 * x[:, 0]))
    assert DOT().constant(one) == pytest.approx(6, rel=2e-3)
    # of one class each, whose offsets would otherwise be taken for slopes
    classes = make_pair(Affine(2.0), Function(lambda x, labels: 3 * x[:, 0] + 1000 * labels), classes=5)
    assert DOT().constant(classes) == pytest.approx(6, rel=0.1)


def test_a_factor_and_a_constant_of_the_scores_fall_out():
    score = Function(lambda x: 7 - 20 * C * x.square().sum(1) / 2)
    other = make_pair(Affine(), score, 3)
    torch.testing.assert_close(draw(DOT(), other, 50).z, draw(DOT(), bowl(3), 50).z, rtol=1e-4, atol=1e-5)


def test_projected_steps_keep_the_radius():
    score = Function(lambda x: 5 * x[:, 0])
    pair = make_pair(Affine(), score, 64)
    y = starts(Prior(64))
    found = draw(DOT(k=1.0, steps=20, step_size=0.01), pair, ROWS).z
    assert (found.norm(dim=1) / y.norm(dim=1) - 1).abs().max() < 1e-3  # the second order of the steps
    assert (found[:, 0] - y[:, 0]).min() > 0.5
    free = draw(DOT(k=1.0, steps=20, step_size=0.01, projection="none"), pair, ROWS).z
    assert (free.norm(dim=1) / y.norm(dim=1) - 1).abs().max() > 0.02


def test_the_published_projection():
    pair = bowl(4)
    y = starts(Prior(4), 10)
    gradient = torch.full_like(y, 0.001) / 0.002 + C * y / K  # delta in every coordinate, |delta| = 0.002
    expected = y - 0.1 * (gradient - (gradient * y).sum(1, keepdim=True) * y / math.sqrt(4))
    found = draw(DOT(k=K, steps=1, step_size=0.1, projection="published"), pair, 10).z
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_priors_keep_their_range():
    for prior, bound in ((Prior(3, "uniform"), 1.0), (Prior(3, "truncated-normal", 0.7), 0.7)):
        pair = make_pair(Affine(), Function(lambda x: 50 * x.sum(1)), 3, prior=prior)
        assert draw(DOT(k=1.0, steps=30, projection="none"), pair, 100).z.max() == pytest.approx(bound)


def test_passes_are_counted_and_a_constant_discriminator_is_refused():
    pair = bowl(2)
    draw(DOT(steps=7, pairs=30), pair, 20)
    assert pair.passes == {"generator": 60 + 140, "discriminator": 60 + 140, "backward": 140}
    with pytest.raises(UserError, match="dot can't scale"):
        DOT().prepare(make_pair(Affine(), Function(lambda x: 0 * x[:, 0])))
    with pytest.raises(UserError, match="'sphere', 'published' or 'none'"):
        samplers.choose("dot", {"projection": "plane"})


def test_a_sample_is_the_same_in_every_batch_and_number():
    whole = draw(DOT(steps=5), bowl(3), 40).z
    for batch in (1, 7):
        assert torch.equal(draw(DOT(steps=5), bowl(3), 40, batch).z, whole)
    assert torch.equal(draw(DOT(steps=5), bowl(3), 13).z, whole[:13])
