import warnings
from contextlib import closing

import pytest
import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from fastgan.checked import UserError
from fastgan.data import Stream, open_source
from fastgan.draw import Draw
from fastgan.evaluation import DigitsClassifier, Extractor, extractors, frechet_distance, manifold, quantised
from fastgan.evaluation.features import gaussian

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
DIGEST = "2807656305330a2df5de88faff34071242cbb131a30f3cdf4e4ab002268ea9f6"
"""Of the random weights: counter-based numbers, so no machine and no version of torch may give others."""


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(extractors.WEIGHTS, raising=False)


def images(*shape):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_weights_file_gives_torch_fidelitys_features(inception_weights, monkeypatch):
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_weights)
    )
    shown = images(2, 3, 20, 24)
    found = extractors.make("inception", inception_weights)
    with torch.no_grad():
        expected = theirs(shown)
    for ours, of_theirs in zip(found(shown), expected, strict=True):
        torch.testing.assert_close(ours, of_theirs, rtol=1e-6, atol=0)
    assert expected[0].std() > 1e-3
    # Grey images are repeated; the weights are not the published ones, and so neither is the name.
    torch.testing.assert_close(found(shown[:1, :1])[0], theirs(shown[:1, :1].expand(-1, 3, -1, -1))[0], rtol=1e-6, atol=0)
    assert not found.published
    assert found.title("FID") == f"FD-inception-{found.digest.split()[1][:8]}"
    monkeypatch.setenv(extractors.WEIGHTS, str(inception_weights))
    assert extractors.has_inception()
    assert extractors.make("inception").digest == found.digest


def test_published_features_go_without_their_name():
    assert Extractor("inception", "x", lambda x: (x, None), published=True).title("FID") == "FID"
    assert Extractor("vgg16", "x", lambda x: (x, None)).title("KID") == "KID-vgg16"


def test_what_is_missing_is_asked_for_in_one_line(tmp_path):
    for weights in (None, tmp_path / "none.pth"):
        with pytest.raises(UserError) as refused:
            extractors.make("inception", weights)
        said = str(refused.value)
        assert "\n" not in said
        for part in (URL, extractors.INCEPTION_SHA256, "--feature-weights", extractors.WEIGHTS):
            assert part in said
    with pytest.raises(UserError, match="vgg16 features need a weights file"):
        extractors.make("vgg16")
    with pytest.raises(UserError, match="did you mean 'inception'"):
        extractors.make("inceptoin")


def test_damaged_weights_are_refused(inception_weights, tmp_path):
    path = tmp_path / "damaged.pth"
    content = inception_weights.read_bytes()
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    for damaged, line in (
        (content[:-1000], "is damaged"),
        (b"<html>not found</html>", "is damaged"),
        (b"", "is damaged"),
        (other.read_bytes(), "is not the weights file of inception-v3-compat"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=line) as refused:
            extractors.make("inception", path)
        assert URL in str(refused.value)
        assert "\n" not in str(refused.value)


class Trap:
    def __reduce__(self):
        return print, ("a weights file has run code",)


def test_a_weights_file_runs_no_code(tmp_path, capsys):
    torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="is damaged"):
        extractors.make("inception", tmp_path / "trap.pth")
    assert capsys.readouterr().out == ""


