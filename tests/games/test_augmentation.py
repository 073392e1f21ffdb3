"""What D is shown images through: T of every view in both players' phases, with all gradients; its probability."""

import copy

import pytest
import torch
from scenes import SIDE, Critic, Maker, transformed
from torch import nn
from toys import TINY, saved, tensors

import fastgan
from fastgan.checked import UserError
from fastgan.config import Augmentation as Settings
from fastgan.config import Latent, override
from fastgan.draw import Draw
from fastgan.games import AdversarialGame
from fastgan.games.augmentation import Augmentation
from fastgan.latent import Prior, Refinement
from fastgan.objectives import OBJECTIVES
from fastgan.policies import POLICIES
from fastgan.presets import preset
from fastgan.terms import R1, BalancedConsistency, WganGP
from fastgan.training import checkpoint
from fastgan.training.folder import Folder
from fastgan.training.loop import build_session, open_source

USED = ["white-cutout", "diffaugment", "color-translation", "ada", "flip-shift"]


class Double(nn.Module):
    """The prior's float32 latents for a G in float64."""

    def __init__(self):
        super().__init__()
        self.made = Maker()

    def forward(self, z):
        return self.made(z.double())


def game(policy=None, terms=None, latent=None, **settings):
    latent = latent or Latent(dim=5)
    return AdversarialGame(
        Double(),
        Critic(),
        prior=Prior(5),
        objective=OBJECTIVES["non-saturating"],
        terms=terms or {},
        refinement=Refinement(latent, "non-saturating"),
        augmentation=None if policy is None else Augmentation(Settings(policy, **settings), 4),
    )


def draw(purpose="D", step=6):
    return Draw(3, purpose, step, torch.arange(4))


def images(batch=4):
    torch.manual_seed(5)
    return torch.rand(batch, 3, *SIDE, dtype=torch.float64) * 2 - 1


def by_hand(policy, name, x, purpose="D"):
    """T of x with the transforms that this view draws; T itself written anew."""
    transforms = draw(purpose).transforms(f"augment/{name} 0" if name != "real" else "augment/real", POLICIES[policy], SIDE)
    return transformed(x, transforms, POLICIES[policy])


