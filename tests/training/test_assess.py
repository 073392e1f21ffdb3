"""Metrics of runs and of folders: names, references, files that are kept, and what is refused."""

import json
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.evaluation import Features, extractors, frechet_distance
from fastgan.training.assess import METRICS, evaluate, evaluate_images, truncation_curve, wanted
from fastgan.training.sampling import Recipe, Samples

QUICK = (*TINY, "training.precision=fp32", "training.sample_every=0")


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(extractors.WEIGHTS, raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = override(fastgan.preset("digits-cdcgan-qua"), [*QUICK, "training.steps=2"])
    return fastgan.train(config, tmp_path_factory.mktemp("runs") / "run", quiet=True)


@pytest.fixture(scope="module")
def of_images(tmp_path_factory):
    """A run on an array of images, of no classes."""
    folder = tmp_path_factory.mktemp("images")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8))
    settings = (*QUICK, "training.steps=1", "data.source=arrays", f"data.path={folder / 'images.npy'}", "data.channels=3")
    return fastgan.train(override(fastgan.preset("digits-sngan"), settings), folder / "run", quiet=True)


def _by_metric(found):
    """Results by the metric's name, without the features'."""
    return {name.partition("-")[0]: result for name, result in found["metrics"].items()}


def write_folder(path, count, size=(16, 16), seed=0):
    path.mkdir()
    random = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path / f"{number:03d}.png")
    return path


def test_all_metrics_of_a_conditional_run(run):
    names = [name for name, metric in METRICS.items() if not metric.needs & {"points", "stacks"}]
    found = evaluate(run, names, num=300)
    assert list(found["metrics"]) == [
        "fd-digits", "kid-digits", "is-digits", "prc-digits", "prdc-digits", "density-coverage-digits", "ndb-digits",
        "kde", "diversity-digits", "intra-fd-digits", "cas",
    ]  # fmt: skip
    for name, one in found["metrics"].items():
        assert np.isfinite(one["value"]), name
        assert not re.search(r"\bFID\b", one["title"])
    titles = {name: one["title"] for name, one in found["metrics"].items()}
    assert titles["kid-digits"] == "KID-digits (train, 1442 real, 300 generated)"
    assert titles["kde"] == "KDE-pixels (held-out, 355 real, 300 generated)"
    assert titles["intra-fd-digits"] == "intra-FD-digits (train, 1442 real, 300 generated)"
    assert found["metrics"]["cas"]["real"] > 0.5
    assert set(found["features"]) == {"digits", "pixels"}
    assert {"draw", "features", "real", "kid-digits", "cas"} <= set(found["seconds"])
    assert found["peak_memory"] > 1e8
    json.dumps(found)


def test_metrics_share_a_pass_and_stay_what_they_are(run):
    """The features of a pass are those of the samples, and a metric's number does not depend on its company."""
    together = evaluate(run, ["fd-digits", "kid-digits", "kde"], num=100)["metrics"]
    for name in together:
        assert evaluate(run, [name], num=100)["metrics"][name] == together[name]
    raw = evaluate(run, ["fd-digits"], num=100, raw_weights=True)
    assert raw["weights"] == "raw"
    assert raw["metrics"]["fd-digits"]["value"] != together["fd-digits"]["value"]
    held_out = evaluate(run, ["fd-digits"], num=100, split="held-out")["metrics"]["fd-digits"]
    assert held_out["title"] == "FD-digits (held-out, 355 real, 100 generated)"
    assert held_out["value"] != together["fd-digits"]["value"]


def test_the_floor_of_digits_is_their_distance(run):
    """Real held-out digits judged as if they had been generated stand at the floor."""
    found = evaluate(run, ["fd-digits"], num=20)["metrics"]["fd-digits"]
    evaluate(run, ["fd-digits"], num=20, split="held-out")
    kept = {one.about["split"]: one for one in map(Features.load, (run.path / "evaluation").glob("real-digits-*.npz"))}
    assert frechet_distance(kept["train"].gaussian, kept["held-out"].gaussian) == pytest.approx(found["floor"], rel=1e-9)


def test_labels_are_those_of_the_samples(run):
    samples = Samples(run, 70, Recipe(labels="uniform"))
    seen = list(samples.looked_at(lambda numbers, images: (samples.labels(numbers), images)))
    labels, images = (torch.cat(column) for column in zip(*seen, strict=True))
    again = fastgan.sample(run, 70, labels="uniform")
    assert torch.equal(images, again)
    picked = fastgan.sample(run, 70, labels=labels.tolist())
    torch.testing.assert_close(picked, again)


