"""Kernel distance (KID, with Inception's features): the squared maximum mean discrepancy under a cubic kernel.

Bińkowski et al., "Demystifying MMD GANs" (ICLR 2018), section 4: k(x, y) = (x.y / F + 1)^3, its unbiased estimate over subsets,
and their mean. Kernel, estimate and subsets are torch-fidelity's; the kernel is computed in float64, where its own entry point
keeps to the features' type, and one subset's features are held in it at a time.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's


@dataclass(frozen=True)
class KernelReport:
    """What `kernel_distance` found."""

    value: float
    """The mean over subsets; 0 is the best, and it may lie below by chance."""
    deviation: float
    """Between subsets."""
    subsets: int
    subset_size: int
    real_count: int
    generated_count: int

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.value:.5f} ± {self.deviation:.5f}"


def kernel_distance(
    real: Tensor, generated: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SEED
) -> KernelReport:
    """Compare two sets of features.

    Args:
        real, generated: (N, F) and (M, F), finite.
        subsets: how many pairs of subsets.
        subset_size: images of each; all there are of the smaller set where these are fewer.
        seed: of the subsets.

    Raises:
        ValueError: features of other shapes, or fewer than two of a set.
    """
    from torch_fidelity.metric_kid import kernel_mmd

    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features come as (N, F) and (M, F), not {tuple(real.shape)} and {tuple(generated.shape)}")
    size = min(subset_size, len(real), len(generated))
    if size < 2:
        raise ValueError("a kernel distance needs two images of each set")
    random = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        # The first set of torch-fidelity's is the generated one: the order in which the subsets are drawn.
        chosen = [one[random.choice(len(one), size, replace=False)].double().numpy() for one in (generated, real)]
        found.append(kernel_mmd(*chosen))
    return KernelReport(float(np.mean(found)), float(np.std(found)), subsets, size, len(real), len(generated))
