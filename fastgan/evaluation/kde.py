"""Parzen log-likelihood: real samples under a Gaussian kernel density of generated ones.

    log p(x) = logsumexp_i( -|x - g_i|^2 / 2 h^2 ) - log N - F/2 log(2 pi h^2)

Breuleux, Bengio & Vincent 2011; the measure of Goodfellow et al., "Generative adversarial nets" (2014), section 5, in nats.
The bandwidth h is chosen by cross-validation among the real samples: for each of `FOLDS` parts the one under which the other
parts are likeliest. In many dimensions the estimate has a high variance and is a poor judge (Theis et al., "A note on the
evaluation of generative models", ICLR 2016, section 3.2); it is here to be compared with published ones.

The density is scikit-learn's `KernelDensity`, to which the tests hold it. Its trees cost a pass over all pairs for each
bandwidth and fold, here one serves them all.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FOLDS = 5
BANDWIDTHS = tuple(float(h) for h in np.logspace(-1, 1, 21))
"""Tried in units of the generated samples' deviation (the root of the mean variance of their coordinates)."""
MOST = 10_000
"""Generated samples in the density at most, as in the literature."""
_BLOCK = 1 << 23  # squared distances held at once


@dataclass(frozen=True)
class DensityEstimate:
    """What `parzen` found."""

    value: float
    """Mean log-likelihood of a real sample in nats; higher is better."""
    error: float
    """Its standard error."""
    bandwidth: float
    """The mean of those chosen."""
    real_count: int
    generated_count: int
    """Samples in the density."""
    width: int
    """Coordinates of a sample."""

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.value:.2f} ± {self.error:.2f} nats, bandwidth {self.bandwidth:.3g}"


def parzen(real: Tensor, generated: Tensor, folds: int = FOLDS) -> DensityEstimate:
    """The log-likelihood of real samples, which the generator was not trained on, under generated ones.

    Args:
        real, generated: (N, F) and (M, F), finite; of the generated ones the first `MOST` are used.
        folds: parts of the real samples, at least 2 and at most N.

    Raises:
        ValueError: samples of other shapes, too few of them, or generated ones that are all the same.
    """
    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"samples come as (N, F) and (M, F), not {tuple(real.shape)} and {tuple(generated.shape)}")
    if not 2 <= folds <= len(real) or len(generated) < 2:
        raise ValueError(f"a density over {folds} folds needs as many real samples and two generated ones")
    generated = generated[:MOST].detach().cpu()
    unit = math.sqrt(float(generated.double().var(0).mean()))
    if unit == 0:
        raise ValueError("the generated samples are all the same: they have no density")
    found = log_density(real, generated, [unit * h for h in BANDWIDTHS])  # (bandwidths, N)
    part = torch.arange(len(real)) % folds
    chosen = [int(found[:, part != fold].mean(1).argmax()) for fold in range(folds)]
    likely = torch.cat([found[choice, part == fold] for fold, choice in enumerate(chosen)])
    return DensityEstimate(
        value=float(likely.mean()),
        error=float(likely.std() / math.sqrt(len(likely))),
        bandwidth=unit * sum(BANDWIDTHS[choice] for choice in chosen) / folds,
        real_count=len(real),
        generated_count=len(generated),
        width=real.shape[1],
    )


def log_density(points: Tensor, samples: Tensor, bandwidths: list[float]) -> Tensor:
    """log p of (N, F) points under Gaussian kernels on (M, F) samples: float64 (bandwidths, N)."""
    samples, width = samples.detach().cpu().double(), samples.shape[1]
    found = []
    for block in points.detach().cpu().split(max(1, _BLOCK // len(samples))):
        squares = torch.cdist(block.double(), samples).square()
        sums = [torch.logsumexp(squares / (-2 * h * h), dim=1) - width * math.log(h) for h in bandwidths]
        found.append(torch.stack(sums))
    return torch.cat(found, dim=1) - math.log(len(samples)) - width / 2 * math.log(2 * math.pi)
