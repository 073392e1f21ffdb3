"""Inception score (IS): exp of the mean divergence of each image's class probabilities from those of all.

Salimans et al., "Improved techniques for training GANs" (NeurIPS 2016), section 4: the mean over ten parts of the images. The
formula is torch-fidelity's, which shuffles the images by a fixed seed first. It looks at generated images alone.
"""

from dataclasses import dataclass

from torch import Tensor

SPLITS = 10


@dataclass(frozen=True)
class ScoreReport:
    """What `inception_score` found."""

    value: float
    """The mean over the parts, from 1 to the number of classes; higher is better."""
    deviation: float
    """Between the parts."""
    splits: int
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.value:.3f} ± {self.deviation:.3f}"


def inception_score(logits: Tensor, splits: int = SPLITS) -> ScoreReport:
    """Judge images by their logits (N, C).

    Raises:
        ValueError: another shape, or fewer images than parts.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    if logits.dim() != 2:
        raise ValueError(f"logits come as (N, C), not {tuple(logits.shape)}")
    if len(logits) < splits:
        raise ValueError(f"an inception score over {splits} parts needs as many images, not {len(logits)}")
    found = isc_features_to_metric(logits, splits)
    return ScoreReport(found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD], splits, len(logits))
