"""A game of pairs (AdvLatGAN-div, MSGAN): both players' losses and gradients against the formulas, in float64."""

import copy
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot, relu, softplus
from torch.utils._python_dispatch import TorchDispatchMode
from toys import TINY, PointStream, Score, make_session, mlp, saved, tensors

from fastgan.checked import UserError
from fastgan.config import Config, Latent, override
from fastgan.draw import Draw
from fastgan.engine import Ranks
from fastgan.games import AdversarialGame
from fastgan.latent import Pairing, Prior, Refinement
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset
from fastgan.terms import R1, BalancedConsistency, LatentConsistency, LatentDiversity, ModeSeeking, WganGP
from fastgan.training.loop import build_session, check_shares, open_source

D_LOSS = {
    "hinge": lambda a, b: relu(1 - a).mean() + relu(1 + b).mean(),
    "non-saturating": lambda a, b: softplus(-a).mean() + softplus(b).mean(),
    "wasserstein": lambda a, b: b.mean() - a.mean(),
    "least-squares": lambda a, b: (a - 1).square().mean() / 2 + b.square().mean() / 2,
}
G_LOSS = {
    "hinge": lambda b: -b.mean(),
    "non-saturating": lambda b: softplus(-b).mean(),
    "wasserstein": lambda b: -b.mean(),
    "least-squares": lambda b: (b - 1).square().mean() / 2,
}
HARD = {"pair": "hard", "pair_distance": 0.3, "pair_step_size": 0.05}
"""Larger than published, so that a mined latent is far from one that is not."""
CLASSES = 4


@dataclass(frozen=True)
class Double(Prior):
    def __call__(self, draw, name="latent"):
        return super().__call__(draw, name).double()


class Labelled(nn.Module):
    """Hears its labels one-hot; one score for each input where `score`."""

    def __init__(self, sizes, score=False, normalised=False):
        super().__init__()
        self.body, self.score = mlp(sizes[0] + CLASSES, *sizes[1:]), score
        if normalised:
            self.body.insert(1, nn.BatchNorm1d(sizes[1]))

    def forward(self, x, labels=None):
        heard = torch.zeros(len(x), CLASSES) if labels is None else one_hot(labels, CLASSES)
        x = self.body(torch.cat([heard.to(x.dtype), x], 1))
        return x.squeeze(1) if self.score else x


def game(objective="hinge", latent=None, classes=0, normalised=False, prior=Double, **options):
    torch.manual_seed(0)
    settings = Latent(dim=3, **(HARD if latent is None else latent))
    return AdversarialGame(
        Labelled((3, 16, 2), normalised=normalised),
        Labelled((2, 16, 1), score=True, normalised=normalised),
        prior=prior(3),
        objective=OBJECTIVES[objective],
        refinement=Refinement(settings, objective),
        pairing=Pairing(settings),
        classes=classes,
        **options,
    ).double()


def draw(purpose="D", turn=0, rows=8, part=0):
    return Draw(0, purpose, 4, torch.arange(rows), turn, part)


def batch(seed=0, rows=8):
    torch.manual_seed(seed)
    return {"images": torch.randn(rows, 2, dtype=torch.float64), "labels": torch.arange(rows) % CLASSES}


def fresh(network):
    """A twin for one pass, whose buffers may move."""
    return copy.deepcopy(network)


def labels_of(played, source):
    return (CLASSES * source.uniform("labels")).floor().long() if played.classes else None


def pair_of(played, source, distance=0.3, steps=3, step_size=0.05):
    """z1, and its hard partner by the definition."""
    z1, y = source.normal("latent", 3).double(), labels_of(played, source)
    x1 = fresh(played.generator)(z1, y)
    z2 = z1 + distance * source.normal("partner", 3).double()
    for _ in range(steps):
        z2 = z2.detach().requires_grad_()
        ratio = (fresh(played.generator)(z2, y) - x1).abs().mean() / ((z2 - z1).abs().mean() + 1)
        z2 = z2 - step_size * torch.autograd.grad(ratio, z2)[0].sign()
    return z1, z2.detach(), y


def same_loss_and_gradients(loss, expected, network):
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(
        *(torch.autograd.grad(value, network.parameters(), retain_graph=True, allow_unused=True) for value in (loss, expected)),
        strict=True,
    ):
        if wanted is not None or found is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


