"""The ordinary game: what its phases compute, draw, and leave alone."""

import copy

import pytest
import ranks
import torch
from pydantic.dataclasses import dataclass
from torch import nn
from torch.nn.functional import one_hot, softplus
from toys import PointStream, Score, make_session, mlp, tensors

from fastgan.checked import CHECKED
from fastgan.config import Adam, Latent, override
from fastgan.draw import Draw
from fastgan.games import AdversarialGame
from fastgan.latent import Prior, Refinement, refine
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset
from fastgan.terms import R1, Term, WganGP


def game(objective="hinge", normalised=False, latent=None, **options):
    torch.manual_seed(0)
    generator = mlp(3, 16, 2)
    if normalised:
        generator.insert(1, nn.BatchNorm1d(16))
    settings = latent or Latent(dim=3)
    return AdversarialGame(
        generator,
        Score(2, 16, 1),
        prior=Prior(3),
        objective=OBJECTIVES[objective],
        refinement=Refinement(settings, objective),
        **options,
    )


QUA = Latent(dim=3, refine_steps=2, step_size=0.05)


def draw(turn=0, rows=8, purpose="D"):
    return Draw(0, purpose, 4, torch.arange(rows), turn)


@pytest.mark.parametrize("objective", [name for name, objective in OBJECTIVES.items() if not objective.needs])
@pytest.mark.parametrize("gamma", [None, 0.5])
def test_the_discriminators_loss(objective, gamma):
    """D's loss on images of refined latents, with R1, against the formula put together by hand."""
    terms = {} if gamma is None else {"r1": R1(gamma=gamma)}
    played = game(objective, latent=QUA, terms=terms)
    real = torch.randn(8, 2)
    loss, statistics = played.discriminator_loss({"images": real}, draw())

    z = refine(played.generator, played.discriminator, draw().normal("latent", 3), steps=2, step_size=0.05, objective=objective)
    expected = OBJECTIVES[objective].discriminator(played.discriminator(real), played.discriminator(played.generator(z)))
    if gamma is not None:
        x = real.clone().requires_grad_()
        (slope,) = torch.autograd.grad(played.discriminator(x).sum(), x, create_graph=True)
        expected = expected + gamma / 2 * slope.square().sum(1).mean()
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(
        torch.autograd.grad(loss, played.discriminator.parameters(), retain_graph=True),
        torch.autograd.grad(expected, played.discriminator.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    assert statistics["score_real"].item() == pytest.approx(played.discriminator(real).mean().item(), abs=1e-6)
    assert loss.grad_fn is not None
    assert all(p.grad is None for p in played.generator.parameters())


@pytest.mark.parametrize(("terms", "sizes"), [({}, [16]), ({"r1": R1()}, [8, 8])])
def test_real_images_are_judged_once(terms, sizes):
    played, seen = game(terms=terms), []
    played.discriminator.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    played.discriminator_loss({"images": torch.randn(8, 2)}, draw())
    assert seen == sizes


def test_the_generators_step_uses_plain_latents_and_its_own_batch():
    played = game(latent=QUA, generator_batch=2)
    loss, _ = played.generator_loss({"images": torch.zeros(8, 2)}, draw(purpose="G"))
    z = draw(purpose="G").times(2).normal("latent", 3)
    assert len(z) == 16
    torch.testing.assert_close(loss, -played.discriminator(played.generator(z)).mean())


def test_separation_is_the_share_of_rightly_ordered_pairs():
    played = game()
    real = torch.randn(8, 2)
    _, statistics = played.discriminator_loss({"images": real}, draw())
    fake = played.generator(draw().normal("latent", 3))
    pairs = [a > b for a in played.discriminator(real) for b in played.discriminator(fake)]
    assert statistics["separation"].item() == pytest.approx(sum(map(float, pairs)) / 64)


def test_each_turn_draws_fresh_latents_unless_they_are_reused():
    for reuse in (False, True):
        played = game(latent=QUA, n_dis=2, reuse_latents=reuse)
        scenes = [played._scenes("discriminator", {"images": torch.zeros(8, 2)}, draw(turn))[0] for turn in (0, 1)]
        assert torch.equal(scenes[0].fake.z, scenes[1].fake.z) is reuse


def test_a_phase_moves_its_own_player_alone():
    """Weights, buffers and gradients of the other player are untouched, batch statistics included."""
    session = make_session(game(normalised=True, latent=QUA, terms={"r1": R1(every=2)}, n_dis=2))
    moved = {}
    for player, engine in session.engines.items():
        step = engine.step

        def watch(measured, player=player, step=step):
            before = copy.deepcopy(session.game.state_dict())
            session.game.load_state_dict(before)
            step(measured)
            changed = {name for name, t in session.game.state_dict().items() if not torch.equal(t, before[name])}
            moved.setdefault(player, set()).update(name.split(".")[0] for name in changed)

        engine.step = watch
    start = copy.deepcopy(session.game.generator.state_dict())
    session.play_round()
    assert moved == {"discriminator": {"discriminator"}, "generator": {"generator"}}
    # one pass of the generator's own phase, however often the others asked it
    assert session.game.generator.state_dict()["1.num_batches_tracked"] == start["1.num_batches_tracked"] + 1
    assert all(p.grad is None for p in session.game.parameters())
    assert all(p.requires_grad for p in session.game.parameters())


def test_no_gradient_is_computed_to_be_thrown_away():
    """In the generator's phase and in refinement the discriminator's weights get none, and the other way round."""
    played = game(latent=QUA)
    with played.turn("generator"):
        loss, _ = played.generator_loss({"images": torch.zeros(8, 2)}, draw())
        loss.backward()
    assert all(p.grad is None for p in played.discriminator.parameters())
    assert all(p.grad is not None for p in played.generator.parameters())
    with played.turn("discriminator"):
        loss, _ = played.discriminator_loss({"images": torch.zeros(8, 2)}, draw())
        found = []
        for parameter in played.generator.parameters():
            found.append(parameter.requires_grad)
    assert not any(found)


def test_a_lazy_term_has_its_own_phase_and_weight():
    played = game(terms={"r1": R1(gamma=0.5, every=4)})
    phases = {phase.name: phase for phase in played.phases()}
    assert list(phases) == ["D", "Dreg4", "G"]
    assert phases["Dreg4"].every == 4
    assert (played.main_share("discriminator"), played.main_share("generator")) == (4 / 5, 1)
    assert game(terms={"r1": R1(every=16)}, n_dis=5).main_share("discriminator") == pytest.approx(80 / 81)
    batch = {"images": torch.randn(8, 2)}
    lazy, statistics = phases["Dreg4"].loss(batch, draw())
    eager, _ = game(terms={"r1": R1(gamma=0.5)}).discriminator_loss(batch, draw())
    plain, _ = game().discriminator_loss(batch, draw())
    torch.testing.assert_close(lazy, 4 * (eager - plain))
    torch.testing.assert_close(statistics["loss"], eager - plain)

    session = make_session(game(terms={"r1": R1(every=4)}))
    for _ in range(8):
        session.play_round()
    assert session.tally["Dreg4/loss"][1] == 2
    assert session.tally["D/loss"][1] == 8


def test_a_phase_pays_for_what_it_uses():
    """Forwards of (G, D): refinement costs K of each; a lazy R1 asks D once, about the real images."""
    played = game(latent=QUA, terms={"r1": R1(every=4)})
    calls = []
    played.generator.register_forward_hook(lambda *_: calls.append("G"))
    played.discriminator.register_forward_hook(lambda *_: calls.append("D"))
    for phase, expected in zip(played.phases(), ((3, 3), (0, 1), (1, 1)), strict=True):
        calls.clear()
        phase.loss({"images": torch.zeros(8, 2)}, draw())
        assert (calls.count("G"), calls.count("D")) == expected, phase.name


@dataclass(frozen=True, config=CHECKED)
class Far(Term):
    """Pushes images away from 0: a term of the generator's."""

    @property
    def player(self):
        return "generator"

    def loss(self, scene, judged):
        return -0.1 * scene.fake.images.square().mean()


@pytest.mark.parametrize("every", [1, 2])
def test_a_generators_term(every):
    played = game(terms={"far": Far(every=every)})
    phase = played.phases()[-1]
    assert (phase.name, phase.player) == (("G", "generator") if every == 1 else ("Greg2", "generator"))
    loss, _ = phase.loss({"images": torch.zeros(8, 2)}, draw())
    x = played.generator(draw().normal("latent", 3))
    far = -0.1 * x.square().mean()
    torch.testing.assert_close(loss, far - played.discriminator(x).mean() if every == 1 else 2 * far)
    session = make_session(game(terms={"far": Far(every=every)}))
    session.play_round()


@pytest.mark.parametrize("terms", [{}, {"r1": R1(gamma=0.3)}])
def test_accumulated_micro_batches_equal_one_batch(terms):
    """fp32, no batch statistics: the same latents and images are drawn, only the order of sums differs."""
    whole = make_session(game("non-saturating", latent=QUA, terms=terms, n_dis=2), batch_size=16)
    parts = make_session(game("non-saturating", latent=QUA, terms=terms, n_dis=2), batch_size=16, accumulate=4)
    for _ in range(5):
        whole.play_round()
        parts.play_round()
    assert whole.images == parts.images == 5 * 2 * 16
    found = tensors(parts)
    for path, tensor in tensors(whole).items():
        if "/game/" in path:
            torch.testing.assert_close(found[path], tensor, rtol=1e-5, atol=1e-6)
    first, second = whole.read_tally(), parts.read_tally()
    assert {n: v for n, v in first.items() if n != "D/separation"} == pytest.approx(
        {n: v for n, v in second.items() if n != "D/separation"}, rel=1e-4, abs=1e-5
    )


def played_biggan(accumulate, statistics):
    """Weights of a small BigGAN after five rounds with refinement and R1, attention and every bias at work from the start."""
    settings = [*ranks.SMALL, *ranks.BIGGAN, *ranks.R1, *ranks.WEAK, f"training.accumulate={accumulate}"]
    session = ranks.session(override(preset("digits-sngan-qua"), settings))
    session.game.generator.train(statistics == "of the batch")
    torch.manual_seed(0)
    for name, parameter in session.game.named_parameters():
        if name.endswith(("bias", "gamma")):
            nn.init.normal_(parameter, std=0.1)
    for _ in range(ranks.ROUNDS):
        session.play_round()
    return {name: parameter.detach() for name, parameter in session.game.named_parameters()}


def test_accumulated_micro_batches_of_a_biggan_equal_one_batch():
    """Where G normalises by given statistics; those of a batch are each micro-batch's own, and there the parts differ."""

    def apart(statistics):
        whole, parts = (played_biggan(accumulate, statistics) for accumulate in (1, 2))
        return {name: ((parts[name] - value).norm() / value.norm()).item() for name, value in whole.items()}

    assert max(apart("given").values()) <= 1e-5
    assert max(apart("of the batch").values()) > 1e-3


class Labelled(nn.Module):
    """An MLP whose first inputs are a class, one-hot."""

    def __init__(self, *sizes, score=False):
        super().__init__()
        self.body, self.score = mlp(*sizes), score

    def forward(self, x, labels):
        x = self.body(torch.cat([one_hot(labels, 4).to(x.dtype), x], dim=1))
        return x.squeeze(1) if self.score else x


def conditional_game(**options):
    torch.manual_seed(0)
    settings = Latent(dim=3, refine_steps=2, step_size=0.05)
    return AdversarialGame(
        Labelled(7, 16, 2),
        Labelled(6, 16, 1, score=True),
        prior=Prior(3),
        objective=OBJECTIVES["non-saturating"],
        refinement=Refinement(settings, "non-saturating"),
        classes=4,
        **options,
    )


def test_a_conditional_games_discriminator_loss():
    """Labels of the batch for real images, uniform ones for generated images and their refinement, with both penalties."""
    played = conditional_game(terms={"r1": R1(gamma=0.3), "wgan_gp": WganGP(weight=0.2)})
    g, d = played.generator, played.discriminator
    real, labels = torch.randn(8, 2), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    loss, _ = played.discriminator_loss({"images": real, "labels": labels}, draw())

    drawn = (4 * draw().uniform("labels")).floor().long()
    assert drawn.unique().numel() > 1
    assert not torch.equal(drawn, labels)
    z = draw().normal("latent", 3).requires_grad_()
    for _ in range(2):
        (slope,) = torch.autograd.grad(softplus(-d(g(z, drawn), drawn)).sum(), z)
        z = (z - 0.05 * slope.sign()).detach().requires_grad_()
    fake = g(z, drawn).detach()
    expected = softplus(-d(real, labels)).mean() + softplus(d(fake, drawn)).mean()
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(d(x, labels).sum(), x, create_graph=True)
    expected = expected + 0.3 / 2 * slope.square().sum(1).mean()
    e = draw().uniform("wgan-gp", 1)
    between = (e * real + (1 - e) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(d(between, labels).sum(), between, create_graph=True)
    expected = expected + 0.2 * (slope.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(
        torch.autograd.grad(loss, d.parameters(), retain_graph=True), torch.autograd.grad(expected, d.parameters()), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_a_conditional_games_generator_loss():
    played = conditional_game(generator_batch=2)
    loss, _ = played.generator_loss({"images": torch.zeros(8, 2), "labels": torch.zeros(8).long()}, draw(purpose="G"))
    twice = draw(purpose="G").times(2)
    labels = (4 * twice.uniform("labels")).floor().long()
    assert len(labels) == 16
    scores = played.discriminator(played.generator(twice.normal("latent", 3), labels), labels)
    torch.testing.assert_close(loss, softplus(-scores).mean())


def test_a_scene_has_its_labels_and_reused_latents_keep_theirs():
    played = conditional_game(n_dis=2, reuse_latents=True)
    batches = [{"images": torch.randn(8, 2), "labels": torch.full((8,), label)} for label in (1, 2)]
    first, second = (played._scenes("discriminator", batch, draw(turn))[0] for turn, batch in enumerate(batches))
    assert torch.equal(first.real_labels, batches[0]["labels"])
    assert torch.equal(second.real_labels, batches[1]["labels"])
    assert first.fake.labels is second.fake.labels
    torch.testing.assert_close(second.generate(second.fake.z, second.fake.labels), second.fake.images)
    fresh = [conditional_game()._scenes("discriminator", batches[0], draw(turn))[0].fake.labels for turn in (0, 1)]
    assert not torch.equal(*fresh)


def test_an_unconditional_game_ignores_labels():
    batch = {"images": torch.zeros(8, 2), "labels": torch.zeros(8).long()}
    (scene,) = game()._scenes("discriminator", batch, draw())
    assert scene.real_labels is scene.fake.labels is None


def test_the_game_learns_a_circle():
    torch.manual_seed(0)
    played = AdversarialGame(
        mlp(2, 64, 64, 2),
        Score(2, 64, 64, 1),
        prior=Prior(2),
        objective=OBJECTIVES["non-saturating"],
        refinement=Refinement(Latent(dim=2, refine_steps=1, step_size=0.01), "non-saturating"),
        terms={"r1": R1(gamma=0.1)},
    )
    session = make_session(played, PointStream, batch_size=128, half_life=1000.0)
    for engine in session.engines.values():
        engine.settings = Adam(rate=1e-3)
    for _ in range(800):
        session.play_round()
    points = session.average.networks["generator"](torch.randn(2000, 2))
    radius = points.norm(dim=1)
    assert ((radius - 1).abs() < 0.15).float().mean() > 0.7
    angles = torch.atan2(points[:, 1], points[:, 0]).histc(8, -3.1416, 3.1416) / 2000
    assert angles.min() > 0.04
