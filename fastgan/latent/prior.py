"""The distribution that latents are drawn from."""

from dataclasses import dataclass
from math import erf, sqrt
from typing import Literal

import torch
from torch import Tensor

from fastgan.config import Latent
from fastgan.draw import Draw


@dataclass(frozen=True)
class Prior:
    """p(z) with independent coordinates: standard normal, standard normal cut at +-`truncation`, or uniform on [-1, 1]."""

    dim: int
    kind: Literal["normal", "truncated-normal", "uniform"] = "normal"
    truncation: float = 2.0

    @staticmethod
    def of(settings: Latent) -> "Prior":
        """The prior that a configuration asks for."""
        return Prior(settings.dim, settings.prior, settings.truncation)

    def __call__(self, draw: Draw, name: str = "latent") -> Tensor:
        """(B, dim) latents, float32, one row for each of the draw's samples."""
        if self.kind == "normal":
            return draw.normal(name, self.dim)
        u = draw.uniform(name, self.dim) + 2.0**-25  # the middle of each of the 2**24 cells: never 0
        if self.kind == "uniform":
            return 2 * u - 1
        # The inverse of the distribution function; redrawing what lies outside (Brock et al. 2019) has the same law.
        inside = erf(self.truncation / sqrt(2))
        return (sqrt(2) * torch.erfinv(inside * (2 * u - 1))).clamp(-self.truncation, self.truncation)
