"""Pairs of networks on a line or in a plane for which a sampler's right answer is known in closed form."""

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.kernels import philox
from fastgan.latent import Prior
from fastgan.latent.samplers import Drawn, Pair, Sampler


class Affine(nn.Module):
    """G(z) = scale z + shift: its images follow N(shift, scale^2)."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.scale * z + self.shift + (0 if labels is None else labels[:, None])


class Function(nn.Module):
    """A discriminator from a function of its inputs."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def log_normal(x: Tensor, mean: float, deviation: float) -> Tensor:
    """Of the density, summed over the coordinates, without the constant that all deviations share."""
    return (-((x - mean) ** 2) / (2 * deviation**2) - torch.tensor(deviation).log()).sum(1)


MIXTURE = ((-1.2, 0.4, 0.3), (0.8, 0.6, 0.7))
"""Mean, deviation and weight of each part."""


def log_mixture(x: Tensor) -> Tensor:
    parts = [log_normal(x, mean, deviation) + torch.tensor(weight).log() for mean, deviation, weight in MIXTURE]
    return torch.stack(parts).logsumexp(0)


def of_mixture(count: int) -> tuple[Tensor, None]:
    """Samples of the mixture, (count, 1)."""
    rows = torch.arange(count)
    part = (philox.uniform(5, "part", rows, 1)[:, 0] > MIXTURE[0][2]).long()
    mean, deviation, _ = torch.tensor(MIXTURE)[part].T
    return (mean + deviation * philox.normal(5, "real", rows, 1)[:, 0])[:, None], None


def mixture_cdf(x):
    from scipy.stats import norm

    return sum(weight * norm.cdf(x, mean, deviation) for mean, deviation, weight in MIXTURE)


def mixture_pair(distort=lambda odds: odds, **options) -> Pair:
    """G draws N(0.8, 1.5^2), the data is the mixture, and D's score is the exact log-ratio of their densities, or what
    `distort` makes of it."""
    ratio = Function(lambda x: distort(log_mixture(x) - log_normal(x, 0.8, 1.5)))
    return make_pair(Affine(1.5, 0.8), ratio, real=of_mixture, **options)


def make_pair(generator: nn.Module, discriminator: nn.Module, dim: int = 1, **options) -> Pair:
    options = {"prior": Prior(dim), "batch_size": 2000} | options
    return Pair(generator.eval(), discriminator.eval(), **options)


def draw(sampler: Sampler, pair: Pair, count: int, batch: int | None = None, seed: int = 0, labels=None) -> Drawn:
    """Rows 0 to count - 1 in batches, as one."""
    sample, parts = sampler.prepare(pair), []
    for rows in torch.arange(count).split(batch or count):
        parts.append(sample(Draw(seed, "samples", 0, rows), None if labels is None else labels[rows]))
    z, images = torch.cat([part.z for part in parts]), [part.images for part in parts]
    return Drawn(z, labels, None if images[0] is None else torch.cat(images))


def distance(values: Tensor, cdf) -> float:
    """The Kolmogorov-Smirnov statistic: the greatest gap between the empirical distribution function and `cdf`."""
    from scipy.stats import kstest

    return kstest(values.flatten().double().numpy(), cdf).statistic
