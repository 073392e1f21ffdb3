"""Precision and recall, density and coverage: how much of the generated lies among the real, and the other way round.

Each set's manifold is the union of balls around its samples that reach to the k-th neighbour of the same set. Precision: the
share of generated samples within the real manifold; recall: of real samples within the generated one (Kynkäänniemi et al.,
"Improved precision and recall metric for assessing generative models", NeurIPS 2019). Density and coverage count real balls
around a generated sample, and real balls that hold one, so that no outlier's large ball counts for all (Naeem et al., "Reliable
fidelity and diversity metrics for generative models", ICML 2020).

The numbers are those of the latter's `prdc` package, which holds three matrices of distances, 60 GB for 50,000 images a side.
Here they come by blocks of rows (`neighbours`), in float64 as there.
"""

from dataclasses import dataclass

from torch import Tensor

from fastgan.evaluation.neighbours import among, check, radii, share

NEAREST = 5


@dataclass(frozen=True)
class DensityReport:
    """What `density_and_coverage` found; higher is better."""

    density: float
    """Real balls around a generated sample, over k: about 1 where the sets are alike, without bound."""
    coverage: float
    """The share of real balls that hold a generated sample, in [0, 1]."""
    nearest: int
    """k, the neighbour that a ball reaches to."""
    real_count: int
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"density {self.density:.3f}, coverage {self.coverage:.3f}"


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
        real, generated: (N, F) and (M, F), finite.
        nearest: k, at least 1, and less than N and M.

    Raises:
        ValueError: features of other shapes, too few of them, or k out of range.
    """
    check(real, generated, nearest)
    real, generated = (features.detach().cpu().double() for features in (real, generated))
    balls, held = among(real, generated, radii(real, nearest))
    recalled, _ = among(generated, real, radii(generated, nearest))
    density = float(balls.double().mean() / nearest)
    shares = {"precision": share(balls), "recall": share(recalled), "coverage": share(held)}
    return ManifoldReport(density=density, **shares, nearest=nearest, real_count=len(real), generated_count=len(generated))


def density_and_coverage(real: Tensor, generated: Tensor, nearest: int = NEAREST) -> DensityReport:
    """Two of `manifold`'s numbers, those that ask for no distances between generated samples; arguments and errors as there."""
    check(real, generated, nearest)
    real, generated = (features.detach().cpu().double() for features in (real, generated))
    balls, held = among(real, generated, radii(real, nearest))
    return DensityReport(float(balls.double().mean() / nearest), share(held), nearest, len(real), len(generated))
