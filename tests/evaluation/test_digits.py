"""FD-digits: what the classifier must know and must not depend on, the order of the distances, the report, the cache."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fastgan.evaluation import (
    DigitsClassifier,
    DigitsJudge,
    cached_classifier,
    classifier_key,
    digits,
    fd_digits,
    train_classifier,
)


@dataclasses.dataclass
class Digits:
    train: torch.Tensor
    train_labels: torch.Tensor
    held_out: torch.Tensor
    held_out_labels: torch.Tensor


@pytest.fixture(scope="session")
def data() -> Digits:
    """sklearn's digits enlarged to 32x32; every fifth of a class is held out."""
    bunch = load_digits()
    images = torch.tensor(np.round(bunch.images * (255 / 16)), dtype=torch.float32)[:, None] / 127.5 - 1
    images = F.interpolate(images, size=(32, 32), mode="bicubic", align_corners=False).clamp(-1, 1)
    labels = torch.tensor(bunch.target)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[(labels == label).nonzero()[4::5, 0]] = True
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


@pytest.fixture(scope="session")
def classifier(data) -> DigitsClassifier:
    return train_classifier(data.train, data.train_labels)


@pytest.fixture(scope="session")
def judge(classifier, data) -> DigitsJudge:
    return DigitsJudge(classifier, data.train, data.held_out, data.held_out_labels)


@pytest.fixture
def few() -> tuple[torch.Tensor, torch.Tensor]:
    """150 images of 8x8, on which training takes a moment. They teach nothing."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(150, 1, 8, 8, generator=generator) - 1, torch.arange(150) % 10


def noise_like(images: torch.Tensor) -> torch.Tensor:
    return 2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) - 1


# The classifier


def test_knows_digits(classifier, data):
    assert classifier.accuracy(data.held_out, data.held_out_labels) >= 0.975
    assert classifier.accuracy(data.held_out.split(100), data.held_out_labels.numpy()) >= 0.975
    assert classifier.accuracy(data.held_out, (data.held_out_labels + 1) % 10) <= 0.025


def test_features_are_standardised(classifier, data):
    features = classifier.features(data.train)
    assert features.shape == (len(data.train), 64)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features.mean(0), torch.zeros(64), rtol=0, atol=1e-3)
    torch.testing.assert_close(features.std(0), torch.ones(64), rtol=1e-3, atol=0)


def test_training_depends_on_no_global_state(classifier, data):
    """The same weights, bit for bit, from one thread as from all, and whatever the caller's run has set up."""
    threads = torch.get_num_threads()
    torch.manual_seed(987)
    torch.set_num_threads(1 if threads > 1 else 2)
    torch.set_float32_matmul_precision("medium")  # bfloat16 products, where the CPU has them
    precision = torch.backends.mkldnn.matmul.fp32_precision
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            again = train_classifier(iter(data.train.split(500)), data.train_labels.numpy())
            features = again.features(data.held_out)
            accuracy = again.accuracy(data.held_out, data.held_out_labels.numpy())
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == precision != "ieee"
        assert torch.get_num_threads() == (1 if threads > 1 else 2)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(threads)
    for name, value in classifier.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.digest() == classifier.digest()
    assert torch.equal(features, classifier.features(data.held_out))
    assert accuracy == classifier.accuracy(data.held_out, data.held_out_labels)


def test_training_leaves_global_state_alone(few):
    def state() -> list:
        return [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()), torch.get_num_threads()]  # noqa: NPY002

    torch.rand(3)
    before = state()
    first = train_classifier(*few)
    assert state() == before
    torch.rand(3)
    assert state() != before
    assert torch.is_grad_enabled()
    assert train_classifier(*few).digest() == first.digest()
    assert train_classifier(*few, seed=1).digest() != first.digest()


def test_judging_depends_on_no_global_state(classifier, data):
    images = data.held_out[:50]
    expected = classifier.features(images)
    classifier.train()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(classifier.features(images), expected)
    finally:
        torch.set_float32_matmul_precision("highest")
        classifier.eval()


