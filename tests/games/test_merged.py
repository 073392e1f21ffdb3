"""Both players at once: equal to two steps by hand on the losses of the same networks, a pass of G less."""

import copy

import pytest
import torch
from torch.nn.functional import relu
from toys import TINY, PointStream, Score, make_session, mlp, tensors

from fastgan.checked import UserError
from fastgan.config import Adam, Latent, override
from fastgan.engine import LocalEngine
from fastgan.games import AdversarialGame
from fastgan.latent import Prior, Refinement
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset
from fastgan.training.loop import build_session, open_source


def game(steps=0, **options):
    torch.manual_seed(0)
    settings = Latent(dim=3, refine_steps=steps, step_size=0.1)
    refinement = Refinement(settings, "hinge")
    return AdversarialGame(
        mlp(3, 16, 2), Score(2, 16, 1), prior=Prior(3), objective=OBJECTIVES["hinge"], refinement=refinement, **options
    )


def test_a_round_is_two_steps_on_the_losses_of_the_same_networks():
    session = make_session(game(merged=True))
    g, d = copy.deepcopy(session.game.generator), copy.deepcopy(session.game.discriminator)
    engines = [LocalEngine([network], Adam(rate=1e-2), "fp32") for network in (g, d)]
    stream = PointStream(16)
    for number in range(3):
        real = next(stream)["images"]
        (phase, *_) = session.game.phases()
        z = Prior(3)(session._draw(phase, 0, 0))
        session.play_round()
        fake = g(z)
        d_loss = relu(1 - d(real)).mean() + relu(1 + d(fake.detach())).mean()
        g_grads = torch.autograd.grad(-d(fake).mean(), list(g.parameters()))
        d_grads = torch.autograd.grad(d_loss, list(d.parameters()))
        for engine, network, gradients in ((engines[0], g, g_grads), (engines[1], d, d_grads)):
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient
            engine.step()
        assert session.round == number + 1
    for mine, theirs in ((session.game.generator, g), (session.game.discriminator, d)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("steps", "merged", "passes"), [(0, True, 1), (0, False, 2), (1, True, 3), (1, False, 3)])
def test_passes_of_the_generator(steps, merged, passes):
    played, seen = game(steps, merged=merged), []
    played.generator.register_forward_hook(lambda *_: seen.append(1))
    make_session(played).play_round()
    assert len(seen) == passes


def test_micro_batches_are_the_whole_batch():
    whole, cut = make_session(game(merged=True)), make_session(game(merged=True), accumulate=2)
    for session in (whole, cut):
        for _ in range(3):
            session.play_round()
    for name, mine in tensors(whole).items():
        if name.startswith("/game"):
            torch.testing.assert_close(mine, tensors(cut)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [[], ["latent.refine_steps=0", "terms.r1.gamma=1", "terms.r1.every=2", "terms.zcr.weight=5"]]
)
def test_a_run_of_images(fields):
    """Both players move, and what is logged are both plain losses."""
    config = override(preset("digits-sngan-qua"), [*TINY, "training.merged=true", *fields])
    session = build_session(config, open_source(config))
    before = {name: tensor.clone() for name, tensor in session.game.named_parameters()}
    for _ in range(3):
        session.play_round()
    assert {"D/loss", "G/loss", "D/separation"} <= set(session.read_tally())
    assert session.is_finite()
    moved = {name for name, tensor in session.game.named_parameters() if (tensor != before[name]).any()}
    assert {"generator", "discriminator"} == {name.split(".")[0] for name in moved}
    session.stream.close()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (["training.n_dis=2"], "training.n_dis can't be set with it"),
        (["latent.pair=random"], "latent.pair can't be set with it"),
        (["training.generator_batch=2"], "training.generator_batch must be 1"),
    ],
)
def test_what_it_can_not_be_played_with(fields, line):
    with pytest.raises(UserError, match=line):
        override(preset("digits-sngan"), ["training.merged=true", *fields])
