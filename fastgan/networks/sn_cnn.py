"""The SN "cnn" pair of the AdvLatGAN experiments (after Miyato et al. 2018, table 3), with a width multiplier.

    generator      z -> linear to (side/8, side/8, 8w) -> 4x4 stride-2 transposed convolutions 4w, 2w, w, each with batch norm
                   and ReLU -> 3x3 convolution -> tanh
    discriminator  3x3 w, 4x4/2 w, 3x3 2w, 4x4/2 2w, 3x3 4w, 4x4/2 4w, 3x3 8w, each LeakyReLU 0.1 -> linear to 1;
                   no biases, spectral norm throughout

w = 64 is published. Xavier-uniform initialisation.
"""

from torch import Tensor, nn

from fastgan.config import Config
from fastgan.networks.layers import (
    STARTING_ITERATIONS,
    Conv2d,
    LinearMap,
    SNConv2d,
    SNLinear,
    check_side,
    flat,
    iterate_spectral_norms,
    single_or_better,
    up,
    xavier,
)

LAYERS = ((1, 3, 1), (1, 4, 2), (2, 3, 1), (2, 4, 2), (4, 3, 1), (4, 4, 2), (8, 3, 1))
"""The discriminator's convolutions: channels in widths, kernel, stride."""


class Generator(nn.Module):
    """(B, dim) latents -> (B, channels, side, side) images in [-1, 1].

    Raises:
        ValueError: `side` is not a multiple of 8.
    """

    def __init__(self, dim: int, side: int, channels: int, width: int) -> None:
        super().__init__()
        check_side(side, 8, "SN cnn")
        self.linear = LinearMap(dim, 8 * width, side // 8)
        self.main = nn.Sequential(
            *up(8 * width, 4 * width),
            *up(4 * width, 2 * width),
            *up(2 * width, width),
            Conv2d(width, channels, 3, padding=1, bias=False),
            nn.Tanh(),
        )
        xavier(self)

    def forward(self, z: Tensor) -> Tensor:
        return single_or_better(self.main(self.linear(z)))


class Discriminator(nn.Module):
    """(B, channels, side, side) images -> (B,) scores, unbounded, higher = more real.

    Raises:
        ValueError: `side` is not a multiple of 8.
    """

    def __init__(self, side: int, channels: int, width: int) -> None:
        super().__init__()
        check_side(side, 8, "SN cnn")
        layers, before = [], channels
        for widths, kernel, stride in LAYERS:
            layers += [SNConv2d(before, widths * width, kernel, stride, padding=1, bias=False), nn.LeakyReLU(0.1, inplace=True)]
            before = widths * width
        self.main = nn.Sequential(*layers)
        self.linear = SNLinear(before * (side // 8) ** 2, 1, bias=False)
        xavier(self)
        iterate_spectral_norms(self, STARTING_ITERATIONS)

    def forward(self, x: Tensor) -> Tensor:
        return single_or_better(self.linear(flat(self.main(x))).squeeze(1))


def pair(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` asks for."""
    side, channels, width = config.data.resolution, config.data.channels, config.network.width
    return Generator(config.latent.dim, side, channels, width), Discriminator(side, channels, width)