def test_images_are_quantised(classifier, data):
    """Within 0.4 of a level everything is the same image, and so is what lies outside of the range; beyond, it is another."""
    levels = ((data.held_out[:20] + 1) * 127.5).round() / 127.5 - 1
    expected = classifier.features(levels)
    assert torch.equal(classifier.features(levels + 0.4 * noise_like(levels) / 127.5), expected)
    assert not torch.equal(classifier.features(levels + 2 * noise_like(levels) / 127.5), expected)
    black_and_white = levels.sign()
    assert torch.equal(classifier.features(3 * black_and_white), classifier.features(black_and_white))


def test_colour_is_averaged(classifier, data):
    images = data.held_out[:20]
    red = torch.cat((images, torch.full_like(images, -1), torch.full_like(images, -1)), dim=1)
    grey = ((((images + 1) * 127.5).round() / 127.5 - 1) - 2) / 3
    torch.testing.assert_close(
        classifier.features(images.expand(-1, 3, -1, -1)), classifier.features(images), rtol=0, atol=1e-4
    )
    # The mean of three 8-bit values has no 8 bits itself, so the two agree to half a level.
    torch.testing.assert_close(classifier.features(red), classifier.features(grey), rtol=0, atol=0.1)
    assert (classifier.features(red) - classifier.features(images)).abs().max() > 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(classifier, data, dtype):
    images = data.held_out[:20].to(dtype)
    assert torch.equal(classifier.features(images), classifier.features(images.float()))


def test_many_images_are_judged_in_chunks(classifier, data, monkeypatch):
    whole = classifier.features(data.held_out)
    monkeypatch.setattr(digits, "_CHUNK", 100)
    torch.testing.assert_close(classifier.features(data.held_out), whole, rtol=1e-4, atol=1e-4)
    strided = data.held_out.repeat_interleave(2, dim=3)[..., ::2].to(memory_format=torch.channels_last)
    torch.testing.assert_close(classifier.features(strided), whole, rtol=1e-4, atol=1e-4)
    assert classifier.features(data.held_out[:0]).shape == (0, 64)
    assert classifier.features([]).shape == (0, 64)


# The distance


def test_order_of_distances(classifier, data):
    """Real held-out images, blurred ones, ones with more and more noise, noise alone: 0.3 < 4 to 9 < 200, as measured."""
    noise = torch.randn(data.held_out.shape, generator=torch.Generator().manual_seed(2))
    distance = {
        "real": fd_digits(classifier, data.train, data.held_out),
        "blurred": fd_digits(classifier, data.train, F.avg_pool2d(data.held_out, 5, 1, 2, count_include_pad=False)),
        "noisy": fd_digits(classifier, data.train, data.held_out + 0.3 * noise),
        "noisier": fd_digits(classifier, data.train, data.held_out + 0.6 * noise),
        "noise": fd_digits(classifier, data.train, noise_like(data.held_out)),
    }
    assert 0 < 4 * distance["real"] < min(distance["blurred"], distance["noisy"])
    assert distance["noisy"] < distance["noisier"]
    assert 4 * max(distance["blurred"], distance["noisier"]) < distance["noise"]


def test_lost_variety_shows(classifier, data):
    """Images that are real, every one of them, yet lack a class, or are all of one class, or are one image."""
    floor = fd_digits(classifier, data.train, data.held_out)
    lacking = fd_digits(classifier, data.train, data.train[data.train_labels != 1])
    single = fd_digits(classifier, data.train, data.train[data.train_labels == 1])
    same = fd_digits(classifier, data.train, data.train[:1].expand(100, -1, -1, -1))
    assert 2 * floor < lacking < single < same


def test_distance_is_a_distance(classifier, data):
    assert fd_digits(classifier, data.train, data.train.flip(0)) == pytest.approx(0, abs=1e-8)
    there, back = fd_digits(classifier, data.train, data.held_out), fd_digits(classifier, data.held_out, data.train)
    assert there == pytest.approx(back, rel=1e-9)


def test_batches_do_not_matter(classifier, data):
    whole = fd_digits(classifier, data.train, data.held_out)
    parts = fd_digits(classifier, (batch for batch in data.train.split(333)), iter(data.held_out.split(1)))
    assert parts == pytest.approx(whole, rel=1e-5)


