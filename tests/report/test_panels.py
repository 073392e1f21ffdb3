"""What the networks draw for the page."""

import pytest
import torch
from toys import TINY

import fastgan
from fastgan.config import override
from fastgan.data import Stream, open_source
from fastgan.presets import preset
from fastgan.report import panels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = override(preset("digits-cdcgan"), [*TINY, "data.resolution=16"])
    return fastgan.train(config, tmp_path_factory.mktemp("panels") / "run", steps=1, quiet=True)


@pytest.fixture(scope="module")
def real():
    source = open_source("digits")
    stream = Stream(source, resolution=16, channels=1, batch_size=len(source), seed=0)
    images = next(stream)["images"]
    stream.close()
    return images


def test_neighbours_are_those_of_the_whole_table(run, real):
    samples = panels.drawn(run, 5)
    found = panels.nearest_real(run, samples, "pixels")
    table = (samples.flatten(1)[:, None].double() - real.flatten(1)[None].double()).square().mean(2).sqrt()
    distances, order = table.sort(dim=1)
    assert (found.count, found.of) == (len(real), len(real))
    assert found.images.shape == (5, 4, 1, 16, 16)
    assert torch.equal(found.images[:, 0], samples)
    torch.testing.assert_close(found.distances.double(), distances[:, 0], rtol=1e-4, atol=1e-5)
    shown = (found.images[:, 1:] - samples[:, None]).double().square().mean((2, 3, 4)).sqrt()
    torch.testing.assert_close(shown, distances[:, :3], rtol=1e-4, atol=1e-5)
    assert torch.equal(found.images[0, 1], real[order[0, 0]])


def test_a_copy_is_found_and_stands_out(run, real):
    for by in ("pixels", "features"):
        found = panels.nearest_real(run, real[7:9], by)
        torch.testing.assert_close(found.images[:, 1], real[7:9])
        assert (found.distances < 0.05 * found.among_real).all()


def test_large_sets_are_looked_through_in_part(run, real, monkeypatch):
    monkeypatch.setattr(panels, "MOST_REAL", 100)
    found = panels.nearest_real(run, real[:2], "pixels")
    assert (found.count, found.of) == (100, len(real))


def test_paths_end_in_what_the_generator_draws_and_stay_in_their_class(run):
    linear, spherical = (panels.paths(run, 3, 5, kind) for kind in ("linear", "spherical"))
    assert linear.shape == (3, 5, 1, 16, 16)
    torch.testing.assert_close(linear[:, [0, -1]], spherical[:, [0, -1]], rtol=0, atol=0.02)  # bf16, where the run has it
    assert not torch.allclose(linear[:, 2], spherical[:, 2], atol=1e-3)
    torch.testing.assert_close(panels.paths(run, 3, 5, "linear"), linear, rtol=0, atol=0)


def test_refinements_are_the_runs_own(run):
    plain, usual = panels.refinements(run)
    assert plain.plain
    assert (usual.refine_steps, usual.step_size) == (20, 0.05)
    settings = ["latent.refine_steps=2", "latent.step_size=0.01", "latent.radius=0.3", "latent.momentum=0.5"]
    trained = type(run)(**{**vars(run), "config": override(run.config, settings)})
    plain, own, more = panels.refinements(trained)
    assert [recipe.refine_steps for recipe in (plain, own, more)] == [0, 2, 20]
    assert own.refinement.step_size == more.refinement.step_size == 0.01
    assert (own.refinement.radius, own.refinement.momentum) == (0.3, 0.5)


def test_refinement_raises_the_mean_score(run):
    plain, refined = (panels.drawn(run, 20, recipe) for recipe in panels.refinements(run))
    assert panels.mean_score(run, refined) > panels.mean_score(run, plain)
