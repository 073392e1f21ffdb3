"""FD-digits: how far generated digits lie from real ones, in the features of a small classifier trained on the real ones.

A FID in all but the network: where no InceptionV3 weights are at hand, the features are those of the classifier below, trained
in seconds from a fixed seed on the real training images. Numbers compare with numbers of the same classifier (`digest`), the
same reference split and the same counts alone, and never with a FID. The distance itself is frechet.py's.

Images lie in [-1, 1] and have one channel, or three, which are averaged to grey. They are rounded to 8 bits before anything
looks at them, as a file would.
"""

import hashlib
import io
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frechet import FeatureStatistics, frechet_distance

NAME = "FD-digits"
CLASSES = 10
FEATURES = 64
RECIPE = 1  # raise it with any change to what train_classifier computes: caches of other recipes are then trained anew

_EPOCHS = 30
_BATCH = 64
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 1e-2
# Largest shift in the augmentation, of half the side: 2 pixels of 32. On digits of writers never seen (the file's last 360)
# accuracy was 96 to 97 % over four seeds without shifts, 98 to 99 % with them; turning and stretching too gave nothing more.
_SHIFT = 0.125

_CHUNK = 512  # images judged at once, which bounds memory whatever the caller's batches are

Images = Tensor | Iterable[Tensor]


