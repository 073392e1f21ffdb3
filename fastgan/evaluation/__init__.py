"""How good the samples are: feature statistics, metrics and their reports. Judges streams of images; knows no run."""

from .digits import (
    DigitsClassifier,
    DigitsJudge,
    DigitsReport,
    Tally,
    cached_classifier,
    classifier_key,
    fd_digits,
    train_classifier,
)
from .diversity import diversity_within_classes
from .frechet import FeatureStatistics, Gaussian, frechet_distance
from .manifold import ManifoldReport, manifold
from .modes import CoverageReport, ModesReport, covered_classes, good_samples, is_good

__all__ = [
    "CoverageReport",
    "DigitsClassifier",
    "DigitsJudge",
    "DigitsReport",
    "FeatureStatistics",
    "Gaussian",
    "ManifoldReport",
    "ModesReport",
    "Tally",
    "cached_classifier",
    "classifier_key",
    "covered_classes",
    "diversity_within_classes",
    "fd_digits",
    "frechet_distance",
    "good_samples",
    "is_good",
    "manifold",
    "train_classifier",
]
