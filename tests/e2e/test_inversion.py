"""`fastgan invert` and `fastgan anomaly` as a user runs them: what they write, and each mistake in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from fastgan.commands.anomaly import anomaly
from fastgan.commands.invert import invert
from fastgan.latent import Inversion
from fastgan.training.inverting import Manner


@pytest.fixture
def refused(fastgan):
    def run(*arguments):
        code, out, said = fastgan(*arguments)
        assert (code, out) == (2, ""), said
        assert said.startswith("fastgan: ")
        assert said.count("\n") == 1, said
        return said

    return run


@pytest.fixture
def photos(run_folder, fastgan, tmp_path):
    """Twelve samples of the run, of a size that is not the run's, and four pictures of noise."""
    code, _, said = fastgan("sample", run_folder, "--num", 12, "--out", tmp_path / "photos" / "normal")
    assert code == 0, said
    for path in (tmp_path / "photos" / "normal").glob("*.png"):
        Image.open(path).convert("L").resize((24, 20)).save(path)
    (tmp_path / "photos" / "anomalous").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (20, 24), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / "anomalous" / f"{number}.png")
    return tmp_path / "photos"


def test_invert(run_folder, fastgan, photos, tmp_path):
    words = ("invert", run_folder, "--images", photos, "--out", tmp_path / "out", "--steps", 5, "--starts", 2)
    words += ("--invert-set", "schedule=linear", "prior_weight=0.01", "--latents", "safetensors", "--json", tmp_path / "x.json")
    code, out, said = fastgan(*words)
    assert code == 0, said
    assert "16 images in 2 classes of" in out
    assert "resized from 24x20 to 16x16" in out
    assert "mean squared error: mean " in out
    assert "16 images of round 4, 2 starts of 5 iterations each" in out
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["count"] == 16
    assert (
        found["settings"]["inversion"] | {"schedule": "linear", "prior_weight": 0.01, "starts": 2, "steps": 5}
        == (found["settings"]["inversion"])
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "errors.csv", "errors.jsonl", "latents.safetensors", "reconstructions.png", "settings.json", "summary.json",
    ]  # fmt: skip
    code, again, said = fastgan(*words)
    assert (code, again) == (0, out), said


def test_help_tells_the_defaults():
    usual = Inversion()
    for command in (invert, anomaly):
        assert f"steps: Iterations of each start (default: {usual.steps})" in command.__doc__
        assert f"(default: {usual.rate})" in command.__doc__
        assert f"the best one kept (default: {usual.starts})" in command.__doc__
        assert f"(default: {Manner().batch_size})" in command.__doc__
        assert f"(default: {usual.optimiser})" in command.__doc__


def test_invert_the_run_s_own_images(run_folder, fastgan, tmp_path):
    code, out, said = fastgan("invert", run_folder, "--images", "held-out", "--out", tmp_path / "out", "--steps", 1)
    assert code == 0, said
    assert "355 images in 10 classes of the run's own (digits, held-out): all resized from 8x8 to 16x16" in out
    assert "worst classes by mean: " in out


def test_anomaly(run_folder, fastgan, photos, tmp_path):
    words = ("anomaly", run_folder, "--images", photos, "--steps", 60, "--json", tmp_path / "x.json")
    code, out, said = fastgan(*words, "--out", tmp_path / "out")
    assert code == 0, said
    assert "normal: 12 images, score " in out
    assert "AUROC: " in out
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["auroc"]["score"] > 0.9
    assert len(found["scores"]) == 16
    assert (tmp_path / "out" / "anomalies.png").exists()
    code, out, said = fastgan(*words[:3], photos / "normal", *words[4:])
    assert code == 0, said
    assert "anomaly score: mean " in out
    assert "AUROC" not in out


