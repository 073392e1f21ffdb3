"""Truncation and standing statistics, on a run that was trained a little."""

import pytest
import torch
from torch import nn
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.latent import Prior

STEPS = ("training.steps=6", "training.log_every=6", "training.sample_every=0", "training.precision=fp32")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    def run(preset, *assignments):
        folder = tmp_path_factory.mktemp("runs") / "run"
        return fastgan.train(override(fastgan.preset(preset), [*TINY, *STEPS, *assignments]), folder, quiet=True)

    return run


@pytest.fixture(scope="module")
def run(train):
    return train("digits-cdcgan-qua")


def latents(run, prior, rows, purpose="samples"):
    draw = Draw(0, purpose, 0, torch.arange(rows))
    return prior(draw), draw.integers("labels", 10)


def test_truncation_cuts_the_latents(run):
    z, _ = latents(run, Prior(8, "truncated-normal", 0.4), 5)
    assert z.abs().max() <= 0.4
    with torch.no_grad():
        expected = run.ema_generator(z, torch.tensor([1, 2, 1, 2, 1]))
    torch.testing.assert_close(fastgan.sample(run, 5, truncation=0.4, labels=[1, 2]), expected)


def test_it_takes_the_place_of_a_prior_that_is_cut_elsewhere(run, train):
    cut = train("digits-sngan-qua", "latent.prior=truncated-normal", "latent.truncation=0.1")
    wide = fastgan.sample(cut, 5, truncation=3.0)
    with torch.no_grad():
        torch.testing.assert_close(wide, cut.ema_generator(latents(cut, Prior(8, "truncated-normal", 3.0), 5)[0]))


def by_hand(run, batches, prior):
    """The statistics of each batch norm over the batches, layer by layer, from what torch computes with a momentum of 1."""
    generator, found = run.ema_generator, {}
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    z, labels = latents(run, prior, 64 * batches, "standing statistics")
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    generator.train()
    with torch.no_grad():
        for number in range(batches):
            part = slice(64 * number, 64 * (number + 1))
            generator(z[part], labels[part])
            for name, tensor in generator.state_dict().items():
                if "running" in name:
                    found[name] = found.get(name, 0) + tensor.double() / batches
    generator.eval().load_state_dict(state)
    return state, found


def test_standing_statistics_are_the_mean_over_batches_and_leave_the_run_alone(train):
    run = train("digits-cdcgan-qua")
    before = {name: tensor.clone() for name, tensor in run.average.state_dict().items()}
    found = fastgan.sample(run, 6, standing_statistics=3, truncation=0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.average.state_dict().items())
    assert not any(module.training for module in run.average.modules())
    assert {module.momentum for module in run.ema_generator.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}

    prior = Prior(8, "truncated-normal", 0.5)
    state, standing = by_hand(run, 3, prior)
    assert standing
    run.ema_generator.load_state_dict(state | {name: tensor.float() for name, tensor in standing.items()})
    with torch.no_grad():
        expected = run.ema_generator(latents(run, prior, 6)[0], torch.arange(6))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_they_are_repeatable_and_change_the_samples(run):
    plain, standing = fastgan.sample(run, 6), fastgan.sample(run, 6, standing_statistics=2)
    assert not torch.equal(plain, standing)
    assert torch.equal(fastgan.sample(run, 6), plain)
    assert torch.equal(fastgan.sample(fastgan.load_run(run.path), 6, standing_statistics=2), standing)
    assert torch.equal(fastgan.sample(run, 70, standing_statistics=2)[:4], standing[:4])
    assert not torch.equal(fastgan.sample(run, 6, standing_statistics=3), standing)
    assert not torch.equal(fastgan.sample(run, 6, standing_statistics=2, raw_weights=True), standing)


def test_refinement_sees_the_generator_with_them(run):
    options = {"standing_statistics": 1, "labels": [4]}
    plain, refined = fastgan.sample(run, 4, **options), fastgan.sample(run, 4, 2, 0.1, **options)
    assert not torch.equal(plain, refined)
    assert torch.equal(refined, fastgan.sample(run, 4, 2, 0.1, **options))


def test_samples_so_drawn_are_judged(run):
    plain = fastgan.training.evaluate(run, num=64)
    found = fastgan.training.evaluate(run, num=64, truncation=0.5, standing_statistics=1)
    assert (plain["truncation"], plain["standing_statistics"]) == (None, 0)
    assert (found["truncation"], found["standing_statistics"]) == (0.5, 1)
    assert found["metrics"]["fd-digits"]["value"] != plain["metrics"]["fd-digits"]["value"]


def test_what_can_not_be_done_is_refused(run, train):
    points = fastgan.train(
        override(fastgan.preset("ring8"), [*STEPS, "network.width=8", "training.batch_size=16"]),
        run.path.parent / "p",
        quiet=True,
    )
    for refused, options, line in (
        (run, {"standing_statistics": -1}, "standing_statistics must be at least 0"),
        (run, {"truncation": -0.5}, "truncation must be above 0"),
        (points, {"standing_statistics": 1}, "has no batch norm: it takes no standing statistics"),
        (train("digits-sngan-qua", "latent.prior=uniform"), {"truncation": 1.0}, "cuts a normal prior; this run's is uniform"),
    ):
        with pytest.raises(UserError, match=line):
            fastgan.sample(refused, 4, **options)