class Means(FeatureExtractorBase):
    """What a user may register with torch-fidelity: the mean of each channel."""

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return ("mean",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "mean"

    def forward(self, x):
        return (x.float().mean((2, 3)),)


def test_extractors_of_the_users_own(monkeypatch):
    shown = images(4, 3, 8, 8)
    monkeypatch.setattr("torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY", dict(FEATURE_EXTRACTORS_REGISTRY))
    register_feature_extractor("means", Means)
    features, logits = extractors.make("means")(shown)
    torch.testing.assert_close(features, shown.float().mean((2, 3)))
    assert logits is None
    monkeypatch.setattr(extractors, "_MAKERS", dict(extractors._MAKERS))
    extractors.register("sums", lambda weights, device: Extractor("sums", "1", lambda x: (x.float().sum((2, 3)), None)))
    torch.testing.assert_close(extractors.make("sums")(shown)[0], shown.float().sum((2, 3)))
    assert {"means", "sums", "digits", "inception", "pixels", "random", "vgg16"} <= set(extractors.known())
    with pytest.raises(ValueError, match="already"):
        extractors.register("sums", extractors._pixels)


def test_digits_and_pixels():
    classifier = DigitsClassifier(16).requires_grad_(False)
    shown = images(5, 1, 16, 16)
    features, logits = extractors.of_digits(classifier)(shown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(features, classifier.features(shown.float() / 127.5 - 1))
    assert torch.equal(logits, classifier.head(features))
    pixels, _ = extractors.make("pixels")(shown)
    assert torch.equal(pixels, shown.flatten(1) / 255)


@pytest.fixture(scope="module")
def random():
    return extractors.make("random")


def test_random_features_are_those_of_vgg16(random):
    shown = images(3, 3, 40, 33)
    expected, number, channels = shown.double() / 127.5 - 1, 0, 3
    for convolutions, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(convolutions):
            draw = Draw(0, "random features", number, torch.arange(width))
            weight = (2 * draw.uniform("weights", channels, 3, 3) - 1) * (6 / (9 * channels)) ** 0.5
            expected = torch.relu(torch.nn.functional.conv2d(expected, weight.double(), padding=1))
            number, channels = number + 1, width
        expected = torch.nn.functional.max_pool2d(expected, 2)
    features, logits = random(shown)
    assert (features.shape, features.dtype, logits) == ((3, 512), torch.float32, None)
    torch.testing.assert_close(features, expected.mean((2, 3)).float(), rtol=1e-4, atol=1e-5)
    grey = shown[:, :1]
    assert torch.equal(random(grey)[0], random(grey.expand(-1, 3, -1, -1))[0])


def test_random_features_are_the_same_everywhere(random, monkeypatch):
    before = torch.get_rng_state()
    again = extractors.make("random")
    assert torch.equal(before, torch.get_rng_state())
    assert again.digest == random.digest == f"random vgg16 {DIGEST}"
    assert (random.title("FID"), random.published) == ("FD-random", False)
    shown = images(5, 3, 32, 32)
    expected, _ = random(shown)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(random(shown)[0], expected)
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    try:
        assert torch.equal(random(shown)[0], expected)
    finally:
        torch.backends.mkldnn.conv.fp32_precision = "none"
    monkeypatch.setattr(extractors, "_AT_ONCE", 2 * 32 * 32)
    torch.testing.assert_close(random(shown)[0], expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(extractors, "_SEED", 1)
    assert extractors.make("random").digest != random.digest


def test_random_features_need_32_pixels(random):
    with pytest.raises(ValueError, match="they have 40x31 pixels, fewer than 32"):
        random(images(1, 3, 31, 40))


def test_random_features_judge(random):
    """Real digits are near real ones, the further the more noise they have, and noise alone is far."""
    with closing(Stream(open_source("digits", split="train"), resolution=32, channels=1, batch_size=160, seed=0)) as stream:
        real = next(stream)["images"]
    reference = random(quantised(real[:80]))[0]
    noise = Draw(0, "noise", 0, torch.arange(80)).normal("noise", 1, 32, 32)
    near, noisy, lost = (random(quantised(real[80:] + scale * noise))[0] for scale in (0.0, 0.3, 3.0))
    distances = [frechet_distance(gaussian(reference), gaussian(found)) for found in (near, noisy, lost)]
    assert 4 * distances[0] < distances[1] < distances[2] / 10
    assert manifold(reference, near).coverage > 0.9
    assert manifold(reference, lost).coverage < 0.01


def test_bytes_are_those_of_a_file():
    x = torch.tensor([-2, -1, -0.9999, 0, 0.5, 1, 1.5]).view(1, 1, 1, -1)
    assert quantised(x).flatten().tolist() == [0, 0, 0, 128, 191, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantised(every.float() / 127.5 - 1), every)
    for wrong in (every, torch.tensor([float("nan")])):
        with pytest.raises(ValueError, match="images"):
            quantised(wrong)
    with pytest.raises(ValueError, match="uint8"):
        extractors.make("pixels")(torch.zeros(1, 1, 2, 2))
