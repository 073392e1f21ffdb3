import dataclasses

import pytest
import torch
from PIL import Image
from toys import fresh_run

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.latent import Prior
from fastgan.latent.paths import interpolate
from fastgan.training.traversal import thresholds, traverse, write_traversal


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-sngan-qua")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-cdcgan-qua")


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_a_row_leads_from_one_sample_to_the_next(run, kind):
    walks = traverse(run, 3, 5, kind=kind, seed=4, batch_size=4)
    samples = fastgan.sample(run, 6, seed=4)
    assert walks.shape == (3, 5, 1, 16, 16)
    torch.testing.assert_close(walks[:, 0], samples[::2])
    torch.testing.assert_close(walks[:, -1], samples[1::2])
    z = Prior(8)(Draw(4, "samples", 0, torch.arange(6)))
    with torch.no_grad():
        expected = run.ema_generator(interpolate(z[::2], z[1::2], 5, kind)[:, 2])
    torch.testing.assert_close(walks[:, 2], expected)


def test_linear_and_spherical_walks_differ_between_their_ends(run):
    line, arc = traverse(run, 3, 5), traverse(run, 3, 5, kind="spherical")
    assert not torch.allclose(line[:, 2], arc[:, 2], atol=1e-4)


def test_every_latent_shown_is_refined(run):
    walks = traverse(run, 2, 3, refine_steps=2, step_size=0.1)
    samples = fastgan.sample(run, 4, refine_steps=2, step_size=0.1)
    torch.testing.assert_close(walks[:, 0], samples[::2])
    torch.testing.assert_close(walks[:, -1], samples[1::2])
    assert not torch.allclose(walks[:, 1], traverse(run, 2, 3)[:, 1], atol=1e-4)


def test_a_sweep_of_truncations_shows_samples_as_they_are_truncated(run):
    walks = traverse(run, 3, 4, sweep="truncation")
    assert thresholds(4) == [0.5, 1.0, 1.5, 2.0]
    for column, cut in enumerate(thresholds(4)):
        torch.testing.assert_close(walks[:, column], fastgan.sample(run, 3, truncation=cut))


def test_a_row_of_a_conditional_run_keeps_its_class(conditional):
    walks, samples = traverse(conditional, 3, 3, labels=[7]), fastgan.sample(conditional, 6, labels=[7])
    torch.testing.assert_close(walks[:, [0, -1]].flatten(0, 1), samples)
    cycled = traverse(conditional, 2, 3, labels=[7, 1])
    torch.testing.assert_close(cycled[0], walks[0])
    torch.testing.assert_close(cycled[1, 0], fastgan.sample(conditional, 3, labels=[1])[2])


def test_a_sweep_of_classes_shows_one_latent_a_row(conditional):
    walks = traverse(conditional, 2, 16, sweep="classes")
    assert walks.shape[:2] == (2, 10)
    for label in (0, 9):
        torch.testing.assert_close(walks[:, label], fastgan.sample(conditional, 2, labels=[label]))
    torch.testing.assert_close(traverse(conditional, 2, sweep="classes", labels=[9, 0]), walks[:, [9, 0]])
    assert traverse(conditional, 1, 3, sweep="classes").shape[:2] == (1, 3)


def test_it_is_written_a_walk_a_row(run, tmp_path):
    assert write_traversal(run, tmp_path / "new" / "x.png", 2, 3).images.shape[:2] == (2, 3)
    assert Image.open(tmp_path / "new" / "x.png").size == (3 * 18 + 2, 2 * 18 + 2)


def test_what_can_not_be_walked_is_refused(run, conditional, tmp_path):
    uniform = dataclasses.replace(run, config=override(run.config, ["latent.prior=uniform"]))
    points = fresh_run(tmp_path, "grid25", "latent.dim=2")
    for given, options, line in (
        (run, {"rows": 0}, "rows must be at least 1, not 0"),
        (run, {"steps": 1}, "steps must be at least 2, not 1"),
        (run, {"kind": "cubic"}, "unknown kind 'cubic'"),
        (run, {"sweep": "class"}, "unknown sweep 'class'.*classes"),
        (run, {"sweep": "classes"}, "not class-conditional"),
        (run, {"sweep": "truncation", "truncation": 1.0}, "takes no truncation of its own"),
        (run, {"sampler": "drs"}, "by the plain sampler"),
        (run, {"labels": [1]}, "not class-conditional"),
        (conditional, {"sweep": "classes", "labels": [10]}, "label 10 is out of range"),
        (uniform, {"sweep": "truncation"}, "this run's is uniform"),
        (points, {}, "draws points"),
    ):
        with pytest.raises(UserError, match=line):
            traverse(given, **options)
    with pytest.raises(UserError, match=r"written as \.png"):
        write_traversal(run, tmp_path / "x.jpg")
    assert not (tmp_path / "x.jpg").exists()