def close(found, expected, network):
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-9)
    given = (torch.autograd.grad(loss, list(network.parameters()), retain_graph=True) for loss in (found, expected))
    for mine, theirs in zip(*given, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def softplus(x):
    return nn.functional.softplus(x).mean()


@pytest.mark.parametrize("policy", USED)
def test_d_sees_t_of_every_view(policy):
    """Of real and generated images, each with its own draw; bCR's views are transformed twice."""
    played = game(policy, {"bcr": BalancedConsistency(real=2, fake=3)})
    loss, _ = played.discriminator_loss({"images": images()}, draw())
    real, fake, d = images(), played.generator(draw().normal("latent", 5)).detach(), played.discriminator
    chosen = POLICIES["flip-shift"]
    scores = {}
    for side, x in (("real", real), ("fake", fake)):
        moved = transformed(x, draw().transforms(f"bcr-{side}", chosen, SIDE), chosen)
        scores[side] = d(by_hand(policy, side, x)), d(by_hand(policy, f"bcr_{side}", moved))
    expected = softplus(-scores["real"][0]) + softplus(scores["fake"][0])
    expected = expected + 2 * (scores["real"][0] - scores["real"][1]).square().mean()
    expected = expected + 3 * (scores["fake"][0] - scores["fake"][1]).square().mean()
    close(loss, expected, d)


@pytest.mark.parametrize("policy", USED)
def test_gs_gradient_goes_through_t(policy):
    played = game(policy)
    loss, _ = played.generator_loss({"images": images()}, draw("G"))
    fake = played.generator(draw("G").normal("latent", 5))
    close(loss, softplus(-played.discriminator(by_hand(policy, "fake", fake, "G"))), played.generator)


@pytest.mark.parametrize("policy", USED)
def test_penalties_differentiate_d_of_t_towards_the_images(policy):
    """R1 is |d D(T(x)) / dx|, not the slope at T(x): where T cuts, no pixel counts; likewise at points between."""
    played = game(policy, {"r1": R1(gamma=3), "wgan_gp": WganGP(weight=2)})
    loss, _ = played.discriminator_loss({"images": images()}, draw())
    fake, d = played.generator(draw().normal("latent", 5)).detach(), played.discriminator

    def slopes(name, x):
        x = x.detach().requires_grad_()
        score = d(by_hand(policy, name, x))
        return score, torch.autograd.grad(score.sum(), x, create_graph=True)[0].flatten(1).square().sum(1)

    share = draw().uniform("wgan-gp", 1, 1, 1).double()
    (score, square), (_, between) = slopes("real", images()), slopes("wgan_gp", share * images() + (1 - share) * fake)
    expected = softplus(-score) + softplus(d(by_hand(policy, "fake", fake)))
    expected = expected + 3 / 2 * square.mean() + 2 * (between.sqrt() - 1).square().mean()
    close(loss, expected, d)


def test_lazy_penalties_go_through_t_as_well():
    played = game("diffaugment", {"r1": R1(gamma=2, every=4)})
    (phase,) = [phase for phase in played.phases() if phase.every == 4]
    loss, _ = phase.loss({"images": images()}, draw("Dreg4"))
    x = images().requires_grad_()
    score = played.discriminator(by_hand("diffaugment", "real", x, "Dreg4"))
    square = torch.autograd.grad(score.sum(), x, create_graph=True)[0].flatten(1).square().sum(1)
    torch.testing.assert_close(loss, 4 * square.mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("policy", [name for name in POLICIES])
@pytest.mark.parametrize("terms", [{}, {"r1": R1(), "bcr": BalancedConsistency()}], ids=["plain", "terms"])
def test_probability_0_changes_nothing(policy, terms):
    """Bit for bit, in float32, losses and gradients."""
    found = []
    for options in ({"policy": policy, "probability": 0.0}, {}):
        played = game(terms=terms, **options).float()
        played.generator.made.body.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
        given = {"images": images().float()}
        for loss, network in ((played.discriminator_loss, "discriminator"), (played.generator_loss, "generator")):
            total, _ = loss(given, draw())
            found.append([total, *torch.autograd.grad(total, list(played.get_submodule(network).parameters()))])
    for with_t, without in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(with_t, without, strict=True))


def test_probability_is_that_of_each_transform_of_each_image():
    rows = torch.arange(4000)
    half = Augmentation(Settings("diffaugment", probability=0.3), 4)
    x = torch.rand(4000, 3, 8, 8)
    transforms = Draw(0, "D", 0, rows).transforms("augment/real", POLICIES["diffaugment"], (8, 8), half.probability)
    done = [transforms.brightness != 0, transforms.contrast != 1, transforms.saturation != 1, transforms.cutout[:, 2] > 0]
    for each in done:
        assert each.float().mean().item() == pytest.approx(0.3, abs=0.03)  # four standard deviations
    assert (done[0] & done[1]).float().mean().item() == pytest.approx(0.09, abs=0.02)  # each on its own
    untouched = (half(Draw(0, "D", 0, rows), "real", x) == x).flatten(1).all(1).float().mean().item()
    unmoved = 0.7 + 0.3 / 9  # a shift by up to one pixel each way may be none
    assert untouched == pytest.approx(0.7**4 * unmoved, abs=0.03)


def test_refinement_sees_images_as_they_are():
    """The same refined latents, whatever D is shown in its own pass."""
    latent = Latent(dim=5, refine_steps=2, step_size=0.1)
    seen = []
    for policy in (None, "diffaugment"):
        played = game(policy, latent=latent)
        played.discriminator_loss({"images": images()}, draw())
        seen.append(played.refinement(played.generator, played.discriminator, draw().normal("latent", 5)))
        inputs = []
        played.generator.register_forward_hook(
            lambda module, given, output, inputs=inputs: inputs.append(given[0].detach().clone())
        )
        played.discriminator_loss({"images": images()}, draw())
        assert torch.equal(inputs[-1], seen[-1])  # what D learns from are images of these
        assert torch.equal(inputs[0], draw().normal("latent", 5))
    assert torch.equal(*seen)


def simulated(signs, images_a_round, every, target, over, most):
    """ADA's rule, written anew: the probability after each round."""
    p, seen, found = 0.0, [], []
    for sign in signs:
        seen.append(sign)
        if len(seen) == every:
            mean = sum(seen) / every
            direction = (mean > target) - (mean < target)
            p = min(max(p + direction * images_a_round * every / over, 0.0), most)
            seen = []
        found.append(p)
    return found


@pytest.mark.parametrize(("every", "over", "most"), [(1, 100.0, 1.0), (4, 200.0, 1.0), (3, 50.0, 0.8), (2, 7.0, 0.5)])
def test_the_probability_moves_as_published(every, over, most):
    torch.manual_seed(0)
    signs = (torch.randint(-4, 9, (60,)) / 8).clamp(-1, 1).tolist()
    moving = Augmentation(Settings("ada", probability=most, target=0.5, images=over, every=every), 8)
    assert moving.probability == 0
    found = []
    for sign in signs:
        moving.adapt({"sign_real": torch.tensor(sign)})
        found.append(moving.probability.item())
    expected = simulated(signs, 8, every, 0.5, over, most)
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found) > 0
    assert 0 in found[every:]
    assert all(0 <= p <= most + 1e-7 for p in found)


