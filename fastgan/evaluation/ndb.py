"""Number of statistically different bins (NDB), and the Jensen-Shannon divergence of the bins' shares (JSD).

Real samples are cut into K bins by k-means, generated ones fall into the nearest; a bin is different where a test of two
proportions says so at a level of 5 %. A generator that drops modes leaves bins empty, which means and covariances may not see.
Richardson & Weiss, "On GANs and GMMs" (NeurIPS 2018), section 4.2, with features in the place of pixels unless these are
asked for. The bins are scikit-learn's.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

BINS = 100
SIGNIFICANCE = 0.05
_FILLED = 10  # real samples that a bin should hold on average: fewer bins are made of fewer samples


@dataclass(frozen=True)
class BinsReport:
    """What `different_bins` found."""

    value: float
    """NDB / K, the share of bins that differ, in [0, 1]; about 0.05 for samples of the real distribution."""
    different: int
    jsd: float
    """In nats, 0 to log 2; lower is better."""
    bins: int
    real_count: int
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.different} of {self.bins} bins differ, JSD {self.jsd:.4f}"


def different_bins(real: Tensor, generated: Tensor, bins: int = BINS, seed: int = 0) -> BinsReport:
    """Compare two sets of features.

    Args:
        real, generated: (N, F) and (M, F), finite.
        bins: K at most; fewer where a bin would hold fewer than ten real samples on average.
        seed: of the bins' centres.

    Raises:
        ValueError: features of other shapes, or fewer real samples than two bins take.
    """
    from sklearn.cluster import KMeans

    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features come as (N, F) and (M, F), not {tuple(real.shape)} and {tuple(generated.shape)}")
    bins = min(bins, len(real) // _FILLED)
    if bins < 2 or not len(generated):
        raise ValueError(f"bins need {2 * _FILLED} real samples and a generated one, not {len(real)} and {len(generated)}")
    first, second = (one.detach().float().cpu().numpy() for one in (real, generated))
    means = KMeans(bins, n_init=1, random_state=seed).fit(first)
    ours = np.bincount(means.labels_, minlength=bins)
    theirs = np.bincount(means.predict(second), minlength=bins)
    p, q = ours / len(real), theirs / len(generated)
    pooled = (ours + theirs) / (len(real) + len(generated))
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / len(real) + 1 / len(generated)))
    different = int((np.abs(p - q) > _two_sided(SIGNIFICANCE) * deviation).sum())
    return BinsReport(different / bins, different, _divergence(p, q), bins, len(real), len(generated))


def _two_sided(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(1 - level / 2)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    middle = (p + q) / 2
    terms = (one[one > 0] * np.log(one[one > 0] / middle[one > 0]) for one in (p, q))
    return min(math.log(2), max(0.0, float(sum(term.sum() for term in terms)) / 2))
