"""The WGAN "cnn" pair of the AdvLatGAN experiments, for weight clipping and for a gradient penalty alike.

    generator      z -> linear to (side/8, side/8, 8w) -> 4x4 stride-2 transposed convolutions 4w, 2w, w, each with batch norm
                   and ReLU -> 3x3 convolution -> tanh
    discriminator  3x3 w, 4x4/2 w, 3x3 2w, 4x4/2 2w, 3x3 4w, 4x4/2 4w, 3x3 8w, each LeakyReLU 0.1 -> linear to 1

w = 64 is published. The shape is the SN pair's; weights start as torch's layers do, there are biases, and nothing is
normalised in D: with batch norm the gradient of one score would depend on the other images of the batch, and a penalty on its
norm would mean nothing (Gulrajani et al. 2017, section 4). The published biases before G's batch norms are left out: their true
gradient is zero.
"""

from torch import Tensor, nn

from fastgan.config import Config
from fastgan.networks.layers import Conv2d, LinearMap, check_side, flat, up
from fastgan.networks.sn_cnn import LAYERS


class Generator(nn.Module):
    """(B, dim) latents -> (B, channels, side, side) images in [-1, 1].

    Raises:
        ValueError: `side` is not a multiple of 8.
    """

    def __init__(self, dim: int, side: int, channels: int, width: int) -> None:
        super().__init__()
        check_side(side, 8, "WGAN cnn")
        self.linear = LinearMap(dim, 8 * width, side // 8)
        self.main = nn.Sequential(
            *up(8 * width, 4 * width),
            *up(4 * width, 2 * width),
            *up(2 * width, width),
            Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(self.linear(z)).float()


class Discriminator(nn.Module):
    """(B, channels, side, side) images -> (B,) scores, unbounded, higher = more real.

    Raises:
        ValueError: `side` is not a multiple of 8.
    """

    def __init__(self, side: int, channels: int, width: int) -> None:
        super().__init__()
        check_side(side, 8, "WGAN cnn")
        layers, before = [], channels
        for widths, kernel, stride in LAYERS:
            layers += [Conv2d(before, widths * width, kernel, stride, padding=1), nn.LeakyReLU(0.1, inplace=True)]
            before = widths * width
        self.main = nn.Sequential(*layers)
        self.linear = nn.Linear(before * (side // 8) ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(flat(self.main(x))).squeeze(1).float()


def pair(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` asks for."""
    side, channels, width = config.data.resolution, config.data.channels, config.network.width
    return Generator(config.latent.dim, side, channels, width), Discriminator(side, channels, width)
