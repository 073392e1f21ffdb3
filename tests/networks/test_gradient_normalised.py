import pytest
import torch
from torch import nn
from toys import TINY

from fastgan import games
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.judgement import Judgement
from fastgan.latent import refine
from fastgan.networks.gradient_normalised import GradientNormalised
from fastgan.presets import preset
from fastgan.training.loop import build_session, open_source

FORMS = {
    "gn": lambda score, norm: score / (norm + score.abs()),
    "gran": lambda score, norm: score * norm / (norm**2 + 0.1),
}


def judge():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, 1), nn.Flatten(0)).double()


def by_hand(network, x, form):
    x = x if x.requires_grad else x.detach().requires_grad_()
    score = network(x)
    (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return FORMS[form](score, slope.flatten(1).norm(dim=1))


@pytest.mark.parametrize("form", FORMS)
def test_equals_its_formula_with_all_gradients(form):
    network, x = judge(), torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    wanted = [x, *list(network.parameters())[:3]]
    found, expected = GradientNormalised(network, form)(x), by_hand(network, x, form)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_passes_the_checks_of_first_and_second_order(form):
    """Towards images and weights: what a penalty on such a D, and its refinement, ask for."""
    torch.manual_seed(2)

    class Given(nn.Module):
        def __init__(self, weight, last):
            super().__init__()
            self.forward = lambda x: torch.tanh(x.flatten(1) @ weight) @ last

    def scores(x, weight, last):
        return GradientNormalised(Given(weight, last), form)(x)

    sizes = (2, 3, 2, 1), (6, 2), (2,)
    inputs = [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in sizes]
    assert torch.autograd.gradcheck(scores, inputs)
    assert torch.autograd.gradgradcheck(scores, inputs)


@pytest.mark.parametrize("form", FORMS)
def test_where_score_and_slope_are_zero_nothing_breaks(form):
    network, x = judge(), torch.randn(3, 3, 2, 2, dtype=torch.float64)
    for part in network[3].parameters():
        nn.init.zeros_(part)
    scores = GradientNormalised(network, form)(x)
    assert not scores.any()
    gradients = torch.autograd.grad(scores.sum(), list(network.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("form", FORMS)
def test_without_gradients_it_gives_the_same_scores(form):
    network, x = GradientNormalised(judge(), form), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        found = network(x)
    assert not found.requires_grad
    torch.testing.assert_close(found, network(x).detach(), rtol=1e-12, atol=0)


def test_the_rest_of_a_judgement_stays():
    class Talkative(nn.Module):
        def forward(self, x):
            return Judgement(score=x.square().flatten(1).sum(1), features=x.flatten(1))

    x = torch.randn(3, 4)
    judged = GradientNormalised(Talkative(), "gn")(x)
    assert torch.equal(judged.features, x)
    square, norm = x.square().sum(1), 2 * x.norm(dim=1)
    torch.testing.assert_close(judged.score, square / (norm + square))


def test_maps_of_scores_are_refused():
    with pytest.raises(ValueError, match=r"one score an image, not a map of \(1, 4, 4\)"):
        GradientNormalised(nn.Conv2d(3, 1, 1), "gn")(torch.randn(2, 3, 4, 4))


def test_refinement_sees_the_normalised_score():
    network, generator = GradientNormalised(judge(), "gn"), nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 2, 2))).double()
    z = torch.randn(6, 4, dtype=torch.float64)
    refined = refine(generator, network, z, steps=1, step_size=0.1)
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-by_hand(network.network, generator(leaf), "gn").sum(), leaf)
    torch.testing.assert_close(refined, z - 0.1 * slope.sign())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["digits-sngan-qua", "digits-cdcgan-qua"])
def test_rounds_move_both_players(name, form):
    config = override(preset(name), [*TINY, f"network.gradient_norm={form}"])
    session = build_session(config, open_source(config))
    before = {key: tensor.clone() for key, tensor in session.game.named_parameters()}
    for _ in range(2):
        session.play_round()
    session.stream.close()
    assert session.is_finite()
    assert not any(torch.equal(tensor, before[key]) for key, tensor in session.game.named_parameters())


def test_inference_mode_and_no_grad_give_scores_without_a_graph():
    class Talkative(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            features = self.layer(x).tanh()
            return Judgement(score=features.sum(1), features=features)

    network, x = GradientNormalised(Talkative(), "gn"), torch.randn(2, 4)
    expected = network(x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = network(x.clone())
        assert not found.score.requires_grad
        assert not found.features.requires_grad
        torch.testing.assert_close(found.score, expected.score.detach())


def test_a_penalty_on_top_needs_a_discriminator_without_batch_norm():
    fields = ["network.width=2", "network.gradient_norm=gn", "terms.r1.gamma=1"]
    with pytest.raises(UserError, match="differentiate three times"):
        games.build(override(preset("digits-sngan"), [*fields, "network.family=dcgan-cnn"]))
    games.build(override(preset("digits-sngan"), fields))
