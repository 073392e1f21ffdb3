"""What every term of the table keeps to: lazy phases, pairs, what its settings say of it. New terms enter by themselves."""

from dataclasses import replace

import pytest
import torch
from scenes import Critic, Maker
from torch import nn
from toys import PointStream, make_session, tensors

from fastgan.config import Adam, Config, Latent, override
from fastgan.draw import Draw
from fastgan.engine import LocalEngine
from fastgan.games import AdversarialGame
from fastgan.judgement import View, judge
from fastgan.latent import Pairing, Prior
from fastgan.objectives import OBJECTIVES
from fastgan.terms import TERMS, Imagined, Scene, Term, TopK

LAZY = [name for name, term in TERMS.items() if term is not TopK]
SETTINGS = {"lecam": {"one_sided": False}}
CLASSES = 3


class Double(nn.Module):
    """The prior's float32 latents for a G in float64."""

    def __init__(self):
        super().__init__()
        self.made = Maker(CLASSES)

    def forward(self, z, labels):
        return self.made(z.double(), labels)


def game(name=None, every=1, pairs=False, **settings):
    terms = {} if name is None else {name: TERMS[name](every=every, **SETTINGS.get(name, {}), **settings)}
    played = AdversarialGame(
        Double(),
        Critic(classes=CLASSES),
        prior=Prior(5),
        objective=OBJECTIVES["hinge"],
        terms=terms,
        pairing=Pairing(Latent(dim=5, pair="random")) if pairs else None,
        classes=CLASSES,
    )
    for memory in played.memory.values():
        memory.write({key: torch.tensor(0.3 + i) for i, key in enumerate(memory.read())})
    return played


def batch():
    torch.manual_seed(5)
    return {"images": torch.rand(4, 3, 7, 6, dtype=torch.float64) * 2 - 1, "labels": torch.tensor([0, 2, 1, 0])}


def draw(purpose):
    return Draw(3, purpose, 6, torch.arange(4))


def phases_of(player):
    return ("D", "discriminator_loss") if player == "discriminator" else ("G", "generator_loss")


@pytest.mark.parametrize("name", LAZY)
def test_now_and_then_it_weighs_as_much(name):
    """A phase of its own with n times the loss, of the same views: what it adds in each round, n times."""
    player = TERMS[name]().player
    purpose, loss = phases_of(player)
    lazy = game(name, every=5)
    (phase,) = [phase for phase in lazy.phases() if phase.every == 5]
    assert (phase.player, phase.times, phase.fresh) == (player, 1, False)
    found, logged = phase.loss(batch(), draw(purpose))
    always, plain = (getattr(played, loss)(batch(), draw(purpose))[0] for played in (game(name), game()))
    torch.testing.assert_close(found.double(), 5 * (always - plain).double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(5 * logged["loss"], found.detach())
    assert found != 0
    beside, _ = getattr(lazy, loss)(batch(), draw(purpose))
    assert beside == plain  # the player's own phase goes without


@pytest.mark.parametrize("name", LAZY)
def test_now_and_then_the_optimiser_is_corrected(name):
    """n / (n + 1) of the rate, betas to that power; the other player's are its own."""
    played, settings = game(name, every=16), Adam(rate=1e-3, betas=(0.5, 0.99))
    for player in played.players:
        engine = LocalEngine(played.networks_of(player), settings, "fp32", played.main_share(player))
        share = 16 / 17 if player == TERMS[name]().player else 1
        (group,) = engine.optimiser.param_groups
        assert group["lr"] == pytest.approx(1e-3 * share)
        assert group["betas"] == pytest.approx((0.5**share, 0.99**share))


@pytest.mark.parametrize("name", TERMS)
def test_in_a_game_of_pairs_it_counts_as_it_says(name):
    """Terms of real images twice, of generated ones for each half, of the pair once; top-k chooses in each half."""
    term = TERMS[name](**SETTINGS.get(name, {}))
    purpose, loss = phases_of(term.player)
    given = draw(purpose)
    networks = game()

    def half(of, partner=None):
        z, labels = Prior(5)(given, of), given.integers("labels", CLASSES)
        number = given if of == "latent" else replace(given, purpose=f"{purpose}/partner")
        images = networks.generator(z, labels)
        memory = {n: m.read() for n, m in game(name).memory.items()}
        more = {"partner": partner, "memory": memory, "networks": networks.networks_of(term.player)}
        return Scene(
            batch()["images"], batch()["labels"], lambda: Imagined(z, labels, images), networks.generator, number, **more
        )

    second = half("partner")
    first = half("latent", second)

    def of(scene):
        own = {"real": View(scene.real, scene.real_labels), "fake": View(scene.fake.images, scene.fake.labels)}
        return term.loss(scene, judge(networks.discriminator, own | term.views(scene)))

    counted = {
        "real": lambda: 2 * of(first),
        "generated": lambda: of(first) + of(second),
        "pair": lambda: of(first),
    }[term.looks_at]()
    if name == "top_k":  # adds nothing, but the mean is of fewer
        scores = [networks.discriminator(scene.fake.images, scene.fake.labels) for scene in (first, second)]
        counted = sum(s.mean() - term.chosen(scene, s).mean() for s, scene in zip(scores, (first, second), strict=True))
    found = []
    for played in (game(name, pairs=True), game(pairs=True)):
        if term.player == "generator":
            played.discriminator_loss(batch(), draw("G"))  # draws the pairs that G's phase takes
        found.append(getattr(played, loss)(batch(), given)[0])
    torch.testing.assert_close((found[0] - found[1]).double(), counted.double(), rtol=1e-6, atol=1e-9)
    assert counted != 0


@pytest.mark.parametrize("name", TERMS)
def test_settings_are_checked_and_survive_the_file(name):
    config = override(Config(), [f"terms.{name}.every=1"])
    assert config.terms == {name: TERMS[name]()}
    assert isinstance(config.terms[name], Term)


@pytest.mark.parametrize("name", TERMS)
def test_no_term_is_refused_over_ranks(name):
    term = TERMS[name]()
    assert term.spans_ranks or not term.couples


@pytest.mark.parametrize("name", LAZY)
def test_lazy_rounds_are_played(name):
    """Three rounds of which two have the lazy phase; the weights of its player move in it."""
    played = game(name, every=2)

    class Images(PointStream):
        def __next__(self):
            self.seen += self.batch_size
            return batch()

    session = make_session(played, stream=Images, batch_size=4)
    for _ in range(3):
        session.play_round()
    assert session.is_finite()
    assert session.tally[f"{'D' if TERMS[name]().player == 'discriminator' else 'G'}reg2/loss"][1] == 2
    assert all(x.isfinite().all() for x in tensors(session).values() if x.is_floating_point())
