"""The DCGAN "cnn" pair of the AdvLatGAN experiments (after Radford et al. 2016).

    generator      z as a 1x1 map -> transposed convolution to (side/16, side/16, 16w) -> 4x4 stride-2 transposed convolutions
                   8w, 4w, 2w, each of these maps with batch norm and ReLU -> one more to the image -> tanh; no biases
    discriminator  5x5 stride-2 convolutions w, 2w, 4w, 8w without biases, LeakyReLU 0.2 and then, but for the first, batch norm
                   -> linear to 1

w = 64 is published. Weights start as torch's layers do.
"""

from torch import Tensor, nn

from fastgan.config import Config
from fastgan.networks.layers import BatchNormAct, Conv2d, ConvTranspose2d, LinearMap, check_side, flat, up


class Generator(nn.Module):
    """(B, dim) latents -> (B, channels, side, side) images in [-1, 1].

    Raises:
        ValueError: `side` is not a multiple of 16.
    """

    def __init__(self, dim: int, side: int, channels: int, width: int) -> None:
        super().__init__()
        check_side(side, 16, "DCGAN cnn")
        self.linear = LinearMap(dim, 16 * width, side // 16, bias=False)  # a transposed convolution of a 1x1 map is linear
        start_as_transposed(self.linear)
        self.main = nn.Sequential(
            BatchNormAct(16 * width),
            nn.Identity(),
            *up(16 * width, 8 * width),
            *up(8 * width, 4 * width),
            *up(4 * width, 2 * width),
            ConvTranspose2d(2 * width, channels, 4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(self.linear(z)).float()


class Discriminator(nn.Module):
    """(B, channels, side, side) images -> (B,) scores, unbounded, higher = more real. Holds batch statistics.

    Raises:
        ValueError: `side` is not a multiple of 16.
    """

    def __init__(self, side: int, channels: int, width: int) -> None:
        super().__init__()
        check_side(side, 16, "DCGAN cnn")
        self.main = nn.Sequential(
            *_down(channels, width),
            *_down(width, 2 * width),
            BatchNormAct(2 * width, act="none"),
            *_down(2 * width, 4 * width),
            BatchNormAct(4 * width, act="none"),
            *_down(4 * width, 8 * width),
            BatchNormAct(8 * width, act="none"),
        )
        self.linear = nn.Linear(8 * width * (side // 16) ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(flat(self.main(x))).squeeze(1).float()


def pair(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` asks for."""
    side, channels, width = config.data.resolution, config.data.channels, config.network.width
    return Generator(config.latent.dim, side, channels, width), Discriminator(side, channels, width)


def start_as_transposed(linear: LinearMap) -> None:
    """Initial weights as torch gives them to the transposed convolution that `linear` stands for, which takes its fan from
    the output: uniform within +-1 / sqrt(out). Batch norm undoes the scale, but Adam's steps are relative to it."""
    bound = linear.out_features**-0.5
    nn.init.uniform_(linear.weight, -bound, bound)


def _down(before: int, after: int) -> list[nn.Module]:
    return [Conv2d(before, after, 5, stride=2, padding=2, bias=False), nn.LeakyReLU(0.2, inplace=True)]