TERMS = {
    "none": {},
    "r1": {"r1": R1(gamma=0.7)},
    "wgan-gp": {"wgan_gp": WganGP(weight=3.0)},
    "zcr": {"zcr": LatentConsistency(weight=5.0, noise=0.2)},
    "all": {"r1": R1(gamma=0.7), "wgan_gp": WganGP(weight=3.0), "zcr": LatentConsistency(weight=5.0, noise=0.2)},
}


def full_loss(played, objective, half, real, real_labels, z, y):
    """D's whole loss on (x, G(z)), as a game without pairs has it; the halves draw their own noise."""
    g, d, terms = fresh(played.generator), fresh_judge(played), played.terms
    fake = g(z, y).detach()
    loss = D_LOSS[objective](d(real, real_labels), d(fake, y))
    source = draw("D") if half == 0 else draw("D/partner")
    if "r1" in terms:
        x = real.clone().requires_grad_()
        (slope,) = torch.autograd.grad(d(x, real_labels).sum(), x, create_graph=True)
        loss = loss + 0.7 / 2 * slope.square().sum(1).mean()
    if "wgan_gp" in terms:
        e = source.uniform("wgan-gp", 1).double()
        x = (e * real + (1 - e) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(d(x, real_labels).sum(), x, create_graph=True)
        loss = loss + 3 * (slope.norm(dim=1) - 1).square().mean()
    if "zcr" in terms:
        near = g(z + 0.2 * source.normal("zcr", 3).double(), y).detach()
        loss = loss + 5 * (d(fake, y) - d(near, y)).square().mean()
    return loss


def fresh_judge(played):
    """D with the game's parameters, whose buffers stay: every pass normalises over its own batch."""
    d, twin = played.discriminator, fresh(played.discriminator)

    def judge(x, labels=None):
        return torch.func.functional_call(twin, dict(d.named_parameters()), (x, labels))

    return judge


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("classes", [0, CLASSES])
@pytest.mark.parametrize(
    ("objective", "terms"), [*((name, "none") for name in D_LOSS), ("hinge", "all"), *(("non-saturating", t) for t in TERMS)]
)
def test_the_discriminators_loss_is_the_sum_of_two_full_ones(objective, terms, classes, refined):
    latent = HARD | ({"refine_steps": 1, "step_size": 0.1} if refined else {})
    played, seen = game(objective, latent, classes, terms=TERMS[terms]), batch()
    with played.turn("discriminator"):
        loss, statistics = played.discriminator_loss(seen, draw())

    *pair, y = pair_of(played, draw())
    if refined:  # -qua: D sees both halves refined
        for half, z in enumerate(pair):
            z = z.requires_grad_()
            score = fresh(played.discriminator)(fresh(played.generator)(z, y), y)
            pair[half] = z.detach() - 0.1 * torch.autograd.grad(G_LOSS[objective](score), z)[0].sign()
    real_labels = seen["labels"] if classes else None
    expected = sum(full_loss(played, objective, h, seen["images"], real_labels, z, y) for h, z in enumerate(pair))
    same_loss_and_gradients(loss, expected, played.discriminator)

    d = fresh(played.discriminator)
    scores = [d(fresh(played.generator)(z, y), y) for z in pair]
    real = d(seen["images"], real_labels)
    assert statistics["loss"].item() == pytest.approx(expected.item())
    assert statistics["score_real"].item() == pytest.approx(real.mean().item())
    assert statistics["score_fake"].item() == pytest.approx(torch.cat(scores).mean().item())
    assert statistics["separation"].item() == pytest.approx((real[:, None] > torch.cat(scores)[None]).double().mean().item())


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("classes", [0, CLASSES])
@pytest.mark.parametrize("objective", D_LOSS)
@pytest.mark.parametrize("terms", [(), ("mode_seeking",), ("mode_seeking", "zcr_diversity")])
def test_the_generators_loss_is_a_sum_over_both_halves_and_the_term_once(objective, terms, classes, refined):
    latent = HARD | ({"refine_steps": 1, "step_size": 0.1} if refined else {})
    known = {"mode_seeking": ModeSeeking(weight=0.6), "zcr_diversity": LatentDiversity(weight=0.5, noise=0.2)}
    played = game(objective, latent, classes, terms={name: known[name] for name in terms})
    with played.turn("discriminator"):
        played.discriminator_loss(batch(), draw())
    with played.turn("generator"):
        loss, _ = played.generator_loss(batch(1), draw("G"))

    z1, z2, y = pair_of(played, draw())  # the pair of D's turn, before refinement
    g, d = played.generator, played.discriminator
    x1, x2 = g(z1, y), g(z2, y)
    expected = G_LOSS[objective](d(x1, y)) + G_LOSS[objective](d(x2, y))
    if "mode_seeking" in terms:
        expected = expected + 0.6 / ((x2 - x1).abs().mean() / (z2 - z1).abs().mean() + 1e-5)
    if "zcr_diversity" in terms:
        for z, x, source in ((z1, x1, draw("G")), (z2, x2, draw("G/partner"))):
            near = g(z + 0.2 * source.normal("zcr", 3).double(), y)
            expected = expected - 0.5 * (x - near).square().mean()
    same_loss_and_gradients(loss, expected, g)


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_with_batch_statistics_every_half_is_normalised_over_itself(classes):
    terms = {"mode_seeking": ModeSeeking(), "r1": R1(gamma=0.7)}
    played, seen = game("non-saturating", classes=classes, normalised=True, terms=terms), batch()
    before = copy.deepcopy(played.state_dict())
    z1, z2, y = pair_of(played, draw())
    with played.turn("discriminator"):
        loss, _ = played.discriminator_loss(seen, draw())
    real_labels = seen["labels"] if classes else None
    expected = sum(full_loss(played, "non-saturating", h, seen["images"], real_labels, z, y) for h, z in enumerate((z1, z2)))
    same_loss_and_gradients(loss, expected, played.discriminator)
    moved = {name for name, t in played.state_dict().items() if not torch.equal(t, before[name])}
    assert {name.split(".")[0] for name in moved} == {"discriminator"}

    judge = fresh_judge(played)
    with played.turn("generator"):
        loss, _ = played.generator_loss(seen, draw("G"))
    g = fresh(played.generator)
    x1, x2 = (torch.func.functional_call(g, dict(played.generator.named_parameters()), (z, y)) for z in (z1, z2))
    expected = softplus(-judge(x1, y)).mean() + softplus(-judge(x2, y)).mean()
    expected = expected + 1 / ((x2 - x1).abs().mean() / (z2 - z1).abs().mean() + 1e-5)
    same_loss_and_gradients(loss, expected, played.generator)


def test_random_pairs_are_msgans():
    """Both halves are judged, and the term is over them."""
    played, seen = game("non-saturating", {"pair": "random"}, terms={"mode_seeking": ModeSeeking()}), batch()
    z1, z2 = (draw().normal(name, 3).double() for name in ("latent", "partner"))
    with played.turn("discriminator"):
        loss, _ = played.discriminator_loss(seen, draw())
    g, d = played.generator, played.discriminator
    expected = sum(D_LOSS["non-saturating"](d(seen["images"]), d(g(z).detach())) for z in (z1, z2))
    same_loss_and_gradients(loss, expected, d)
    with played.turn("generator"):
        loss, _ = played.generator_loss(seen, draw("G"))
    x1, x2 = g(z1), g(z2)
    expected = sum(softplus(-d(x)).mean() for x in (x1, x2)) + 1 / ((x2 - x1).abs().mean() / (z2 - z1).abs().mean() + 1e-5)
    same_loss_and_gradients(loss, expected, g)


def test_both_halves_see_consistency_of_real_images_and_their_own():
    """bCR's two full losses; CR, which is of real images alone, is computed once and counts twice."""
    images = {"images": torch.rand(4, 3, 8, 8, dtype=torch.float64), "labels": torch.zeros(4).long()}
    for real, fake in ((2.0, 0.0), (2.0, 3.0)):
        torch.manual_seed(0)
        played = AdversarialGame(
            nn.Sequential(nn.Linear(3, 192), nn.Tanh(), nn.Unflatten(1, (3, 8, 8))),
            nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)),
            prior=Double(3),
            objective=OBJECTIVES["hinge"],
            pairing=Pairing(Latent(dim=3, pair="random")),
            terms={"bcr": BalancedConsistency(real=real, fake=fake)},
        ).double()
        judged = []
        played.discriminator.register_forward_hook(lambda module, inputs, output, judged=judged: judged.append(len(output)))
        loss, _ = played.discriminator_loss(images, draw(rows=4))
        assert judged == [4 * (4 if fake == 0 else 7)]  # x, T(x), x~ of both; or x, two T(x), and x~ and T(x~) of both
        halves, draws = [], (draw(rows=4), draw("D/partner", rows=4))
        played.pairing = None
        for name, source in zip(("latent", "partner"), draws, strict=True):
            played.prior = lambda source, asked="latent", name=name: draw(rows=4).normal(name, 3).double()
            halves.append(played.discriminator_loss(images, source if fake else draws[0])[0])
        torch.testing.assert_close(loss, halves[0] + halves[1], rtol=1e-12, atol=1e-12)


