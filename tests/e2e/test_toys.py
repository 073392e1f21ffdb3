"""Points in the plane, by the commands as a user types them: train, look, judge, go on."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fastgan as package
from fastgan.training import checkpoint

SMALL = ("network.width=8", "training.batch_size=32", "training.log_every=2", "training.checkpoint_every=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys") / "run"
    config = package.config.override(package.preset("grid25-qua"), [*SMALL, "training.sample_every=2"])
    package.train(config, folder, steps=4, quiet=True)
    return folder


def test_training_ends_with_the_good_sample_rate(fastgan, tmp_path):
    code, shown, said = fastgan("train", "ring8", "--run-dir", tmp_path / "run", "--steps", 2, "--set", *SMALL)
    assert code == 0, said
    (line,) = [line for line in shown.splitlines() if line.startswith("good samples")]
    assert line.count("of 8 modes") == 2
    assert " trained, " in line
    assert line.endswith(" untrained")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["metrics"]["good-samples"]["of"] == found["untrained"]["good-samples"]["of"] == 8


def test_a_run_without_modes_trains_and_is_drawn(fastgan, tmp_path):
    assert fastgan("train", "swiss-roll", "--run-dir", tmp_path / "run", "--steps", 2, "--set", *SMALL)[0] == 0
    assert fastgan("sample", tmp_path / "run", "--num", 30, "--refine-steps", 1, "--out", tmp_path / "x.png")[0] == 0
    code, _, said = fastgan("evaluate", tmp_path / "run", "--metrics", "good-samples")
    assert code == 2
    assert "points with modes" in said


def test_samples_of_training_are_pictures_of_points(finished):
    assert sorted(p.name for p in (finished / "samples").iterdir()) == ["00000002.png", "00000004.png"]
    assert Image.open(finished / "samples" / "00000004.png").size == (450, 480)
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert [(event.width, event.height) for event in events.Images("samples")] == [(450, 480)] * 2


def test_sample_draws_a_picture_or_writes_points(fastgan, finished, tmp_path):
    options = ["--num", 40, "--refine-steps", 2, "--step-size", 0.1, "--seed", 3]
    assert fastgan("sample", finished, *options, "--out", tmp_path / "x.png")[0] == 0
    assert Image.open(tmp_path / "x.png").size == (900, 480)
    assert fastgan("sample", finished, "--out", tmp_path / "plain.png")[0] == 0
    assert Image.open(tmp_path / "plain.png").size == (450, 480)
    code, shown, _ = fastgan("sample", finished, *options, "--out", tmp_path / "points")
    assert code == 0
    assert "40 samples of round 4" in shown
    points = np.load(tmp_path / "points" / "points.npy")
    refined = package.sample(package.load_run(finished), 40, 2, 0.1, seed=3)
    assert np.array_equal(points, refined.numpy())
    assert refined.shape == (40, 2)


def test_evaluate_tells_before_and_after(fastgan, finished, tmp_path):
    path = tmp_path / "result.json"
    code, shown, _ = fastgan("evaluate", finished, "--num", 300, "--refine-steps", 2, "--step-size", 0.1, "--json", path)
    assert code == 0
    assert " refined, " in shown
    assert " plain" in shown
    found = json.loads(path.read_text())
    assert found["metrics"]["good-samples"]["num"] == found["plain"]["good-samples"]["num"] == 300
    _, shown, _ = fastgan("evaluate", finished, "--num", 300, "--json", path)
    assert "plain" not in shown
    assert json.loads(path.read_text())["metrics"] == found["plain"]


def test_samplers_are_drawn_and_judged_beside_plain_points(fastgan, finished, tmp_path):
    asked = ["--num", 40, "--sampler", "mh", "--sampler-set", "proposals=3", "calibrated_on=200"]
    assert fastgan("sample", finished, *asked, "--out", tmp_path / "x.png")[0] == 0
    assert Image.open(tmp_path / "x.png").size == (900, 480)
    code, shown, _ = fastgan("evaluate", finished, *asked, "--json", tmp_path / "x.json")
    assert code == 0
    assert " mh, " in shown
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["plain"]["good-samples"]["num"] == 40


def test_a_resumed_run_equals_the_undisturbed_one(fastgan, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "00000004.pt").unlink()
    assert fastgan("train", "--run-dir", tmp_path / "run", "--resume")[0] == 0
    one, other = (checkpoint.load(folder / "checkpoints" / "00000004.pt") for folder in (finished, tmp_path / "run"))
    assert one["stream"] == other["stream"]
    assert one["stream"]["images_seen"] == 4 * 32
    for part in ("game", "average"):
        for name, tensor in one[part].items():
            assert torch.equal(tensor, other[part][name]), name


@pytest.mark.parametrize(
    ("preset", "assignment", "sentence"),
    [
        ("grid25", "network.family=sn-cnn", "gives points, which network.family sn-cnn can't draw"),
        ("digits-r1", "network.family=mlp", "gives images, which network.family mlp can't draw"),
        ("grid25", "data.noise=0.1", "takes no data.noise"),
        ("ring8", "data.flip=true", "takes no data.flip"),
        ("ring8", "data.path=x.npy", "takes no data.path"),
        ("ring8", "data.source=ring9", "did you mean 'ring8'"),
    ],
)
def test_what_does_not_go_with_points_is_refused(fastgan, tmp_path, preset, assignment, sentence):
    code, _, said = fastgan("train", preset, "--run-dir", tmp_path / "run", "--set", assignment)
    assert code == 2
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
