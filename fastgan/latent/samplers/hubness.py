"""The hubness prior: only latents that are near neighbours of many others are kept.

In many dimensions a few points, the hubs, are among the k nearest neighbours of very many others. G has seen such latents best:
their images are better. From a pool of latents those are kept that are in more than `threshold` of the others'
k-neighbourhoods. Liang, Wu, Lai, Qin, "Exploring and exploiting hubness priors for high-quality GAN latent sampling" (ICML
2022), sections 3 and 4.

Pools are drawn one after the other, and their hubs numbered as they come: sample i is hub i, whoever asks for it. Neighbours
are by Euclidean distance; in few dimensions hardly any hubs are there, and the threshold must be low.

Passes: one of G a sample, none of D. A pool of N latents of D numbers costs a product of N x D by D x N.
"""

from collections import defaultdict
from dataclasses import dataclass as plain
from dataclasses import field, replace

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, Count, Positive, UserError
from fastgan.draw import Draw
from fastgan.latent.samplers.sampler import Drawn, Pair, Sample, Sampler

_ROWS = 1024  # whose distances to all of a pool are in memory at once: 40 MB for 10,000


@dataclass(frozen=True, config=CHECKED)
class Hubness(Sampler):
    """A pool should be far larger than `neighbours`, and is drawn and counted on every rank."""

    pool: Positive = 10_000
    """Latents among which neighbours are counted; as published."""
    neighbours: Positive = 5
    """k; as published."""
    threshold: Count = 50
    """A latent is kept if it is among the k nearest of more than so many others; 50 as published, for 512 dimensions."""

    def __post_init__(self) -> None:
        if self.pool <= self.neighbours:
            raise ValueError(f"pool ({self.pool}) must be larger than neighbours ({self.neighbours})")

    def prepare(self, pair: Pair) -> Sample:
        """Nothing is to be done once; pools are counted as they are needed."""
        hubs: dict[tuple[int, str], _Hubs] = defaultdict(lambda: _Hubs(self, pair))

        def sample(draw: Draw, labels: Tensor | None) -> Drawn:
            rows = hubs[draw.seed, draw.purpose].rows(draw)
            return Drawn(pair.prior(_in_pools(draw, rows)), labels)

        return sample


@plain
class _Hubs:
    """The hubs of the pools so far, by their rows in the sequence of all pools."""

    settings: Hubness
    pair: Pair
    found: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    pools: int = 0

    def rows(self, draw: Draw) -> Tensor:
        """The pools' rows of the hubs that the draw's rows number."""
        wanted = draw.rows.cpu()
        while len(self.found) <= wanted.max():
            first = self.pools * self.settings.pool
            rows = torch.arange(first, first + self.settings.pool, device=draw.rows.device)
            counts = occurrences(self.pair.prior(_in_pools(draw, rows)), self.settings.neighbours)
            hubs = rows[counts > self.settings.threshold]
            if not len(hubs):
                raise UserError(
                    f"hubness: of {self.settings.pool} latents of {self.pair.prior.dim} numbers none is among the "
                    f"{self.settings.neighbours} nearest of more than {self.settings.threshold} others; the greatest count is "
                    f"{int(counts.max())}: choose a lower threshold"
                )
            self.found, self.pools = torch.cat([self.found, hubs.cpu()]), self.pools + 1
        return self.found[wanted].to(draw.rows.device)


def occurrences(z: Tensor, neighbours: int) -> Tensor:
    """Among the `neighbours` nearest of how many others each latent (N, D) is, int64 (N,). Their sum is N times
    `neighbours`."""
    counts = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    squares = z.square().sum(1)
    for first in range(0, len(z), _ROWS):
        part = z[first : first + _ROWS]
        distances = squares - 2 * part @ z.T  # and the square of `part`, which changes no order
        distances[torch.arange(len(part)), torch.arange(first, first + len(part))] = torch.inf  # nobody is its own neighbour
        nearest = distances.topk(neighbours, dim=1, largest=False).indices
        counts += torch.bincount(nearest.flatten(), minlength=len(z))
    return counts


def _in_pools(draw: Draw, rows: Tensor) -> Draw:
    """A draw apart from all others of the same seed."""
    return replace(draw, purpose=f"{draw.purpose}/hubness", rows=rows)