def seen_by(network):
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append([x.detach() for x in inputs if x is not None]))
    return seen


@pytest.mark.parametrize("reuse", [False, True])
def test_the_generator_has_the_pair_of_the_discriminators_last_turn(reuse):
    """Part by part; every turn draws and mines its own, unless they are reused."""
    played = game(classes=CLASSES, latent=HARD | {"refine_steps": 1}, n_dis=2, reuse_latents=reuse)
    with played.turn("discriminator"):
        for turn in (0, 1):
            for part, rows in enumerate((slice(0, 8), slice(8, 16))):
                played.discriminator_loss(batch(), Draw(0, "D", 4, torch.arange(16)[rows], turn, part))
    seen = seen_by(played.generator)
    for part, rows in enumerate((slice(0, 8), slice(8, 16))):
        seen.clear()
        played.generator_loss(batch(), Draw(0, "G", 4, torch.arange(16)[rows], 0, part))
        (first, its_labels), (second, other_labels) = seen
        z1, z2, y = pair_of(played, Draw(0, "D", 4, torch.arange(16)[rows], 0 if reuse else 1, part))
        assert torch.equal(first, z1)
        torch.testing.assert_close(second, z2, rtol=0, atol=1e-12)
        assert torch.equal(its_labels, y)
        assert torch.equal(other_labels, y)


