"""The MLP pair for points in the plane: three hidden layers each, ReLU.

    generator      z -> w -> w -> w -> 2, not squashed: the range is unbounded, as that of the points is
    discriminator  (x, y) -> w -> w -> w -> 1

w = 256 is published for AdvLatGAN's 25-Gaussian grid, with a latent of 2. Weights and biases begin as torch's linear layers do
(uniform, bounded by 1 / sqrt(inputs)). No normalisation: nothing mixes samples or holds a buffer.
"""

from torch import Tensor, nn

from fastgan.config import Config

HIDDEN = 3


class Generator(nn.Module):
    """(B, dim) latents -> (B, 2) points, unbounded."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.main = _mlp(dim, width, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z).float()


class Discriminator(nn.Module):
    """(B, 2) points -> (B,) scores, unbounded, higher = more real."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.main = _mlp(2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x).squeeze(1).float()


def pair(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` asks for."""
    return Generator(config.latent.dim, config.network.width), Discriminator(config.network.width)


def _mlp(before: int, width: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(HIDDEN):
        layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers, nn.Linear(width, after))
