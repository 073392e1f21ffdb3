"""What experiments share: runs, means, results."""

import json

import pytest

from bench import experiments
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.presets import preset


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Presets of two rounds."""
    monkeypatch.setattr(experiments, "preset", lambda name: override(preset(name), POINTS))


POINTS = ("training.steps=2", "network.width=8", "training.batch_size=8", "training.checkpoint_every=1")


def test_a_run_is_trained_once_and_resumed_where_it_was_stopped(tmp_path):
    first = experiments.trained("grid25", 3, tmp_path)
    assert first.config.seed == 3
    assert first.round == 2
    newest = first.folder.newest_checkpoint()
    written = newest.stat().st_mtime_ns
    assert experiments.trained("grid25", 3, tmp_path).path == first.path
    assert newest.stat().st_mtime_ns == written
    newest.unlink()
    assert experiments.trained("grid25", 3, tmp_path).round == 2
    assert experiments.trained("grid25", 3, tmp_path, "latent.dim=3").config.latent.dim == 3


def test_a_run_that_was_interrupted_is_not_judged(tmp_path, monkeypatch):
    train = experiments.fastgan.train

    def interrupted(config, folder, resume):
        train(config, folder, resume=resume).folder.newest_checkpoint().unlink()

    monkeypatch.setattr(experiments.fastgan, "train", interrupted)
    with pytest.raises(UserError, match="interrupted at round 1 of 2"):
        experiments.trained("grid25", 0, tmp_path)
    monkeypatch.setattr(experiments.fastgan, "train", train)
    assert experiments.trained("grid25", 0, tmp_path).round == 2


def test_a_run_of_another_configuration_is_not_taken_for_the_one_asked_for(tmp_path, monkeypatch):
    experiments.trained("grid25", 0, tmp_path)
    monkeypatch.setattr(experiments, "preset", lambda name: override(preset(name), (*POINTS, "training.threads=2")))
    experiments.trained("grid25", 0, tmp_path)  # how it was computed is no matter
    monkeypatch.setattr(experiments, "preset", lambda name: override(preset(name), (*POINTS, "latent.refine_steps=2")))
    with pytest.raises(UserError, match="grid25-0 is of another configuration"):
        experiments.trained("grid25", 0, tmp_path)


def test_means_over_seeds():
    rows = [{"a": 1, "seed": s, "x": x} for s, x in enumerate((1.0, 2.0, 6.0))] + [{"a": 2, "seed": 0, "x": 5.0}]
    assert experiments.mean_by(rows, ("a",), "x") == {(1,): (3.0, pytest.approx(7**0.5)), (2,): (5.0, 0.0)}


def test_results_are_json(tmp_path):
    experiments.write(tmp_path / "a" / "b.json", {"x": [1, 2]})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"x": [1, 2]}
