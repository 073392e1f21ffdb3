"""CR, bCR, zCR and ICR against their formulas, and in the game."""

import pytest
import torch
from torch import nn
from toys import TINY

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.judgement import View, judge
from fastgan.kernels.augment import augment_reference
from fastgan.policies import POLICIES
from fastgan.presets import preset
from fastgan.terms import BalancedConsistency, Dragan, Imagined, LatentConsistency, LatentDiversity, Scene
from fastgan.training.loop import build_session, open_source


class Judge(nn.Module):
    """A smooth D in float64."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(3 * 8 * 8, 6).double(), nn.Linear(6, 1).double()

    def forward(self, x):
        return self.last(nn.functional.softplus(self.layer(x.flatten(1)))).squeeze(1)


MAP = torch.randn(5, 3 * 8 * 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def generate(z, labels=None):
    return torch.tanh(z @ MAP).view(-1, 3, 8, 8)


def scene(batch=4, seed=1):
    torch.manual_seed(seed)
    z = torch.randn(batch, 5, dtype=torch.float64)
    real = torch.rand(batch, 3, 8, 8, dtype=torch.float64) * 2 - 1
    return Scene(real, None, lambda: Imagined(z, None, generate(z)), generate, Draw(seed, "D", 2, torch.arange(batch)))


def applied(term, network, seen):
    views = {"real": View(seen.real), "fake": View(seen.fake.images)} | term.views(seen)
    return term.loss(seen, judge(network, views))


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize(("real", "fake"), [(10.0, 10.0), (10.0, 0.0), (0.0, 3.0)])
def test_bcr_equals_its_formula(policy, real, fake):
    network, seen = Judge(), scene()
    found = applied(BalancedConsistency(real=real, fake=fake, policy=policy), network, seen)
    expected = 0
    for weight, images, name in ((real, seen.real, "bcr-real"), (fake, seen.fake.images, "bcr-fake")):
        transforms = seen.draw.transforms(name, POLICIES[policy], (8, 8))
        moved = augment_reference(images, transforms, POLICIES[policy].border)
        expected = expected + weight * (network(images) - network(moved)).square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(*(torch.autograd.grad(loss, network.parameters()) for loss in (found, expected)), strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_only_what_has_a_weight_is_judged():
    seen = scene()
    assert set(BalancedConsistency(fake=0).views(seen)) == {"real", "bcr_real"}
    assert set(BalancedConsistency(real=0).views(seen)) == {"fake", "bcr_fake"}


def test_real_and_generated_images_have_transforms_of_their_own():
    seen = scene()
    first, second = (seen.draw.transforms(name, POLICIES["flip-shift"], (8, 8)) for name in ("bcr-real", "bcr-fake"))
    assert not torch.equal(first.shift, second.shift)


def test_zcr_equals_its_formula():
    network, seen = Judge(), scene()
    dz = 0.3 * seen.draw.normal("zcr", 5).double()
    close = generate(seen.fake.z + dz)
    found = applied(LatentConsistency(weight=7, noise=0.3), network, seen)
    torch.testing.assert_close(found, 7 * (network(seen.fake.images) - network(close)).square().mean(), rtol=1e-12, atol=0)
    pushed = LatentDiversity(weight=0.5, noise=0.3)
    assert pushed.player == "generator"
    torch.testing.assert_close(pushed.loss(seen, {}), -0.5 * (seen.fake.images - close).square().mean(), rtol=1e-12, atol=0)


def test_the_generators_half_pushes_images_apart():
    seen = scene()
    weight = MAP.clone().requires_grad_()
    z = seen.fake.z

    def from_weight(z, labels=None):
        return torch.tanh(z @ weight).view(-1, 3, 8, 8)

    apart = Scene(seen.real, None, lambda: Imagined(z, None, from_weight(z)), from_weight, seen.draw)
    loss = LatentDiversity().loss(apart, {})
    (gradient,) = torch.autograd.grad(loss, weight)
    with torch.no_grad():
        weight -= 1.0 * gradient
    again = Scene(seen.real, None, lambda: Imagined(z, None, from_weight(z)), from_weight, seen.draw)
    assert LatentDiversity().loss(again, {}) < loss < 0


ICR = ["terms.bcr.real=10", "terms.zcr.weight=20", "terms.zcr_diversity.weight=0.5"]


@pytest.mark.parametrize(
    "fields",
    [
        ICR,
        [*ICR, "terms.r1.gamma=1"],  # R1 takes the real view for itself, whatever comes before or after it
        [*ICR, "terms.bcr.every=2", "terms.zcr.every=2", "terms.r1.gamma=1", "terms.r1.every=2"],
        ["terms.bcr.policy=diffaugment"],
    ],
    ids=["icr", "icr-r1", "lazy", "diffaugment"],
)
@pytest.mark.parametrize("name", ["digits-sngan-qua", "digits-cdcgan-qua"])
def test_rounds_are_finite_and_move_both_players(name, fields):
    config = override(preset(name), [*TINY, *fields])
    session = build_session(config, open_source(config))
    before = {key: tensor.clone() for key, tensor in session.game.named_parameters()}
    for _ in range(3):
        session.play_round()
    session.stream.close()
    assert session.is_finite()
    assert not any(torch.equal(tensor, before[key]) for key, tensor in session.game.named_parameters())


def test_points_have_nothing_to_transform():
    with pytest.raises(UserError, match="bcr transforms images"):
        override(preset("grid25"), ["terms.bcr.real=1"])


@pytest.mark.parametrize("form", ["uniform", "normal"])
def test_dragan_equals_its_formula(form):
    network, seen = Judge(), scene()
    term = Dragan(weight=3, target=0.5, form=form, scale=0.2)
    found = applied(term, network, seen)
    around = seen.draw.perturb("dragan", seen.real, form, 0.2).requires_grad_()
    if form == "uniform":
        share, noise = seen.draw.uniform("dragan/share", 1, 1, 1), seen.draw.uniform("dragan", 3, 8, 8)
        by_hand = seen.real + share * 0.2 * seen.real.std(correction=0) * noise
    else:
        by_hand = seen.real + 0.2 * seen.draw.normal("dragan", 3, 8, 8)
    torch.testing.assert_close(around.detach(), by_hand, rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(network(around).sum(), around, create_graph=True)
    expected = 3 * (slope.flatten(1).norm(dim=1) - 0.5).square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(
        *(torch.autograd.grad(loss, [network.layer.weight, network.last.weight]) for loss in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    assert term.couples == (form == "uniform")
