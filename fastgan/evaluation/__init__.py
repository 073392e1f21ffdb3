"""How good the samples are: feature statistics, metrics and their reports. Judges streams of images; knows no run."""

from .autoencoding import gradient_energy, mean_error, rank_correlation, sharpness, structure_kept
from .by_class import AccuracyReport, IntraReport, classifier_accuracy_score, frechet_within_classes
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
from .entanglement import AttributeClassifiers, Entanglement, entanglement
from .extractors import Extractor, quantised
from .features import Features, Gathering
from .frechet import FeatureStatistics, Gaussian, frechet_distance
from .inception_score import ScoreReport, inception_score
from .kde import DensityEstimate, parzen
from .kid import KernelReport, kernel_distance
from .manifold import DensityReport, ManifoldReport, density_and_coverage, manifold
from .modes import CoverageReport, ModesReport, covered_classes, good_samples, is_good
from .ndb import BinsReport, different_bins
from .precision_recall import PrecisionRecallReport, precision_recall

__all__ = [
    "AccuracyReport",
    "AttributeClassifiers",
    "BinsReport",
    "CoverageReport",
    "DensityEstimate",
    "DensityReport",
    "DigitsClassifier",
    "DigitsJudge",
    "DigitsReport",
    "Entanglement",
    "Extractor",
    "FeatureStatistics",
    "Features",
    "Gathering",
    "Gaussian",
    "IntraReport",
    "KernelReport",
    "ManifoldReport",
    "ModesReport",
    "PrecisionRecallReport",
    "ScoreReport",
    "Tally",
    "cached_classifier",
    "classifier_accuracy_score",
    "classifier_key",
    "covered_classes",
    "density_and_coverage",
    "different_bins",
    "diversity_within_classes",
    "entanglement",
    "fd_digits",
    "frechet_distance",
    "frechet_within_classes",
    "good_samples",
    "gradient_energy",
    "inception_score",
    "is_good",
    "kernel_distance",
    "manifold",
    "mean_error",
    "parzen",
    "precision_recall",
    "quantised",
    "rank_correlation",
    "sharpness",
    "structure_kept",
    "train_classifier",
]