# The report


def test_report_on_real_images(judge, classifier, data):
    report = judge(iter(data.held_out.split(64)))
    assert report.name == "FD-digits"
    assert (report.reference, report.reference_count, report.generated_count) == ("train", len(data.train), len(data.held_out))
    assert report.title == f"FD-digits (train, {len(data.train)} real, {len(data.held_out)} generated)"
    assert report.floor == pytest.approx(fd_digits(classifier, data.train, data.held_out), rel=1e-5)
    assert report.value == pytest.approx(report.floor, rel=1e-5)
    assert report.accuracy == classifier.accuracy(data.held_out, data.held_out_labels)
    assert report.classifier == classifier.digest()
    assert json.loads(json.dumps(dataclasses.asdict(report)))["value"] == report.value
    shares = data.held_out_labels.bincount(minlength=10) / len(data.held_out)
    torch.testing.assert_close(torch.tensor(report.coverage), shares, rtol=0, atol=0.02)
    assert report.confidence > 0.95


def test_report_on_collapse(judge, classifier, data):
    """Only sevens and one four: the classes say so; the confidence is the mean of the most probable class."""
    images = torch.cat((data.train[data.train_labels == 7], data.train[data.train_labels == 4][:1]))
    report = judge(images)
    assert report.value > 10 * report.floor
    assert report.coverage[7] == pytest.approx((len(images) - 1) / len(images), abs=0.02)
    assert report.coverage[4] == pytest.approx(1 / len(images), abs=0.02)
    assert sum(report.coverage) == pytest.approx(1, abs=1e-12)
    expected = classifier.head(classifier.features(images)).softmax(1).amax(1).mean().item()
    assert report.confidence == pytest.approx(expected, rel=1e-5)


def test_reference_split(classifier, data):
    judge = DigitsJudge(classifier, data.train, data.held_out, data.held_out_labels, reference="held-out")
    report = judge(data.held_out)
    assert report.value == pytest.approx(0, abs=1e-6)
    assert (report.reference, report.reference_count) == ("held-out", len(data.held_out))
    assert judge(data.train).value == pytest.approx(report.floor, rel=1e-5)
    with pytest.raises(ValueError, match='"train" or "held-out"'):
        DigitsJudge(classifier, data.train, data.held_out, data.held_out_labels, reference="test")


# What is refused


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(4, 1, 32, 16), "32, 32"),
        (torch.zeros(4, 2, 32, 32), "1 or 3"),
        (torch.zeros(1, 32, 32), "32, 32"),
        (torch.zeros(4, 1, 32, 32, dtype=torch.uint8), "floating-point"),
        (torch.full((4, 1, 32, 32), torch.nan), "images hold numbers that are not finite"),
        (torch.zeros(1, 1, 32, 32), "at least two"),
        (torch.zeros(0, 1, 32, 32), "no images"),
        ([], "no images"),
    ],
)
def test_refuses_images(classifier, judge, data, images, message):
    with pytest.raises(ValueError, match=message):
        fd_digits(classifier, data.held_out, images)
    with pytest.raises(ValueError, match=message):
        judge(images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(149, dtype=torch.int64), "one label for each of 150"),
        (torch.zeros(150, 1, dtype=torch.int64), "one label for each of 150"),
        (torch.zeros(150), "integers from 0 to 9"),
        (torch.full((150,), 10), "integers from 0 to 9"),
        (torch.full((150,), -1), "integers from 0 to 9"),
    ],
)
def test_refuses_labels(few, labels, message):
    with pytest.raises(ValueError, match=message):
        train_classifier(few[0], labels)