def test_a_fixed_probability_stays():
    fixed = Augmentation(Settings("diffaugment", probability=0.4), 8)
    fixed.adapt({})
    assert fixed.probability.item() == pytest.approx(0.4)
    assert fixed.observed(torch.ones(3)) == {}
    assert list(fixed.state_dict()) == ["probability"]


@pytest.mark.parametrize("shape", [(6,), (6, 1, 2, 3)])
def test_what_d_logs(shape):
    torch.manual_seed(0)
    scores = torch.randn(shape)
    found = Augmentation(Settings("ada", target=0.6), 8).observed(scores)
    values = scores.flatten().tolist()
    assert found["sign_real"].item() == pytest.approx(sum((v > 0) - (v < 0) for v in values) / len(values))
    assert found["augmentation"] == 0


ADA = (
    "augmentation.policy=ada", "augmentation.target=0.1", "augmentation.images=160", "augmentation.every=2",
    "terms.lecam.weight=0.3", "latent.refine_steps=0", "training.precision=fp32", "training.threads=1",
    "generator.schedule=constant", "discriminator.schedule=constant",
)  # fmt: skip


def test_rounds_adapt_it_and_a_resumed_run_is_the_same(tmp_path):
    """p after each round as the rule says of what was logged; and all of it, LeCam's averages too, bit for bit after a resume
    in the middle of an interval."""
    config = override(
        preset("digits-sngan-qua"), [*TINY, *ADA, "training.n_dis=2", "training.steps=7", "discriminator.rate=3e-2"]
    )
    session = build_session(config, open_source(config))
    signs, found, after = [], [], session.game.after

    def watched(statistics):
        signs.append(statistics["D"]["sign_real"].item())
        after(statistics)
        found.append(session.game.augmentation.probability.item())

    session.game.after = watched
    for number in range(7):
        session.play_round()
        if number == 2:
            middle = copy.deepcopy(saved(session))
    session.stream.close()
    assert found == pytest.approx(simulated(signs, 32, 2, 0.1, 160, 1.0), abs=1e-6)
    assert len(set(found)) > 1
    assert middle["game"]["augmentation.rounds"] == 1

    again = build_session(config, open_source(config))
    again.load_state_dict(middle)
    for _ in range(4):
        again.play_round()
    again.stream.close()
    first, second = tensors(session), tensors(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_stopped_and_resumed_from_its_file_is_the_undisturbed_one(tmp_path):
    config = override(preset("digits-sngan-qua"), [*TINY, *ADA, "training.steps=6", "training.checkpoint_every=3"])
    fastgan.train(config, tmp_path / "whole", quiet=True)
    fastgan.train(config, tmp_path / "parts", 3, quiet=True)
    fastgan.train(config, tmp_path / "parts", 6, resume=True, quiet=True)
    one, other = (checkpoint.load(Folder(tmp_path / name).newest_checkpoint())["game"] for name in ("whole", "parts"))
    assert {"augmentation.probability", "augmentation.signs", "augmentation.rounds", "memory.lecam.real"} <= one.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert '"D/augmentation"' in Folder(tmp_path / "parts").metrics.read_text()
    assert fastgan.load_run(tmp_path / "parts").round == 6


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["augmentation.target=0.6"], "augmentation.target needs an augmentation.policy"),
        (["augmentation.policy=mirrors"], "augmentation.policy should be"),
        (["augmentation.policy=ada", "augmentation.probability=1.5"], "augmentation.probability"),
        (["augmentation.policy=ada", "augmentation.target=2"], "augmentation.target"),
        (["augmentation.policy=ada", "augmentation.images=0"], "augmentation.images"),
        (["augmentation.policy=ada", "augmentation.every=0"], "augmentation.every"),
        (["augmentation.polcy=ada"], "did you mean 'policy'"),
    ],
)
def test_mistakes_are_one_line(fields, said):
    with pytest.raises(UserError, match=said) as caught:
        override(preset("digits-sngan-qua"), fields)
    assert "\n" not in str(caught.value)


def test_points_are_refused():
    with pytest.raises(UserError, match=r"^augmentation.policy transforms images: network.family mlp draws points$"):
        override(preset("grid25"), ["augmentation.policy=diffaugment"])