def test_real_statistics_are_kept_by_what_they_depend_on(run, of_images):
    folder = of_images.path / "evaluation"
    first = evaluate(of_images, ["kid-pixels"], num=30)["metrics"]
    (kept,) = folder.glob("real-pixels-*.npz")
    stamp = kept.stat().st_mtime_ns
    assert evaluate(of_images, ["kid-pixels"], num=30)["metrics"] == first
    assert kept.stat().st_mtime_ns == stamp
    kept.write_bytes(kept.read_bytes()[:-50])
    assert evaluate(of_images, ["kid-pixels"], num=30)["metrics"] == first
    assert len(Features.load(kept).features) == 40
    evaluate(of_images, ["kid-pixels", "fd-pixels"], num=30, split="all")
    assert len(list(folder.glob("real-*"))) == 2
    # Real images are shown as they are: all of them once.
    images = np.load(of_images.config.data.path)
    rows = Features.load(kept).features.mul(255).round().to(torch.uint8)
    expected = torch.from_numpy(images).permute(0, 3, 1, 2).flatten(1)
    assert sorted(rows.tolist()) == sorted(expected.tolist())


def test_a_curve_of_truncations(run):
    curve = truncation_curve(run, [0.3, 1.0], ["fd-digits"], 40)["curve"]
    assert [one["truncation"] for one in curve] == [0.3, 1.0]
    assert curve[1] | {"seconds": 0, "peak_memory": 0} == evaluate(run, ["fd-digits"], 40, truncation=1.0) | {
        "seconds": 0,
        "peak_memory": 0,
    }


