"""Precision and recall as torch-fidelity computes them, for numbers that compare with its own.

Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models" (NeurIPS 2019): balls to the third
neighbour, closed, distances in the features' own type. (`manifold` has those of the prdc package, to the fifth and open.) The
tests hold it to torch-fidelity's function, which takes three times as long for 50,000 images (`neighbours` says why).
"""

from dataclasses import dataclass

from torch import Tensor

from fastgan.evaluation.neighbours import among, check, radii, share

NEAREST = 3  # torch-fidelity's, and the paper's


@dataclass(frozen=True)
class PrecisionRecallReport:
    """What `precision_recall` found, all in [0, 1]; higher is better."""

    precision: float
    """The share of generated images within the real manifold."""
    recall: float
    """The share of real images within the generated manifold."""
    f_score: float
    nearest: int
    """k, the neighbour that a ball reaches to."""
    real_count: int
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"precision {self.precision:.3f}, recall {self.recall:.3f}"


def precision_recall(real: Tensor, generated: Tensor, nearest: int = NEAREST) -> PrecisionRecallReport:
    """Compare two sets of features.

    Args:
        real, generated: (N, F) and (M, F), finite.
        nearest: k, at least 1, and less than N and M.

    Raises:
        ValueError: features of other shapes, or k out of range.
    """
    check(real, generated, nearest)
    real, generated = (features.detach().cpu() for features in (real, generated))
    precision = share(among(real, generated, radii(real, nearest), closed=True)[0])
    recall = share(among(generated, real, radii(generated, nearest), closed=True)[0])
    f_score = 2 * precision * recall / max(1e-5, precision + recall)
    return PrecisionRecallReport(precision, recall, f_score, nearest, len(real), len(generated))
