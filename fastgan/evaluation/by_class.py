"""Metrics of class-conditional generators: the Fréchet distance within classes, and the classifier accuracy score.

The first (intra-FID) is the mean over classes of the distance between real and generated images of a class (Miyato & Koyama,
"cGANs with projection discriminator", ICLR 2018, section 4). The second (CAS) is the accuracy on real images of a classifier
that was trained on generated ones and the classes that they were asked for (Ravuri & Vinyals, "Classification accuracy score
for conditional generative models", NeurIPS 2019). There it is a ResNet-50; here the small network of digits.py, from a fixed
seed: compare its number with that of the same network trained on the real training images, which is given beside.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.evaluation.digits import train_classifier
from fastgan.evaluation.features import gaussian
from fastgan.evaluation.frechet import frechet_distance


@dataclass(frozen=True)
class IntraReport:
    """What `frechet_within_classes` found."""

    value: float
    """The mean over classes; lower is better, and never below 0."""
    worst: int
    """The class of the greatest distance."""
    classes: tuple[float, ...]
    """The distance of each class, in the order of their numbers."""
    real_count: int
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.value:.3f} over {len(self.classes)} classes, worst {max(self.classes):.3f} (class {self.worst})"


@dataclass(frozen=True)
class AccuracyReport:
    """What `classifier_accuracy_score` found, all in [0, 1]."""

    value: float
    """Accuracy on real images after training on generated ones; higher is better."""
    real: float
    """After training on real ones."""
    real_count: int
    """Real images tested."""
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.value:.1%} (trained on real images {self.real:.1%})"


def frechet_within_classes(real: Tensor, real_labels: Tensor, generated: Tensor, generated_labels: Tensor) -> IntraReport:
    """Compare two sets of features class by class.

    Args:
        real, generated: (N, F) and (M, F), finite.
        real_labels, generated_labels: (N,) and (M,) integers.

    Raises:
        ValueError: labels of another count, or a class with fewer than two images of a set.
    """
    for features, labels in ((real, real_labels), (generated, generated_labels)):
        if features.dim() != 2 or labels.shape != features.shape[:1]:
            raise ValueError(f"features come as (N, F) with (N,) labels, not {tuple(features.shape)} and {tuple(labels.shape)}")
    found = {}
    for label in torch.unique(torch.cat([real_labels, generated_labels])).tolist():
        ours, theirs = real[real_labels == label], generated[generated_labels == label]
        if len(ours) < 2 or len(theirs) < 2:
            raise ValueError(f"class {label} has {len(ours)} real and {len(theirs)} generated images: two of each are needed")
        found[label] = frechet_distance(gaussian(ours), gaussian(theirs))
    worst = max(found, key=found.get)
    return IntraReport(sum(found.values()) / len(found), worst, tuple(found.values()), len(real), len(generated))


def classifier_accuracy_score(
    generated: tuple[Tensor, Tensor], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int
) -> AccuracyReport:
    """Train on generated images, and on real ones for comparison, and test both on real ones.

    Args:
        generated, train, test: uint8 (N, C, S, S), S a multiple of 8, and labels (N,) from 0 to classes - 1.

    Raises:
        ValueError: images or labels that do not fit this, or too few of them.
    """

    def accuracy(images: Tensor, labels: Tensor) -> float:
        return train_classifier(_scaled(images), labels, classes=classes, colour=images.shape[1] == 3).accuracy(*tested)

    tested = _scaled(test[0]), test[1]
    return AccuracyReport(accuracy(*generated), accuracy(*train), len(test[0]), len(generated[0]))


def _scaled(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1