def test_folders_are_judged_as_torch_fidelity_does(tmp_path, inception_weights):
    """Of images of different sizes, by the weights of a file."""
    from torch_fidelity import calculate_metrics

    real, generated = write_folder(tmp_path / "real", 5), write_folder(tmp_path / "generated", 10, (20, 16), 1)
    with pytest.raises(UserError, match="differ in size, 16x16 and 16x20: give --resolution"):
        evaluate_images(real, generated, ["kid"], feature_weights=inception_weights)
    found = evaluate_images(real, generated, ["kid", "is", "prc"], feature_weights=inception_weights, resolution=12)
    theirs = calculate_metrics(
        input1=str(generated), input2=str(real), samples_resize_and_crop=12, cuda=False, cache=False, verbose=False,
        kid=True, kid_subset_size=5, isc=True, prc=True, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights), save_cpu_ram=True,
    )  # fmt: skip
    metrics = _by_metric(found)
    # Random weights tell images hardly apart: beside kernels of about 1 the distance is 3e-5, and theirs is of float32.
    assert metrics["kid"]["value"] == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)
    assert metrics["is"]["value"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert metrics["prc"]["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert metrics["prc"]["recall"] == pytest.approx(theirs["recall"], rel=1e-6)
    assert re.fullmatch(r"KID-inception-[0-9a-f]{8} \(folder, 5 real, 10 generated\)", metrics["kid"]["title"])
    (kept,) = (tmp_path / "cache/fastgan/evaluation").glob("real-*.npz")
    again = evaluate_images(kept, generated, ["kid", "is", "prc"], feature_weights=inception_weights, resolution=12)
    assert _by_metric(again) == metrics
    with pytest.raises(UserError, match="is of images of 12x12 pixels, not 13x13"):
        evaluate_images(kept, generated, ["kid"], feature_weights=inception_weights, resolution=13)
    with pytest.raises(UserError, match="of other weights than these of pixels"):
        evaluate_images(kept, generated, ["kid-pixels"], resolution=12)


def test_identical_and_disjoint_folders(tmp_path):
    real, other = write_folder(tmp_path / "real", 30), write_folder(tmp_path / "other", 30, seed=1)
    names = ["fd", "kid", "prc", "prdc", "kde"]
    same = evaluate_images(real, real, names, features="pixels")["metrics"]
    assert list(same) == ["fd-pixels", "kid-pixels", "prc-pixels", "prdc-pixels", "kde"]
    assert same["fd-pixels"]["value"] == pytest.approx(0, abs=1e-9)
    assert (same["prc-pixels"]["precision"], same["prc-pixels"]["recall"]) == (1, 1)
    assert (same["prdc-pixels"]["precision"], same["prdc-pixels"]["coverage"]) == (1, 1)
    for number in range(30):
        Image.fromarray(np.full((16, 16, 3), 255 - number, np.uint8)).save(other / f"{number:03d}.png")
    apart = evaluate_images(real, other, names, features="pixels")["metrics"]
    assert apart["fd-pixels"]["value"] > 100
    assert (apart["prc-pixels"]["precision"], apart["prc-pixels"]["recall"]) == (0, 0)
    assert (apart["prdc-pixels"]["density"], apart["prdc-pixels"]["coverage"]) == (0, 0)


def test_a_run_is_judged_by_a_folder(of_images, tmp_path):
    real = write_folder(tmp_path / "real", 30, (20, 20))
    found = evaluate(of_images, ["fd-pixels"], num=20, real=real)["metrics"]["fd-pixels"]
    assert found["title"] == "FD-pixels (folder, 30 real, 20 generated)"


@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [
        ("fid", None, ("fid", "inception")),
        ("fid", "digits", ("fid", "digits")),
        ("fd-digits", None, ("fid", "digits")),
        ("density-coverage-pixels", "digits", ("density-coverage", "pixels")),
        ("fd-random", None, ("fid", "random")),
        ("kde", None, ("kde", "pixels")),
        ("kde-vgg16", None, ("kde", "vgg16")),
        ("intra-fd", None, ("intra-fid", "inception")),
        ("cas", None, ("cas", None)),
    ],
)
def test_names(name, features, expected):
    assert wanted(name, features, "inception") == expected


def test_what_cannot_be_judged_is_refused(run, of_images, tmp_path):
    real = write_folder(tmp_path / "real", 4)
    for judge, line in (
        (lambda: evaluate(run, ["fdi"], 20), "unknown metric 'fdi': did you mean 'fid'"),
        (lambda: evaluate(run, ["kid-digit"], 20), "unknown metric 'kid-digit'"),
        (lambda: evaluate(run, ["kid"], 20, features="digit"), "there are no features 'digit': did you mean 'digits'"),
        (lambda: evaluate(run, ["fid"], 20, features="inception"), "inception features need a weights file .* fetch https"),
        (lambda: evaluate(of_images, ["fid"], 20), "inception features need a weights file"),
        (lambda: evaluate(of_images, ["fd-digits"], 20), "digits are judged of runs trained on digits"),
        (lambda: evaluate(of_images, ["cas"], 20), "judges class-conditional runs"),
        (lambda: evaluate(of_images, ["intra-fid-pixels"], 20), "judges class-conditional runs"),
        (lambda: evaluate(of_images, ["kid-pixels"], 20, split="held-out"), "no held-out split"),
        (lambda: evaluate(of_images, ["kid-pixels"], 20, split="test"), "unknown split 'test'"),
        (lambda: evaluate(of_images, ["is-pixels"], 20), "come without the logits"),
        (lambda: evaluate(of_images, ["fd-random"], 20), "random features can't be had .* 16x16 pixels, fewer than 32 a side"),
        (lambda: evaluate(of_images, ["good-samples"], 20), "judges points"),
        (lambda: evaluate(of_images, ["prc-pixels"], 3), "prc-pixels: nearest must be"),
        (lambda: evaluate(of_images, ["kid-pixels"], 9, real=tmp_path / "none"), "does not exist"),
        (lambda: evaluate_images(real, tmp_path / "none", ["kid-pixels"]), "does not exist"),
        (lambda: evaluate_images(real, real, ["cas"]), "cas judges runs, not folders"),
        (lambda: evaluate_images(real, real, ["kid-pixels"], resolution=0), "at least 1"),
        (lambda: evaluate_images(real, real), "inception features need a weights file"),
    ):
        with pytest.raises(UserError, match=line) as refused:
            judge()
        assert "\n" not in str(refused.value)
    (real / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 5 images do not decode: bad\.png"):
        evaluate_images(real, real, ["kid-pixels"])
    damaged = tmp_path / "statistics.npz"
    damaged.write_bytes(b"PK")
    with pytest.raises(UserError, match="or is damaged"):
        evaluate_images(damaged, write_folder(tmp_path / "others", 4), ["kid-pixels"])


def test_a_folder_that_cannot_keep_statistics_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "file"))
    real = write_folder(tmp_path / "real", 4)
    assert evaluate_images(real, real, ["fd-pixels"])["num"] == 4