@pytest.mark.parametrize("command", ["invert", "anomaly"])
def test_mistakes(run_folder, refused, photos, tmp_path, command):
    def line(run=run_folder, images=photos, out=tmp_path / "out", *further):
        return refused(command, run, "--images", images, "--out", out, "--steps", 2, *further)

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "colour").mkdir()
    Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "colour" / "a.png")
    assert "there is no run in" in line(tmp_path / "none")
    assert "does not exist" in line(images=tmp_path / "none")
    assert "holds no images" in line(images=tmp_path / "empty")
    assert "in colour, but the run in" in line(images=tmp_path / "colour")
    assert "it takes no labels" in line(run_folder, photos, tmp_path / "out", "--labels", "3")
    assert "can't be written" in line(out=tmp_path / "file")
    assert "whose images these are" in line(out=photos / "out")
    assert not (photos / "out").exists()
    assert f"set --images to {photos}" in line(images=photos.parent)
    assert "unknown field 'step': did you mean 'steps'" in line(run_folder, photos, tmp_path / "out", "--invert-set", "step=3")
    assert "rate must be above 0" in line(run_folder, photos, tmp_path / "out", "--rate", "-1")
    assert "no checkpoint of round 3" in line(run_folder, photos, tmp_path / "out", "--checkpoint", "3")
    assert "batch_size must be at least 1" in line(run_folder, photos, tmp_path / "out", "--batch-size", "0")
    assert not (tmp_path / "out").exists()


def test_mistakes_in_lists(run_folder, refused, photos, tmp_path):
    words = (run_folder, "--images", photos, "--out", tmp_path / "out", "--steps", 2)
    for given in ("-1", "0.1,nan", "0.1,"):
        assert "--thresholds takes numbers" in refused("invert", *words, "--thresholds", given)
    assert "--normal takes classes divided by commas, not 'normal,'" in refused("anomaly", *words, "--normal", "normal,")
    assert not (tmp_path / "out").exists()


def test_one_is_one(run_folder, fastgan, photos, tmp_path):
    (tmp_path / "one").mkdir()
    (photos / "normal" / "000000.png").rename(tmp_path / "one" / "a.png")
    words = (run_folder, "--images", tmp_path / "one", "--steps", 1)
    code, out, said = fastgan("invert", *words, "--out", tmp_path / "out", "--thresholds", "0.1,1e-1,0.01")
    assert code == 0, said
    assert "1 image of round 4, 1 start of 1 iteration each" in out
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("below")] == ["below 0.01", "below 0.1"]
    code, out, said = fastgan("anomaly", *words, "--out", tmp_path / "scored", "--optimiser", "adam")
    assert code == 0, said
    assert "1 image of round 4" in out
    assert json.loads((tmp_path / "scored" / "settings.json").read_text())["settings"]["inversion"]["optimiser"] == "adam"


@pytest.mark.parametrize("command", ["invert", "anomaly"])
def test_damaged_images_are_named_and_refused_or_left_out(run_folder, fastgan, refused, photos, tmp_path, command):
    spoiled = photos / "normal" / "000003.png"
    spoiled.write_bytes(spoiled.read_bytes()[:60])
    words = (command, run_folder, "--images", photos, "--out", tmp_path / "out", "--steps", 2, "--json", tmp_path / "x.json")
    said = refused(*words)
    assert "normal/000003.png" in said
    assert said.endswith("leave them out with --on-bad-image skip\n")
    assert not (tmp_path / "out").exists()
    code, out, said = fastgan(*words, "--on-bad-image", "skip")
    assert code == 0, said
    assert "15 images in 2 classes" in out
    assert "normal/000003.png" in out
    assert json.loads((tmp_path / "x.json").read_text())["count"] == 15


def test_other_settings_leave_what_was_finished(run_folder, fastgan, refused, photos, tmp_path):
    words = ("invert", run_folder, "--images", photos, "--out", tmp_path / "out")
    assert fastgan(*words, "--steps", 2)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "begun with inversion.steps 2 and not 3" in refused(*words, "--steps", 3)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "latents.npz").unlink()
    assert "was finished, but lacks latents.npz" in refused(*words, "--steps", 2)
