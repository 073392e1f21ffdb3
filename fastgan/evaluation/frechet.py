"""The Fréchet distance between two sets of features, each summed up by a Gaussian.

    d2(N(m1, S1), N(m2, S2)) = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

Dowson & Landau, "The Fréchet distance between multivariate normal distributions" (1982), equation 4; used on network features
by Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium" (2017), equation 6. As
there, what is called the distance is its square.

The trace is not computed as written. With S1^1/2 S2^1/2 = W diag(s) V^T the root's trace is the sum of s, and the whole is

    |S1^1/2 - S2^1/2 V W^T|_F^2            (Bhatia, Jain & Lim, "On the Bures-Wasserstein distance between positive definite
                                            matrices", 2019, theorem 1)

which is a sum of squares: nothing cancels, so it is never negative, it is about 1e-30 and not 1e-8 between equal Gaussians, and
covariances need not have full rank (fewer samples than features, features that are always zero).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


class Gaussian(NamedTuple):
    """A mean, float64 (F,), and a covariance, float64 (F, F), symmetric and positive semi-definite, of any rank."""

    mean: np.ndarray
    covariance: np.ndarray


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches, in float64.

    Holds the sums of squares about the mean and not about zero (Chan, Golub & LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979), so a mean far from zero costs no digits. The result does not depend on how
    the features were cut into batches, or shared between ranks that `merge` afterwards, except for rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: np.ndarray | None = None  # (F,)
        self._scatter: np.ndarray | None = None  # (F, F), sum of (x - mean)(x - mean)^T

    def update(self, features: Tensor | np.ndarray) -> None:
        """Add a batch.

        Args:
            features: (B, F), real numbers; B may be 0, F is that of the first batch.

        Raises:
            ValueError: not two dimensions, another F than before, or a number that is not finite.
        """
        if isinstance(features, Tensor):
            features = features.detach().cpu().double().numpy()  # numpy knows no bfloat16
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2:
            raise ValueError(f"Features come as (samples, features), but these have the shape {batch.shape}.")
        if not np.isfinite(batch).all():
            raise ValueError("The features hold numbers that are not finite.")
        self._check_width(batch.shape[1])
        if len(batch):
            mean = batch.mean(axis=0)
            centred = batch - mean
            self._add(len(batch), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> None:
        """Add everything that `other` has seen, for example another rank's share. Raises ValueError for another F."""
        if other._mean is not None:
            self._check_width(len(other._mean))
            self._add(other.count, other._mean, other._scatter)

    def gaussian(self) -> Gaussian:
        """The mean and the unbiased covariance (divided by count - 1). Raises ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"A covariance needs at least two samples, but there were {self.count}.")
        return Gaussian(self._mean.copy(), self._scatter / (self.count - 1))

    def _check_width(self, width: int) -> None:
        if self._mean is not None and len(self._mean) != width:
            raise ValueError(f"Every sample must have {len(self._mean)} features, but these have {width}.")

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self._mean is None:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        total = self.count + count
        shift = mean - self._mean
        self._scatter = self._scatter + scatter + np.outer(shift, shift) * (self.count * count / total)
        self._mean = self._mean + shift * (count / total)
        self.count = total


def frechet_distance(first: Gaussian | tuple[ArrayLike, ArrayLike], second: Gaussian | tuple[ArrayLike, ArrayLike]) -> float:
    """The (squared) Fréchet distance of two Gaussians with F features each.

    Args:
        first, second: mean (F,) and covariance (F, F); of any rank.

    Returns:
        A number of at least 0, in squared units of the features; symmetric in its arguments to rounding.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or a matrix that is no covariance.
    """
    mean1, root1 = _mean_and_root(first)
    mean2, root2 = _mean_and_root(second)
    if len(mean1) != len(mean2):
        raise ValueError(f"The two Gaussians must have as many features, but one has {len(mean1)} and the other {len(mean2)}.")
    left, _, right = np.linalg.svd(root1 @ root2)
    return float(np.sum((mean1 - mean2) ** 2) + np.sum((root1 - root2 @ right.T @ left.T) ** 2))


def _mean_and_root(gaussian: Gaussian | tuple[ArrayLike, ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    """The mean (F,) and the symmetric square root of the covariance (F, F), after checks."""
    mean, covariance = (np.asarray(part, dtype=np.float64) for part in gaussian)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"A Gaussian has a mean (F,) and a covariance (F, F), not {mean.shape} and {covariance.shape}.")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("The Gaussian's mean or covariance holds numbers that are not finite.")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    largest = np.abs(values).max(initial=0.0)
    # 1e-6 leaves room for a covariance that was summed in float32; below it lies rounding, above it a mistake of the caller.
    if np.abs(covariance - covariance.T).max(initial=0.0) > 1e-6 * largest or values.min(initial=0.0) < -1e-6 * largest:
        raise ValueError("The covariance must be symmetric and must not have negative eigenvalues.")
    # What eigh finds for a true zero is about F * eps * largest. Its root would be 1e-8 of the largest one, not 1e-16: cut it.
    values = np.where(values > len(mean) * np.finfo(np.float64).eps * largest, values, 0.0)
    return mean, (vectors * np.sqrt(values)) @ vectors.T
