"""f-GAN's conjugates against their definition, and what is done about exponentials."""

import math

import numpy as np
import pytest
import torch

from fastgan.objectives import OBJECTIVES, FGan, chosen


def alpha(a):
    return lambda u: (u**a - 1 - a * (u - 1)) / (a * (a - 1))


DIVERGENCES = {  # f of the ratio u of densities
    ("f-gan-kl", ()): lambda u: u * np.log(u),
    ("f-gan-reverse-kl", ()): lambda u: -np.log(u),
    ("f-gan-js", ()): lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2),
    ("f-gan-pearson", ()): lambda u: (u - 1) ** 2,
    ("f-gan-hellinger", ()): lambda u: (np.sqrt(u) - 1) ** 2,
    ("f-gan-total-variation", ()): lambda u: np.abs(u - 1) / 2,
    **{("f-gan-alpha", (("alpha", a),)): alpha(a) for a in (-2, -0.5, 0.3, 0.5, 0.8, 1.5, 2, 4)},
}
BY_DIVERGENCE = pytest.mark.parametrize(("name", "options"), DIVERGENCES)


def test_every_divergence_is_here():
    assert {name for name, _ in DIVERGENCES} == {name for name, objective in OBJECTIVES.items() if isinstance(objective, FGan)}


@BY_DIVERGENCE
def test_the_conjugate_is_the_supremum(name, options):
    """f*(g(v)) = sup_u ( u g(v) - f(u) ), u > 0: no u comes above it, and the best of many comes close."""
    f, objective = DIVERGENCES[name, options], chosen(name, dict(options))
    u = np.concatenate([np.logspace(-16, 12, 100_001), [1.0]])
    for v in np.linspace(-3, 3, 7):
        score = torch.tensor(v, dtype=torch.float64)
        t, found = objective.activation(score).item(), objective.conjugate_of_activation(score).item()
        best = (u * t - f(u)).max()
        assert best <= found + 1e-9 * (1 + abs(found))
        assert best == pytest.approx(found, rel=1e-4, abs=1e-4)


@BY_DIVERGENCE
def test_the_bound_is_tight_where_d_is_best(name, options):
    """D's loss is least for the score v with g(v) = f'(u) at each ratio u: for densities of ratio u it gives minus f(u) (times
    the generated density)."""
    f, objective = DIVERGENCES[name, options], chosen(name, dict(options))
    scores = torch.linspace(-60, 60, 120_001, dtype=torch.float64)
    for u in (0.3, 0.9, 2.0, 5.0):
        losses = objective.conjugate_of_activation(scores) - u * objective.activation(scores)
        assert losses.min().item() == pytest.approx(-float(f(u)), rel=1e-5, abs=1e-5)


@BY_DIVERGENCE
def test_a_higher_score_is_more_real_to_both_players(name, options):
    scores = torch.linspace(-1.9, 8, 100, dtype=torch.float64)
    objective = chosen(name, dict(options))
    if dict(options).get("alpha", 0) > 1:
        scores = scores[scores > -1 / (options[0][1] - 1)]
    assert (objective.activation(scores).diff() > 0).all()
    assert (objective.conjugate_of_activation(scores).diff() > 0).all()


@BY_DIVERGENCE
def test_wild_scores_cost_finite_losses(name, options):
    scores = torch.tensor([-1e4, -90.0, -20.0, 20.0, 90.0, 1e4], requires_grad=True)
    objective = chosen(name, dict(options))
    loss = objective.discriminator(scores, scores) + objective.generator(None, scores)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_an_exponential_goes_on_along_its_tangent():
    kl = OBJECTIVES["f-gan-kl"]
    v = torch.tensor([31.0, 33.0], dtype=torch.float64, requires_grad=True)
    found = kl.conjugate_of_activation(v)
    assert found.tolist() == pytest.approx([math.exp(30), 3 * math.exp(30)])
    found.sum().backward()
    assert v.grad.tolist() == pytest.approx([math.exp(30)] * 2)
