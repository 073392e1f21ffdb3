"""Every objective against formulas written anew in plain float64 Python."""

import math

import pytest
import torch

from fastgan.objectives import OBJECTIVES, Objective


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# name: (D on a real score, D on a generated score, G on a generated score), and their derivatives
FORMULAS = {
    "hinge": (
        (lambda a: max(0.0, 1 - a), lambda a: -1.0 if a < 1 else 0.0),
        (lambda b: max(0.0, 1 + b), lambda b: 1.0 if b > -1 else 0.0),
        (lambda b: -b, lambda b: -1.0),
    ),
    "non-saturating": (
        (lambda a: softplus(-a), lambda a: -sigmoid(-a)),
        (softplus, sigmoid),
        (lambda b: softplus(-b), lambda b: -sigmoid(-b)),
    ),
    "minimax": (
        (lambda a: softplus(-a), lambda a: -sigmoid(-a)),
        (softplus, sigmoid),
        (lambda b: -softplus(b), lambda b: -sigmoid(b)),
    ),
    "wasserstein": ((lambda a: -a, lambda a: -1.0), (lambda b: b, lambda b: 1.0), (lambda b: -b, lambda b: -1.0)),
    "least-squares": (
        (lambda a: (a - 1) ** 2 / 2, lambda a: a - 1),
        (lambda b: b**2 / 2, lambda b: b),
        (lambda b: (b - 1) ** 2 / 2, lambda b: b - 1),
    ),
}
FORMULAS["softplus"] = FORMULAS["non-saturating"]


def test_every_objective_has_a_formula_here():
    assert set(FORMULAS) == set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("shape", [(5,), (3, 1, 2, 2)])
def test_values_and_gradients(name, shape):
    generator = torch.Generator().manual_seed(0)
    real = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    fake = (3 * torch.randn(7, *shape[1:], generator=generator, dtype=torch.float64)).requires_grad_()
    on_real, on_fake, on_mine = FORMULAS[name]

    def mean(function, scores):
        return sum(map(function, scores.flatten().tolist())) / scores.numel()

    loss = OBJECTIVES[name].discriminator(real, fake)
    assert loss.item() == pytest.approx(mean(on_real[0], real) + mean(on_fake[0], fake), rel=1e-12)
    gradients = torch.autograd.grad(loss, (real, fake))
    for found, scores, slope in zip(gradients, (real, fake), (on_real[1], on_fake[1]), strict=True):
        expected = [slope(s) / scores.numel() for s in scores.flatten().tolist()]
        assert found.flatten().tolist() == pytest.approx(expected, rel=1e-10)

    loss = OBJECTIVES[name].generator(None, fake)
    assert loss.item() == pytest.approx(mean(on_mine[0], fake), rel=1e-12)
    (found,) = torch.autograd.grad(loss, fake)
    assert found.flatten().tolist() == pytest.approx([on_mine[1](s) / fake.numel() for s in fake.flatten().tolist()], rel=1e-10)
    assert OBJECTIVES[name].per_score(fake).shape == fake.shape


@pytest.mark.parametrize("name", OBJECTIVES)
def test_extreme_scores_stay_finite(name):
    scores = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    loss = OBJECTIVES[name].discriminator(scores, scores) + OBJECTIVES[name].generator(None, scores)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_logged_with_the_loss(name):
    real, fake = torch.randn(6, 1, 2, 2, requires_grad=True), torch.randn(5, 1, 2, 2, requires_grad=True)
    loss, score_real, score_fake, separation = OBJECTIVES[name].scored(real, fake)
    assert torch.equal(loss, OBJECTIVES[name].discriminator(real, fake))
    assert (score_real.item(), score_fake.item()) == (pytest.approx(real.mean().item()), pytest.approx(fake.mean().item()))
    pairs = [a > b for a in real.flatten() for b in fake.flatten()]
    assert separation.item() == pytest.approx(sum(map(float, pairs)) / len(pairs))
    assert not any(x.requires_grad for x in (score_real, score_fake, separation))


def test_an_objective_of_another_kind_is_two_functions():
    """Relativistic: a loss of pairs, which no kernel has."""
    relativistic = Objective(lambda real, fake: torch.nn.functional.softplus(fake - real).mean(), lambda fake: -fake)
    real, fake = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0.0, 3.0], requires_grad=True)
    loss, score_real, score_fake, separation = relativistic.scored(real, fake)
    assert loss.item() == pytest.approx((softplus(-1) + softplus(1)) / 2)
    assert (score_real.item(), score_fake.item(), separation.item()) == (1.5, 1.5, 0.5)
    assert relativistic.generator(real, fake).item() == -1.5
    loss.backward()
    assert real.grad.isfinite().all()
