"""Precision and recall, density and coverage: how much of the generated lies among the real, and the other way round.

Each set's manifold is the union of balls around its samples that reach to the k-th neighbour of the same set. Precision: the
share of generated samples within the real manifold; recall: of real samples within the generated one (Kynkäänniemi et al.,
"Improved precision and recall metric for assessing generative models", NeurIPS 2019). Density and coverage count real balls
around a generated sample, and real balls that hold one, so that no outlier's large ball counts for all (Naeem et al., "Reliable
fidelity and diversity metrics for generative models", ICML 2020). The numbers are the `prdc` package's, of the latter.
"""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass

from torch import Tensor

NEAREST = 5


@dataclass(frozen=True)
class ManifoldReport:
    """What `manifold` found; all but density lie in [0, 1], and higher is better everywhere."""

    precision: float
    recall: float
    density: float
    coverage: float
    nearest: int
    """k, the neighbour that a ball reaches to."""
    real_count: int
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        names = ("precision", "recall", "density", "coverage")
        return ", ".join(f"{name} {getattr(self, name):.3f}" for name in names)


def manifold(real: Tensor, generated: Tensor, nearest: int = NEAREST) -> ManifoldReport:
    """Compare two sets of features.

    Args:
        real, generated: (N, F) and (M, F), finite. Memory is that of N M, N N and M M distances.
        nearest: k, at least 1, and less than N and M.

    Raises:
        ValueError: features of other shapes, too few of them, or k out of range.
    """
    from prdc import compute_prdc

    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features come as (N, F) and (M, F), not {tuple(real.shape)} and {tuple(generated.shape)}")
    if not 1 <= nearest < min(len(real), len(generated)):
        raise ValueError(f"nearest must be at least 1 and below {len(real)} and {len(generated)} samples, not {nearest}")
    both = (features.detach().double().cpu().numpy() for features in (real, generated))
    with redirect_stdout(io.StringIO()):  # it prints the counts
        found = compute_prdc(*both, nearest_k=nearest)
    numbers = {name: float(value) for name, value in found.items()}
    return ManifoldReport(**numbers, nearest=nearest, real_count=len(real), generated_count=len(generated))