def test_refuses_to_train_on_little(few):
    with pytest.raises(ValueError, match="at least 64"):
        train_classifier(few[0][:63], few[1][:63])
    with pytest.raises(ValueError, match="multiple of 8"):
        train_classifier(torch.zeros(64, 1, 28, 28 // 2), torch.zeros(64, dtype=torch.int64))


# The cache


def unreadable():
    raise AssertionError("the images were read although the cache serves")
    yield


def test_cache_serves(few, tmp_path):
    path = tmp_path / "folder" / "judge.pt"
    trained = cached_classifier(path, *few, fingerprint="few", seed=3, side=8)
    assert trained.digest() == train_classifier(*few, seed=3).digest()
    served = cached_classifier(path, unreadable(), few[1], fingerprint="few", seed=3, side=8)
    assert served.digest() == trained.digest()
    assert served.side == 8
    assert torch.equal(served.features(few[0]), trained.features(few[0]))
    assert not any(weight.requires_grad for weight in (*served.parameters(), *trained.parameters()))
    with torch.inference_mode():
        served = cached_classifier(path, unreadable(), few[1], fingerprint="few", seed=3, side=8)
    assert not any(weight.is_inference() for weight in served.parameters())
    assert [file.name for file in path.parent.iterdir()] == ["judge.pt"]


def change_fingerprint(monkeypatch):
    return {"fingerprint": "others"}


def change_seed(monkeypatch):
    return {"seed": 1}


def change_recipe(monkeypatch):
    monkeypatch.setattr(digits, "RECIPE", digits.RECIPE + 1)
    return {}


@pytest.mark.parametrize("change", [change_fingerprint, change_seed, change_recipe])
def test_cache_of_another_key_is_replaced(few, tmp_path, monkeypatch, change):
    images, labels = few
    path = tmp_path / "judge.pt"
    old = cached_classifier(path, images, labels.flip(0), fingerprint="few", side=8)
    arguments = {"fingerprint": "few", "seed": 0} | change(monkeypatch)
    new = cached_classifier(path, images, labels, side=8, **arguments)
    assert new.digest() == train_classifier(images, labels, seed=arguments["seed"]).digest() != old.digest()
    assert cached_classifier(path, unreadable(), labels, side=8, **arguments).digest() == new.digest()


def test_cache_of_another_side_is_replaced(few, tmp_path):
    images, labels = few
    path = tmp_path / "judge.pt"
    cached_classifier(path, images, labels, fingerprint="few", side=8)
    assert cached_classifier(path, images.repeat(1, 1, 2, 2), labels, fingerprint="few", side=16).side == 16
    with pytest.raises(ValueError, match="side 8, but these have side 16"):
        cached_classifier(path, images.repeat(1, 1, 2, 2), labels, fingerprint="few", side=8)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def overwritten(content: bytes) -> bytes:
    return b"not a classifier"


def flipped(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 0x40]) + content[len(content) // 2 + 1 :]


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten, flipped])
def test_damaged_cache_is_replaced(few, tmp_path, damage):
    path = tmp_path / "judge.pt"
    good = cached_classifier(path, *few, fingerprint="few", side=8)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        DigitsClassifier.load(path, classifier_key("few", side=8))
    assert cached_classifier(path, *few, fingerprint="few", side=8).digest() == good.digest()
    assert DigitsClassifier.load(path, classifier_key("few", side=8)).digest() == good.digest()


def test_other_weights_under_an_old_digest_are_damage(few, tmp_path):
    """A file that is sound to torch, of the right key, but does not hold what was saved."""
    path, key = tmp_path / "judge.pt", classifier_key("few", side=8)
    train_classifier(*few).save(path, key)
    saved = torch.load(path, weights_only=True)
    saved["state"]["head.bias"][3] += 1e-3
    torch.save(saved, path)
    with pytest.raises(ValueError, match="not those that were saved"):
        DigitsClassifier.load(path, key)
    torch.save({"key": key}, path)
    with pytest.raises(ValueError, match="damaged"):
        DigitsClassifier.load(path, key)


def test_failed_save_leaves_the_old_file(few, tmp_path, monkeypatch):
    path, key = tmp_path / "judge.pt", classifier_key("few", side=8)
    classifier = train_classifier(*few)
    classifier.save(path, key)
    before = path.read_bytes()

    def fail(content, file):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        classifier.save(path, key)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        DigitsClassifier.load(tmp_path / "none.pt", "key")
