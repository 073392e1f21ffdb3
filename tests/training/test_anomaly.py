import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toys import fresh_run

import fastgan
from fastgan import networks
from fastgan.checked import UserError
from fastgan.latent.inversion import Inverted
from fastgan.training.anomaly import anomaly_parts, auroc, score_images, truth_of
from fastgan.training.inverting import Manner, inversion, invert_images
from fastgan.training.sampling import write_image
from fastgan.training.targets import Targets

QUICK = Manner(inversion=inversion(["steps=100"]), pictured=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-sngan-qua")


@pytest.fixture
def folder(run, tmp_path):
    """What the generator draws, and noise."""
    noise = 2 * torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    for name, images in (("normal", fastgan.sample(run, 6, seed=3)), ("noise", noise)):
        for number, image in enumerate(images):
            write_image((image + 1) / 2, tmp_path / "mixed" / name / f"{number}.png")
    return tmp_path / "mixed"


def found(images, drawn, labels=None):
    count = len(images)
    counts = {name: torch.zeros(count, dtype=torch.int64) for name in ("steps", "starts")}
    rest = {"latents": torch.zeros(count, 8), "errors": torch.zeros(count), "losses": torch.zeros(count)}
    return Inverted(reconstructions=drawn, labels=labels, converged=counts["steps"].bool(), **counts, **rest)


@pytest.mark.parametrize(
    ("scores", "anomalous", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 3, 2, 4], [0, 0, 1, 1], 0.75),  # of four pairs one is the wrong way round
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),  # a tie counts half
        ([5, 5, 5], [0, 1, 0], 0.5),
    ],
)
def test_auroc_of_known_answers(scores, anomalous, expected):
    assert auroc(np.array(scores, float), np.array(anomalous)) == pytest.approx(expected)


def test_the_parts_are_sums_over_pixels_and_over_what_the_last_layer_is_given():
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.Tanh(), nn.Linear(7, 1), nn.Flatten(0)).eval()
    images, drawn = torch.randn(2, 5, 3, 4, 4).clamp(-1, 1)
    parts = anomaly_parts(judge, images, found(images, drawn))
    with torch.no_grad():
        features = [torch.tanh(judge[1](x.flatten(1))) for x in (images, drawn)]
    torch.testing.assert_close(parts["residual"], (images - drawn).abs().sum((1, 2, 3)))
    torch.testing.assert_close(parts["features"], (features[0] - features[1]).abs().sum(1))
    wrapped = networks.WithFeatures(judge).eval()
    torch.testing.assert_close(anomaly_parts(wrapped, images, found(images, drawn)), parts)
    assert not wrapped.training
    same = anomaly_parts(judge, images, found(images, images))
    assert not any(part.any() for part in same.values())


def test_noise_is_an_anomaly_to_a_generator_that_can_not_draw_it(run, folder, tmp_path):
    out = tmp_path / "out"
    result = score_images(run, Targets.of(run, folder), out, QUICK)
    assert result["auroc"] == {"score": 1.0, "residual": 1.0, "features": result["auroc"]["features"], "error": 1.0}
    assert result["normal"]["count"] == 6
    assert result["anomalous"]["count"] == 5
    assert result["anomalous"]["mean"] > 2 * result["normal"]["mean"]
    assert result["by_class"]["noise"]["auroc"] == 1.0
    assert "auroc" not in result["by_class"]["normal"]
    for row in result["scores"]:
        assert row["score"] == pytest.approx(0.9 * row["residual"] + 0.1 * row["features"])
        assert row["anomalous"] == (row["class"] == "noise")
    with (out / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in table] == [row["file"] for row in result["scores"]]
    assert [float(row["score"]) for row in table] == [row["score"] for row in result["scores"]]
    assert Image.open(out / "anomalies.png").size[0] > 400
    kept = json.loads((out / "summary.json").read_text())
    assert kept == {name: value for name, value in result.items() if name != "scores"}

    again = score_images(run, Targets.of(run, folder), out, QUICK, weight=1.0)  # what was found is used again
    assert [row["score"] for row in again["scores"]] == [row["features"] for row in result["scores"]]
    assert again["seconds"] == result["seconds"]