class DigitsClassifier(nn.Module):
    """Three strided convolutions, a layer of `FEATURES` units standardised over the training images, and a linear head.

    SiLU and not ReLU: with ReLU 10 to 20 of the 64 features were zero for every image, and judged nothing. Standardised
    features (mean 0 and variance 1 over the training images) give the distance a unit, one feature's variance, that does not
    depend on how far training drove the weights.

    Comes from `train_classifier`, `cached_classifier` or `load`; one built directly has random weights. Leave it on the CPU,
    where 10,000 images take about 0.3 s and numbers do not depend on a GPU's kernels.

    Args:
        side: height and width of the images in pixels, a multiple of 8.
        classes: how many it tells apart; 10 of digits, others where it is trained for a classifier accuracy score.
        colour: look at three channels, where otherwise they are averaged.

    Raises:
        ValueError: another side.
    """

    def __init__(self, side: int = 32, classes: int = CLASSES, colour: bool = False) -> None:
        super().__init__()
        if side < 8 or side % 8:
            raise ValueError(f"The images' side must be a multiple of 8, but it is {side}.")
        self.side, self.classes, self.colour = side, classes, colour
        self.body = nn.Sequential(
            nn.Conv2d(3 if colour else 1, 16, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * (side // 8) ** 2, FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(FEATURES, classes)
        # Not nn.BatchNorm1d: a judge must not depend on whether somebody called train() on it.
        self.register_buffer("feature_mean", torch.zeros(FEATURES))
        self.register_buffer("feature_deviation", torch.ones(FEATURES))

    def features(self, images: Images) -> Tensor:
        """The standardised penultimate layer.

        Args:
            images: (B, 1 or 3, side, side), floating point in [-1, 1] (what lies outside is clamped, as in a file), on any
                device, or an iterable of such batches.

        Returns:
            float32 (B, FEATURES) on the classifier's device, without a graph.

        Raises:
            ValueError: images of another shape or type, or with numbers that are not finite.
        """
        found = [self.judged(batch)[0] for batch in _batches(images)]
        return torch.cat(found) if found else self.feature_mean.new_empty(0, FEATURES)

    def accuracy(self, images: Images, labels: Tensor) -> float:
        """The share of images whose most probable class is their label.

        Args:
            images: as for `features`, N in all, N > 0.
            labels: (N,) integers from 0 to 9; a tensor, or an array of numpy.

        Raises:
            ValueError: images as for `features`, labels of another count, shape, type or range.
        """
        return Tally(self, images).accuracy(labels)

    def digest(self) -> str:
        """SHA-256 over the weights, 64 hexadecimal digits: equal digests mean that numbers may be compared."""
        found = hashlib.sha256(str(self.side).encode())
        for name, value in sorted(self.state_dict().items()):
            found.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def save(self, path: str | os.PathLike, key: str) -> None:
        """Write the weights under `key` (see `classifier_key`); a reader finds the old file or the new one, never a part."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        state = {name: value.cpu() for name, value in self.state_dict().items()}
        try:
            torch.save({"key": key, "digest": self.digest(), "side": self.side, "state": state}, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike, key: str) -> "DigitsClassifier":
        """Read what `save` wrote, onto the CPU.

        Raises:
            OSError: the file cannot be read (FileNotFoundError: there is none).
            ValueError: it was saved under another key, or it is damaged.
        """
        content = Path(path).read_bytes()
        try:
            saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            found, digest = saved["key"], saved["digest"]
            classifier = _unset_classifier(saved["side"])
            classifier.load_state_dict(saved["state"])
            damage = None if classifier.digest() == digest else "its weights are not those that were saved"
        except Exception as error:  # a damaged file can fail anywhere in unpickling: as zip, pickle, dict, tensor or weights
            raise ValueError(f"{path} is not a saved digits classifier, or it is damaged: {error!r}") from error
        if damage:
            raise ValueError(f"{path} is damaged: {damage}.")
        if found != key:
            raise ValueError(f"{path} was saved under the key {found}, not {key}.")
        return classifier.requires_grad_(False)

    @torch.no_grad()
    def judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, FEATURES) and logits (B, classes) of one batch of images; errors as for `features`."""
        device = self.feature_mean.device
        with _reproducible(device):
            hidden = [self.body(_prepare(chunk, self.side, self.colour).to(device)) for chunk in images.split(_CHUNK)]
            features = (torch.cat(hidden) - self.feature_mean) / self.feature_deviation
            return features, self.head(features)


@dataclass(frozen=True)
class DigitsReport:
    """What `DigitsJudge` found.

    Attributes:
        value: the distance of the generated images to the reference split, in units of one feature's variance; lower is better.
        floor: the distance of the real held-out images to the real training ones: what a perfect generator may hope for with as
            many images. Few images bias the distance upwards, so more of them may go below it; with as many, a value below it
            says that the generator repeats its training images.
        reference: "train" or "held-out", the real images that `value` compares with.
        reference_count, generated_count: how many images stand behind `value`.
        accuracy: of the classifier on the held-out images, 0 to 1.
        confidence: mean probability of the most probable class over the generated images, 0.1 to 1.
        coverage: the share of generated images that the classifier takes for 0, 1, ... 9; sums to 1.
        classifier: the classifier's digest; values of different ones do not compare.
        name: "FD-digits".
    """

    value: float
    floor: float
    reference: str
    reference_count: int
    generated_count: int
    accuracy: float
    confidence: float
    coverage: tuple[float, ...]
    classifier: str
    name: str = NAME

    @property
    def title(self) -> str:
        """The name with what the number depends on, for tables and files: "FD-digits (train, 1442 real, 5000 generated)"."""
        return f"{self.name} ({self.reference}, {self.reference_count} real, {self.generated_count} generated)"


class DigitsJudge:
    """Judges generated digits against real ones, whose statistics are taken once.

    Args:
        classifier: from `train_classifier`, trained on `train`.
        train, held_out: the real images of the two splits, each as for `DigitsClassifier.features`; each is read once.
        held_out_labels: (N,) integers from 0 to 9.
        reference: "train" or "held-out", the split that generated images are compared with.

    Raises:
        ValueError: another reference, a split of fewer than two images, images or labels that do not fit the classifier.
    """

    def __init__(
        self,
        classifier: DigitsClassifier,
        train: Images,
        held_out: Images,
        held_out_labels: Tensor,
        reference: str = "train",
    ) -> None:
        if reference not in ("train", "held-out"):
            raise ValueError(f'The reference split must be "train" or "held-out", not {reference!r}.')
        self.classifier = classifier
        self.reference = reference
        tallies = {"train": Tally(classifier, train), "held-out": Tally(classifier, held_out)}
        self.accuracy = tallies["held-out"].accuracy(held_out_labels)
        self.floor = frechet_distance(*(tally.statistics.gaussian() for tally in tallies.values()))
        self.real = tallies[reference]
        """What was seen of the reference split."""

    def look(self, images: Images) -> "Tally":
        """One pass over images, as for `DigitsClassifier.features`, for all that judges them; ValueError for none, or for
        images that do not fit."""
        return Tally(self.classifier, images)

    def __call__(self, generated: "Images | Tally") -> DigitsReport:
        """Judge images, or what was seen of them; ValueError for fewer than two, and as for `look`."""
        tally = generated if isinstance(generated, Tally) else self.look(generated)
        value = frechet_distance(self.real.statistics.gaussian(), tally.statistics.gaussian())
        return DigitsReport(
            value=value,
            floor=self.floor,
            reference=self.reference,
            reference_count=self.real.statistics.count,
            generated_count=tally.statistics.count,
            accuracy=self.accuracy,
            confidence=float(tally.confidences.mean()),
            coverage=tuple((tally.predictions.bincount(minlength=CLASSES).double() / len(tally.predictions)).tolist()),
            classifier=self.classifier.digest(),
        )


class Tally:
    """One pass over a stream of images.

    Attributes:
        statistics: of the features.
        features: float32 (N, FEATURES), on the CPU as are
        predictions: each image's class, int64 (N,), and
        confidences: its probability, float64 (N,).
    """

    def __init__(self, classifier: DigitsClassifier, images: Images) -> None:
        self.statistics, self.classes = FeatureStatistics(), classifier.classes
        seen, confidences, predictions = [], [], []
        for batch in _batches(images):
            features, logits = classifier.judged(batch)
            self.statistics.update(features)
            seen.append(features.cpu())
            confidence, prediction = logits.softmax(1).max(dim=1)
            confidences.append(confidence.double().cpu())
            predictions.append(prediction.cpu())
        if not sum(map(len, predictions)):
            raise ValueError("There are no images to judge.")
        self.features, self.confidences, self.predictions = map(torch.cat, (seen, confidences, predictions))

    def accuracy(self, labels: Tensor) -> float:
        return float((self.predictions == _labels(labels, len(self.predictions), self.classes)).double().mean())


def fd_digits(classifier: DigitsClassifier, real: Images, generated: Images) -> float:
    """The Fréchet distance of two streams of images in the classifier's features.

    Args:
        classifier: from `train_classifier`.
        real, generated: images as for `DigitsClassifier.features`, at least two of each; how they are batched does not matter.

    Returns:
        At least 0, in units of one feature's variance over the training images (of which there are 64).

    Raises:
        ValueError: fewer than two images on one side, or images that do not fit the classifier.
    """
    return frechet_distance(*(Tally(classifier, images).statistics.gaussian() for images in (real, generated)))


def train_classifier(
    images: Images, labels: Tensor, seed: int = 0, classes: int = CLASSES, colour: bool = False
) -> DigitsClassifier:
    """Train the judge, on the CPU; about 3 s for the 1442 training digits at 32x32.

    Equal arguments give equal weights, bit for bit, on one build of torch and one kind of CPU: training runs on one thread, so
    that the count of cores does not matter. Global state (random number generators, thread count, gradient mode, autocast,
    matmul precision) has no effect on the weights and is left as it was.

    Args:
        images: (N, 1 or 3, S, S) in [-1, 1], or an iterable of such batches; N at least 64, S a multiple of 8.
        labels: (N,) integers from 0 to 9.
        seed: of the weights, the order and the augmentation.
        classes, colour: as for `DigitsClassifier`; labels then run from 0 to classes - 1.

    Raises:
        ValueError: images or labels that do not fit this.
    """
    batches = [batch.detach().cpu() for batch in _batches(images)]
    if sum(map(len, batches)) < _BATCH:
        raise ValueError(f"The classifier needs at least {_BATCH} training images, but there are {sum(map(len, batches))}.")
    side = batches[0].shape[-1]
    cpu = torch.device("cpu")
    with cpu, torch.inference_mode(False), torch.enable_grad(), _reproducible(cpu):
        classifier = _unset_classifier(side, classes, colour)
        images = torch.cat([_prepare(batch, side, colour) for batch in batches])
        labels = _labels(labels, len(images), classes)
        generator = torch.Generator().manual_seed(seed)
        _initialise(classifier, generator)
        _fit(classifier, images, labels, generator)
        with torch.no_grad():
            hidden = torch.cat([classifier.body(chunk) for chunk in images.split(_CHUNK)])
            classifier.feature_mean.copy_(hidden.mean(0))
            classifier.feature_deviation.copy_(hidden.std(0).clamp(min=1e-3))
    return classifier.requires_grad_(False).eval()


def classifier_key(fingerprint: str, seed: int = 0, side: int = 32) -> str:
    """Everything that a trained classifier depends on, as a line of JSON; for `DigitsClassifier.save` and `load`.

    Args:
        fingerprint: names the training images and their labels; whoever has other images must give another one.
        seed: of the training.
        side: of the images in pixels.

    The build of torch is left out on purpose. It moves the weights' last bits, yet a run that goes on after an upgrade should
    keep its judge. `DigitsReport.classifier` tells two apart.
    """
    return json.dumps({"metric": NAME, "recipe": RECIPE, "data": fingerprint, "seed": seed, "side": side}, sort_keys=True)


def cached_classifier(
    path: str | os.PathLike, images: Images, labels: Tensor, fingerprint: str, seed: int = 0, side: int = 32
) -> DigitsClassifier:
    """The classifier saved at `path`, or a newly trained one, saved there.

    A file that is damaged or was saved under another key is replaced, never trusted.

    Args:
        path: the file; its folder is made if need be.
        images, labels: as for `train_classifier`; not read when the file serves.
        fingerprint, seed, side: as for `classifier_key`.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: as `train_classifier`, or the images have another side.
    """
    key = classifier_key(fingerprint, seed, side)
    try:
        return DigitsClassifier.load(path, key)
    except (FileNotFoundError, ValueError):
        classifier = train_classifier(images, labels, seed)
    if classifier.side != side:
        raise ValueError(f"The classifier was asked for images of side {side}, but these have side {classifier.side}.")
    classifier.save(path, key)
    return classifier


def _fit(classifier: DigitsClassifier, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
    """Minimise the cross-entropy of augmented images. Meanwhile features are standardised by the batch's own statistics."""
    steps = _EPOCHS * (len(images) // _BATCH)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True)
    # One step more than is taken: the schedule is asked once after the last.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps + 1)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // _BATCH * _BATCH].split(_BATCH):
            hidden = classifier.body(_augment(images[rows], generator))
            logits = classifier.head(F.batch_norm(hidden, None, None, training=True))
            optimiser.zero_grad()
            F.cross_entropy(logits, labels[rows]).backward()
            optimiser.step()
            schedule.step()


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted at random, by fractions of a pixel too; what comes in from outside is black."""
    shifts = _SHIFT * (2 * torch.rand(len(images), 2, 1, generator=generator, dtype=torch.float32) - 1)
    maps = torch.cat((torch.eye(2, dtype=torch.float32).expand(len(images), 2, 2), shifts), dim=2)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # grid_sample fills with 0, and black is -1


@torch.inference_mode(False)
def _unset_classifier(side: int, classes: int = CLASSES, colour: bool = False) -> DigitsClassifier:
    """A classifier on the CPU whose weights are not set yet. Built on "meta", where initialisation draws no random numbers."""
    with torch.device("meta"):
        classifier = DigitsClassifier(side, classes, colour)
    return classifier.float().to_empty(device="cpu").requires_grad_(True).eval()


@torch.no_grad()
def _initialise(classifier: DigitsClassifier, generator: torch.Generator) -> None:
    """Weights and biases uniform within 1 / sqrt(inputs), as torch's layers do by themselves, but from our own generator."""
    for layer in classifier.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
    classifier.feature_mean.zero_()
    classifier.feature_deviation.fill_(1)


def _batches(images: Images) -> Iterator[Tensor]:
    """A tensor is one batch. (Iterating over it would give images without their batch dimension.)"""
    return iter((images,)) if isinstance(images, Tensor) else iter(images)


def _prepare(images: Tensor, side: int, colour: bool = False) -> Tensor:
    """The images after a file's 8 bits, averaged to grey unless in colour: float32 (B, 1 or 3, side, side) in [-1, 1]."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2:] != (side, side):
        raise ValueError(f"Images come as (B, 1 or 3, {side}, {side}), but these have the shape {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise ValueError(f"Images come as floating-point numbers in [-1, 1], but these are {images.dtype}.")
    images = images.detach().float()
    if not images.isfinite().all():
        raise ValueError("The images hold numbers that are not finite.")
    levels = ((images + 1) * 127.5).round().clamp(0, 255)
    images = levels / 127.5 - 1
    return images.expand(-1, 3, -1, -1) if colour else images.mean(dim=1, keepdim=True)


def _labels(labels: Tensor, count: int, classes: int = CLASSES) -> Tensor:
    """The labels as int64 (count,) on the CPU, after checks."""
    # Copied where they are an array: torch warns of one that it may not write to.
    labels = labels.cpu() if isinstance(labels, Tensor) else torch.tensor(labels, device="cpu")
    if labels.shape != (count,):
        raise ValueError(f"There must be one label for each of {count} images, but their shape is {tuple(labels.shape)}.")
    if labels.is_floating_point() or (count and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        raise ValueError(f"Labels are integers from 0 to {classes - 1}.")
    return labels.long()


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """float32 as IEEE has it, on one thread.

    A training loop may have asked for bfloat16 products, which must not change its judge, and sums that are split over several
    threads round otherwise. One thread is also the quicker choice for so small a network where other processes want the cores.
    """
    backends = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    precisions, threads = [backend.fp32_precision for backend in backends], torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = precision
        torch.set_num_threads(threads)
