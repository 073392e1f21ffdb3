"""What reading another project's checkpoint gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastgan.config import Config

Weights = tuple[Path, Mapping[str, Tensor]]
"""The file that they come from, and a network's state dict under our names; v of its spectral norms may be missing."""


@dataclass(frozen=True)
class Imported:
    """A configuration and the weights of the networks that it builds."""

    config: Config
    generator: Weights
    discriminator: Weights
    average: Weights
    """Of the averaged generator; the generator's own where nothing was averaged."""
