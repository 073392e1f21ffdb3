"""Settings that are annealed over the burn-in: their values in every round, and a run that is resumed in the middle."""

import math

import pytest
import torch
from toys import saved, tensors

from fastgan.annealing import annealed
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.judgement import Judgement
from fastgan.presets import preset
from fastgan.terms import R1, R2, Scene
from fastgan.training.loop import build_session, open_source

# Three and a half rounds of two turns of eight images.
ALL = (
    "data.resolution=8", "network.family=r3gan", "network.width=4", "network.depth=1", "latent.dim=4", "training.batch_size=8",
    "training.precision=fp32", "training.n_dis=2", "training.burn_in=56", "generator.schedule=constant",
    "discriminator.schedule=constant", "generator.rate=4e-3", "generator.rate_end=1e-3", "generator.betas=[0, 0.9]",
    "generator.beta2_end=0.99", "discriminator.rate=2e-3", "discriminator.betas=[0, 0.5]", "discriminator.beta2_end=0.8",
    "terms.r1.gamma=2", "terms.r1.gamma_end=0.2", "terms.r1.every=2", "terms.r2.gamma=3", "terms.r2.gamma_end=0",
    "training.ema_half_life=0", "training.ema_half_life_end=80", "training.ema_rampup=null", "augmentation.policy=color",
    "augmentation.probability=0", "augmentation.probability_end=0.5",
)  # fmt: skip
SHARES = [0, 16 / 56, 32 / 56, 48 / 56, 1, 1]


def session():
    config = override(preset("digits-r1"), ALL)
    return build_session(config, open_source(config))


def expected(start, end, share):
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def test_values():
    assert [annealed(4.0, 2.0, share) for share in (0, 0.5, 1)] == [4.0, pytest.approx(3.0), 2.0]
    assert annealed(0.05, 0.005, 0.25) == pytest.approx(0.05 - 0.045 * (1 - math.cos(math.pi / 4)) / 2)
    assert [annealed(4.0, None, share) for share in (0, 0.5, 1)] == [4.0] * 3
    config = override(preset("digits-r1"), ALL)
    assert [config.burnt_in(number) for number in range(6)] == pytest.approx(SHARES)
    assert preset("digits-r1").burnt_in(0) == 1


def test_each_round_has_its_values(monkeypatch):
    played, scale = session(), 2 / (2 + 1 / 2)  # D has two turns a round, and a lazy one every second
    used, shown = [], set()

    def watch(name, engine):
        step = engine.step
        engine.step = lambda measured=False: (used.append((name, *of(engine))), step(measured))[1]

    def of(engine):
        (group,) = engine.optimiser.param_groups
        return group["lr"], *group["betas"]

    for name, engine in played.engines.items():
        watch(name, engine)
    draw_transforms = Draw.transforms

    def transforms(draw, name, policy, size, probability):
        shown.add(probability)
        return draw_transforms(draw, name, policy, size, probability)

    monkeypatch.setattr(Draw, "transforms", transforms)
    for share in SHARES:
        used.clear()
        shown.clear()
        before = {name: p.clone() for name, p in played.average.named_parameters()}
        played.play_round()
        for name, rate, beta1, beta2 in used:
            if name == "generator":
                assert (rate, beta1) == (pytest.approx(expected(4e-3, 1e-3, share)), 0)
                assert beta2 == pytest.approx(expected(0.9, 0.99, share))
            else:
                assert (rate, beta1) == (pytest.approx(2e-3 * scale), 0)
                assert beta2 == pytest.approx(expected(0.5, 0.8, share) ** scale)
        assert list(shown) == pytest.approx([expected(0, 0.5, share)])
        half_life = expected(0, 80, share)
        decay = 0.5 ** (16 / half_life) if half_life else 0.0
        for name, p in played.average.named_parameters():
            now = played.game.get_parameter(name.removeprefix("networks."))
            torch.testing.assert_close(p, now + decay * (before[name] - now))
    played.stream.close()


@pytest.mark.parametrize(("term", "view"), [(R1(gamma=2, gamma_end=0.5), "real"), (R2(gamma=2, gamma_end=0.5), "fake")])
def test_gamma_is_what_the_burn_in_has_it(term, view):
    """D is 3 x: the squared norm of its gradient is 9."""
    x = torch.randn(4, 1, requires_grad=True)

    def loss(share):
        scene = Scene(x, None, lambda: None, lambda z: z, Draw(0, "D", 0, torch.arange(4)), burnt_in=share)
        return term.loss(scene, {view: Judgement(score=3 * x[:, 0], images=x)}).item()

    assert [loss(share) for share in (0, 0.5, 1)] == pytest.approx([9.0, 9 * 1.25 / 2, 9 / 4])


def test_a_run_that_is_resumed_in_the_burn_in_is_the_same_run():
    whole = session()
    for _ in range(2):
        whole.play_round()
    state = saved(whole)
    for _ in range(3):
        whole.play_round()
    resumed = session()
    resumed.load_state_dict(state)
    for _ in range(3):
        resumed.play_round()
    found, wanted = tensors(resumed), tensors(whole)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[path], tensor) for path, tensor in wanted.items())
    for each in (whole, resumed):
        each.stream.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["generator.rate_end=1e-5"], "generator.rate_end needs training.burn_in"),
        (["terms.r1.gamma_end=1"], "terms.r1.gamma_end needs training.burn_in"),
        (["generator.beta2_end=1"], "generator.beta2_end should be less than 1"),
        (["training.burn_in=-1"], "training.burn_in should be greater than or equal to 0"),
        (
            ["training.burn_in=9", "augmentation.policy=ada", "augmentation.target=0.6", "augmentation.probability_end=1"],
            "takes no augmentation.probability_end",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        override(preset("digits-r1"), settings)