def test_scores_and_inversions_are_told_apart(run, folder, tmp_path):
    quick, targets = Manner(inversion=inversion(["steps=2"])), Targets.of(run, folder)
    invert_images(run, targets, tmp_path / "inverted", quick)
    score_images(run, targets, tmp_path / "scored", quick)
    with pytest.raises(UserError, match="inverted were begun with no anomaly scores: repeat that command"):
        score_images(run, targets, tmp_path / "inverted", QUICK)
    with pytest.raises(UserError, match="scored were begun with anomaly scores: repeat that command"):
        invert_images(run, targets, tmp_path / "scored", QUICK)


def test_without_a_folder_nothing_is_kept(run, folder, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = score_images(run, Targets.of(run, folder), None, QUICK)
    assert "files" not in result
    assert len(result["scores"]) == 11
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".fastgan-scan.npz"] == before


def test_without_classes_there_are_scores_alone(run, folder):
    result = score_images(run, Targets.of(run, folder / "normal"), None, QUICK)
    assert result["auroc"] is None
    assert result["by_class"] == {}
    assert {row["anomalous"] for row in result["scores"]} == {None}
    assert "normal" not in result


def test_classes_say_which_images_are_anomalous(run):
    digits = Targets.of(run, "held-out")
    labels = digits.source.labels
    assert truth_of(digits) is None
    assert np.array_equal(truth_of(digits, anomalous=["3"]), labels == 3)
    assert np.array_equal(truth_of(digits, normal=["3", "4"]), ~np.isin(labels, (3, 4)))
    both = truth_of(digits, normal=["0"], anomalous=["1"])
    assert {int(kind): set(labels[both == kind]) for kind in (0, 1)} == {0: {0}, 1: {1}}
    assert set(labels[both == -1]) == set(range(2, 10))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"normal": ["x"]}, "held-out has no class 'x'"),
        ({"normal": ["1"], "anomalous": ["1"]}, "can't be normal and anomalous"),
        ({"normal": list("0123456789")}, "no image of held-out is anomalous"),
        ({"anomalous": list("0123456789")}, "no image of held-out is normal"),
    ],
)
def test_classes_that_say_nothing(run, options, line):
    with pytest.raises(UserError, match=line):
        truth_of(Targets.of(run, "held-out"), **options)


def test_what_can_not_be_scored(run, folder):
    for weight in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match=r"weight must be in \[0, 1\]"):
            score_images(run, Targets.of(run, folder), None, QUICK, weight=weight)


def test_autoencoders_have_their_codes_for_features(tmp_path):
    small = ("network.content=4", "network.style=3", "network.blocks=1")
    run = fresh_run(tmp_path / "run", "gaia-digits", *small)
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8))
    targets = Targets.of(run, tmp_path / "x.npz")
    rows = score_images(run, targets, tmp_path / "out", Manner(inversion=inversion(["steps=3"])))["scores"]
    stored = np.load(tmp_path / "out" / "latents.npz")
    assert stored["latents"].shape == (3, 7)
    with torch.no_grad():
        drawn = run.ema_generator(torch.from_numpy(stored["latents"]))
        codes = [run.discriminator.autoencoder.encode(x) for x in (targets.take(range(3)), drawn)]
    expected = sum((ours - theirs).abs().flatten(1).sum(1) for ours, theirs in zip(*codes, strict=True))
    assert [row["features"] for row in rows] == pytest.approx(expected.tolist(), rel=1e-3)
    with pytest.raises(UserError, match="density of its latents, for prior_weight, is not known"):
        score_images(run, targets, None, Manner(inversion=inversion(["prior_weight=0.1"])))
