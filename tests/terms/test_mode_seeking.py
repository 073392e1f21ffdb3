"""The mode-seeking term, in the game that plays it."""

import pytest
import torch
from torch import nn
from toys import Score, make_session, mlp, tensors

from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.draw import Draw
from fastgan.games import AdversarialGame
from fastgan.latent import Prior
from fastgan.objectives import OBJECTIVES
from fastgan.terms import ModeSeeking


class Labelled(nn.Module):
    """A generator that notes the labels that it was given."""

    def __init__(self):
        super().__init__()
        self.body, self.seen = mlp(4, 16, 2), []

    def forward(self, z, labels):
        self.seen.append(labels)
        return self.body(torch.cat([z, labels[:, None].float()], dim=1))


class Told(Score):
    def forward(self, x, labels):
        return super().forward(x) + labels


def game(*terms, prior=None, generator=None, **options):
    torch.manual_seed(0)
    return AdversarialGame(
        generator or mlp(3, 16, 2),
        Told(2, 16, 1) if generator else Score(2, 16, 1),
        prior=prior or Prior(3),
        objective=OBJECTIVES["hinge"],
        terms=dict(zip("ab", terms, strict=False)),
        **options,
    )


def draw(rows=8):
    return Draw(0, "G", 4, torch.arange(rows))


def batch(size=8):
    return {"images": torch.randn(size, 2), "labels": torch.arange(size) % 5}


def test_it_is_added_to_the_generators_loss():
    """MSGAN's formula with both passes of G in its graph; D gets nothing."""
    played = game(ModeSeeking(weight=3.0))
    loss, _ = played.generator_loss(batch(), draw())
    z1, z2 = draw().normal("latent", 3), draw().normal("mode-seeking", 3)
    x1, x2 = played.generator(z1), played.generator(z2)
    assert not torch.equal(z1, z2)
    term = 3 / ((x2 - x1).abs().mean() / (z2 - z1).abs().mean() + 1e-5)
    expected = -played.discriminator(x1).mean() + term
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(
        torch.autograd.grad(loss, played.generator.parameters()),
        torch.autograd.grad(expected, played.generator.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    plain, _ = game().discriminator_loss(batch(), draw())
    assert plain.shape == ()  # and D's phase plays without it
    assert ModeSeeking().player == "generator"


def test_both_images_have_the_same_labels():
    played = game(ModeSeeking(), generator=Labelled(), classes=5)
    played.generator_loss(batch(), draw())
    first, second = played.generator.seen
    assert torch.equal(first, second)
    assert first.unique().numel() > 1


@pytest.mark.parametrize("factor", [1, 2])
def test_the_second_latents_are_the_priors_too(factor):
    """Drawn from the game's own prior, by row, and as many as the generator's batch has."""
    played, seen = game(ModeSeeking(), prior=Prior(3, "uniform"), generator_batch=factor), []
    played.generator.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    played.generator_loss(batch(), draw())
    assert [len(z) for z in seen] == [8 * factor] * 2
    assert seen[1].abs().max() <= 1
    assert torch.equal(seen[1], Prior(3, "uniform")(draw().times(factor), "mode-seeking"))


def test_a_collapsed_generator_has_the_largest_loss_and_no_broken_gradient():
    played = game(ModeSeeking(weight=0.5))
    with torch.no_grad():
        played.generator[0].weight.zero_()
    loss, _ = played.generator_loss(batch(), draw())
    plain, _ = game_with(played).generator_loss(batch(), draw())
    assert (loss - plain).item() == pytest.approx(0.5e5)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, played.generator.parameters()))


def game_with(played):
    plain = game()
    plain.load_state_dict(played.state_dict())
    return plain


def test_applied_now_and_then_it_has_a_phase_of_its_own():
    played = game(ModeSeeking(every=4))
    phase = next(phase for phase in played.phases() if phase.every == 4)
    assert phase.player == "generator"
    loss, _ = phase.loss(batch(), draw())
    always, _ = game(ModeSeeking()).generator_loss(batch(), draw())
    plain, _ = game().generator_loss(batch(), draw())
    torch.testing.assert_close(loss, 4 * (always - plain), rtol=1e-4, atol=1e-5)


def test_a_game_with_it_is_played():
    session = make_session(game(ModeSeeking()))
    before = tensors(session)
    for _ in range(3):
        session.play_round()
    after = tensors(session)
    assert all(x.isfinite().all() for x in after.values() if x.is_floating_point())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_it_refuses_micro_batches_and_wrong_weights():
    assert override(Config(), ["terms.mode_seeking.weight=2"]).terms == {"mode_seeking": ModeSeeking(weight=2.0)}
    with pytest.raises(UserError, match=r"mode_seeking couples the samples of a batch, so training.accumulate must be 1"):
        override(Config(), ["terms.mode_seeking.weight=2", "training.accumulate=2"])
    with pytest.raises(UserError, match="weight"):
        override(Config(), ["terms.mode_seeking.weight=-1"])