def test_lazy_terms_take_the_pair_too():
    """No second search; R1, of real images alone, counts twice and is computed once; the mode-seeking term counts once."""
    terms = {"r1": R1(gamma=0.7, every=2), "wgan_gp": WganGP(weight=3.0, every=2), "mode_seeking": ModeSeeking(every=2)}
    played, seen = game(terms=terms), batch()
    phases = {phase.name: phase for phase in played.phases()}
    with played.turn("discriminator"):
        phases["D"].loss(seen, draw())
        passes, judged = seen_by(played.generator), seen_by(played.discriminator)
        lazy, _ = phases["Dreg2"].loss(seen, draw("Dreg2"))
    assert len(passes) == 2
    assert [len(inputs[0]) for inputs in judged] == [8, 8, 8]  # x alone, and x^ of both halves
    z1, z2, _ = pair_of(played, draw())
    g, d, real = played.generator, played.discriminator, seen["images"]
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    expected = 2 * 0.7 / 2 * slope.square().sum(1).mean()
    for z, source in ((z1, draw("Dreg2")), (z2, draw("Dreg2/partner"))):
        e = source.uniform("wgan-gp", 1).double()
        x = (e * real + (1 - e) * g(z).detach()).requires_grad_()
        (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
        expected = expected + 3 * (slope.norm(dim=1) - 1).square().mean()
    same_loss_and_gradients(lazy, 2 * expected, d)
    with played.turn("generator"):
        lazy, _ = phases["Greg2"].loss(seen, draw("Greg2"))
    x1, x2 = g(z1), g(z2)
    same_loss_and_gradients(lazy, 2 / ((x2 - x1).abs().mean() / (z2 - z1).abs().mean() + 1e-5), g)


class Products(TorchDispatchMode):
    """Counts the rows that go through products with a matrix of given sizes."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.rows = sizes, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            a, b = args[-2:]
            sides = {*a.shape, *b.shape}
            for name, size in self.sizes.items():
                if set(size) <= sides:
                    (rows,) = sides - set(size)
                    self.rows[name] += rows
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("latent", "gamma", "of_g", "of_d"),
    [
        ({"pair": "none"}, 0, 4, 8),
        ({"pair": "random"}, 0, 8, 13),
        ({"pair": "hard"}, 0, 14, 13),
        ({"pair": "hard", "pair_steps": 5}, 0, 18, 13),
        ({"pair": "hard", "refine_steps": 1}, 0, 7 + 2 * 3 + 6, 13 + 2 * 2),
        ({"pair": "none"}, 1, 4, 8 + 3),
        ({"pair": "hard"}, 1, 14, 13 + 3),
    ],
)
def test_the_work_of_a_round(latent, gamma, of_g, of_d):
    """Products with one weight of G and of D, whose sizes tell them apart: forward 1, backward to inputs 1, to weights 1."""
    settings = Latent(dim=3, **latent)
    played = AdversarialGame(
        mlp(3, 17, 19, 2),
        Score(2, 21, 23, 1),
        prior=Prior(3),
        objective=OBJECTIVES["hinge"],
        refinement=Refinement(settings, "hinge"),
        pairing=None if settings.pair == "none" else Pairing(settings),
        terms=({"r1": R1(gamma=gamma)} if gamma else {}) | ({} if settings.pair == "none" else {"mode_seeking": ModeSeeking()}),
    )
    session = make_session(played)
    with Products({"G": (17, 19), "D": (21, 23)}) as counted:
        session.play_round()
    assert {name: rows / 16 for name, rows in counted.rows.items()} == {"G": of_g, "D": of_d}


def session(**options):
    latent = HARD | {"refine_steps": 1, "step_size": 0.1}
    terms = {"r1": R1(gamma=0.1, every=2), "mode_seeking": ModeSeeking(every=2), "wgan_gp": WganGP(every=3)}
    played = game(latent=latent, normalised=True, prior=Prior, n_dis=2, terms=terms, **options).float()
    return make_session(played, half_life=100.0)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_resumed_run_goes_on_bit_for_bit(reuse):
    """The pair is no state: after every round it is found anew."""
    undisturbed = session(reuse_latents=reuse)
    for _ in range(3):
        undisturbed.play_round()
    state = saved(undisturbed)
    resumed = session(reuse_latents=reuse)
    resumed.load_state_dict(state)
    for played in (undisturbed, resumed):
        for _ in range(4):
            played.play_round()
    found, expected = tensors(resumed), tensors(undisturbed)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert all(tensor.isfinite().all() for tensor in expected.values())


def test_random_pairs_do_not_depend_on_micro_batches():
    def played(accumulate):
        toy = game(latent={"pair": "random"}, prior=Prior).float()
        whole = make_session(toy, PointStream, accumulate=accumulate)
        for _ in range(3):
            whole.play_round()
        return toy.state_dict()

    one, two = played(1), played(2)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("assignments", "line"),
    [
        (["latent.pair=hardest"], "latent.pair should be 'none', 'random' or 'hard'"),
        (["latent.pair_steps=-1"], "latent.pair_steps"),
        (["latent.pair_step_size=-1"], "latent.pair_step_size"),
        (["latent.pair_distance=-1"], "latent.pair_distance"),
        (
            ["latent.pair=hard", "training.accumulate=2"],
            "latent.pair=hard couples the samples .* training.accumulate must be 1",
        ),
        (["latent.pair=random", "training.generator_batch=2"], "latent.pair gives both players .*generator_batch must be 1"),
    ],
)
def test_pairs_that_cannot_be(assignments, line):
    with pytest.raises(UserError, match=line) as refused:
        override(Config(), assignments)
    assert "\n" not in str(refused.value)


def test_ranks_may_share_what_is_mined_together():
    """Their means are over all of them (tests/ranks.py plays it)."""
    config, ranks = override(preset("digits-cdcgan-div"), [*TINY, "network.batch_norm_ranks=1"]), Ranks(0, 2)
    check_shares(config, ranks.count)
    for shared_by, expected in ((ranks, ranks.mean), (Ranks(), None)):
        built = build_session(config, open_source(config), shared_by)
        built.stream.close()
        assert built.game.over_ranks == expected
    check_shares(override(preset("digits-cdcgan-div"), ["terms.wgan_gp.kind=max"]), 2)
