"""Truncation, standing statistics and samplers, on runs that were trained a little."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.latent import Prior, samplers
from fastgan.latent.samplers import SAMPLERS
from fastgan.training.sampling import Cost, Recipe, Samples

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


def test_a_run_without_a_trained_score_is_sampled_as_it_is(train):
    features = train("grid25-mmd", "training.batch_size=8", "network.width=8")
    assert fastgan.sample(features, 5).shape == (5, 2)
    assert fastgan.sample(features, 5, sampler=samplers.Hubness(threshold=8)).shape == (5, 2)  # asks no D
    assert features.discriminator(torch.zeros(3, 2)).shape == (3,)
    for options in ({"refine_steps": 2}, {"sampler": "drs"}):
        with pytest.raises(UserError, match="objective mmd: an objective of features trains no score"):
            fastgan.sample(features, 5, **options)


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


SMALL = {
    "plain": {},
    "truncation": {"threshold": 0.5},
    "drs": {"burn_in": 150, "percentile": 50},
    "mh": {"proposals": 3, "calibrated_on": 150},
    "ddls": {"steps": 3, "calibrated_on": 150},
    "dot": {"steps": 3, "pairs": 20},
    "hubness": {"pool": 200, "threshold": 8},
}
BIGGAN = (
    "network.family=biggan", "network.classes=10", "data.resolution=32", "latent.dim=16", "network.attention=[16]",
    "network.embedding=4", "training.steps=1", "training.batch_size=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def biggan(train):
    return train("digits-sngan-qua", *BIGGAN)


@pytest.mark.parametrize(("kind", "name"), [*(("run", name) for name in SAMPLERS), ("biggan", "mh"), ("biggan", "ddls")])
def test_a_sampler_draws_the_same_in_every_number_and_batch(request, kind, name):
    run, sampler = request.getfixturevalue(kind), samplers.choose(name, SMALL[name])
    whole = fastgan.sample(run, 14, sampler=sampler, labels=[1, 2, 7], batch_size=14)
    assert whole.isfinite().all()
    for num, size in ((14, 5), (6, 64)):
        found = fastgan.sample(run, num, sampler=sampler, labels=[1, 2, 7], batch_size=size)
        torch.testing.assert_close(found, whole[:num], rtol=1e-4, atol=1e-4)  # rounding differs from batch size to batch size
    assert not torch.allclose(fastgan.sample(run, 14, sampler=sampler, labels=[1, 2, 3]), whole)
    assert not torch.allclose(fastgan.sample(run, 14, sampler=sampler, labels=[1, 2, 7], seed=1), whole)
    if name != "plain":
        assert not torch.allclose(fastgan.sample(run, 14, labels=[1, 2, 7]), whole)


def test_refinement_comes_after_the_sampler(run):
    recipe = Recipe(sampler=samplers.choose("dot", SMALL["dot"]), labels=[3], precision="fp32")
    (_, plain), samples = next(Samples(run, 4, recipe).own()), Samples(run, 4, replace(recipe, refine_steps=2, step_size=0.1))
    refined = torch.cat(list(samples.gathered()))
    assert not torch.equal(plain, refined)
    assert samples.cost() == Cost(4, 3 + 2 + 1, 3 + 2, 3 + 2, {"generator": 40, "discriminator": 40, "backward": 0})
    bounded = fastgan.sample(run, 4, 2, 0.1, sampler=recipe.chosen, labels=[3], refine={"radius": 0.0})
    torch.testing.assert_close(bounded, plain)


def test_cost_is_counted_for_each_sample(run):
    samples = Samples(run, 20, Recipe(sampler=samplers.choose("mh", SMALL["mh"]), batch_size=8))
    assert sum(map(len, samples.gathered())) == 20
    cost = samples.cost()
    assert cost.once == {"generator": 150, "discriminator": 300, "backward": 0}
    assert 3 <= cost.generator == cost.discriminator <= 6
    assert str(cost).startswith(f"passes a sample: G {cost.generator:.4g}, D ")
    gives_up = Samples(run, 20, Recipe(sampler=samplers.choose("drs", {"burn_in": 150, "percentile": 100, "max_tries": 1})))
    list(gives_up.gathered())
    assert 15 < gives_up.cost().exhausted <= 20
    assert str(gives_up.cost()).endswith(f"exhausted: {gives_up.cost().exhausted} of 20")


def test_networks_compute_in_what_is_asked_for(run):
    one, other = (fastgan.sample(run, 5, precision=precision) for precision in ("fp32", "bf16"))
    assert torch.equal(fastgan.sample(run, 5), one)
    assert not torch.equal(one, other)
    assert (one - other).abs().max() < 0.1
    samples = Samples(run, 5, Recipe(precision="bf16"))
    for _ in samples.own():
        assert not torch.is_autocast_enabled("cpu")  # whoever asks for samples is left alone
    for precision, line in (("fp64", "unknown precision 'fp64'"), ("fp16", "needs a CUDA device")):
        with pytest.raises(UserError, match=line):
            fastgan.sample(run, 5, precision=precision)


def test_progress_is_told_where_work_is_long(run, capsys, monkeypatch):
    list(Samples(run, 20, Recipe(batch_size=8), quiet=False).gathered())
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("fastgan.progress.PLAIN_SECONDS", 0.0)
    list(Samples(run, 20, Recipe(batch_size=8), quiet=False).gathered())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["sampling 8 of 20", "sampling 16 of 20", "sampling 20 of 20"]
    list(Samples(run, 20, Recipe(batch_size=8)).gathered())
    assert capsys.readouterr().out == ""


def test_what_a_sampler_can_not_do_is_refused(run, train):
    uniform = train("digits-sngan-qua", "latent.prior=uniform")
    for refused, options, line in (
        (run, {"sampler": "ddl"}, "did you mean 'ddls'"),
        (run, {"refine": ["radiuss=1"]}, "refinement: unknown field 'radiuss': did you mean 'radius'"),
        (run, {"batch_size": 0}, "batch_size must be at least 1"),
        (run, {"sampler": "hubness"}, "choose a lower threshold"),
        (uniform, {"sampler": "ddls"}, "ddls needs the normal prior"),
        (uniform, {"sampler": "truncation"}, "this run's is uniform"),
    ):
        with pytest.raises(UserError, match=line):
            fastgan.sample(refused, 4, **options)
