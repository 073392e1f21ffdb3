"""How good the samples are: feature statistics, metrics and their reports. Judges streams of images; knows no run."""

from .digits import (
    DigitsClassifier,
    DigitsJudge,
    DigitsReport,
    cached_classifier,
    classifier_key,
    fd_digits,
    train_classifier,
)
from .frechet import FeatureStatistics, Gaussian, frechet_distance
from .modes import ModesReport, good_samples, is_good

__all__ = [
    "DigitsClassifier",
    "DigitsJudge",
    "DigitsReport",
    "FeatureStatistics",
    "Gaussian",
    "ModesReport",
    "cached_classifier",
    "classifier_key",
    "fd_digits",
    "frechet_distance",
    "good_samples",
    "is_good",
    "train_classifier",
]
