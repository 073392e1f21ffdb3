"""Precision and recall as torch-fidelity computes them, for numbers that compare with its own.

Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models" (NeurIPS 2019): balls to the third
neighbour, closed. (`manifold` has those of the prdc package, to the fifth and open.) Distances come by blocks of rows: memory
is that of `BLOCK` x N of them.
"""

from dataclasses import dataclass

from torch import Tensor

NEAREST = 3  # torch-fidelity's, and the paper's
BLOCK = 1000


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
    from torch_fidelity.metric_prc import prc_features_to_metric

    check(real, generated, nearest)
    options = {"prc_neighborhood": nearest, "prc_batch_size": BLOCK, "save_cpu_ram": True, "verbose": False}
    found = prc_features_to_metric(generated, real, **options)
    return PrecisionRecallReport(**found, nearest=nearest, real_count=len(real), generated_count=len(generated))


def check(real: Tensor, generated: Tensor, nearest: int) -> None:
    """Refuse what neighbours can't be found in: ValueError."""
    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features come as (N, F) and (M, F), not {tuple(real.shape)} and {tuple(generated.shape)}")
    if not 1 <= nearest < min(len(real), len(generated)):
        raise ValueError(f"nearest must be at least 1 and below {len(real)} and {len(generated)} samples, not {nearest}")
