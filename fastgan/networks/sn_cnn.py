"""The SN "cnn" pair of the AdvLatGAN experiments (after Miyato et al. 2018, table 3), with a width multiplier.

    generator      z -> linear to (side/8, side/8, 8w) -> 4x4 stride-2 transposed convolutions 4w, 2w, w, each with batch norm
                   and ReLU -> 3x3 convolution -> tanh
    discriminator  3x3 w, 4x4/2 w, 3x3 2w, 4x4/2 2w, 3x3 4w, 4x4/2 4w, 3x3 8w, each LeakyReLU 0.1 -> linear to 1;
                   no biases, spectral norm throughout

w = 64 is published. Xavier-uniform initialisation.
"""

import torch
from torch import Tensor, nn

from fastgan.config import Config
from fastgan.networks.layers import STARTING_ITERATIONS, SNConv2d, SNLinear, iterate_spectral_norms, single_or_better


class Generator(nn.Module):
    """(B, dim) latents -> (B, channels, side, side) images in [-1, 1].

    Raises:
        ValueError: `side` is not a multiple of 8.
    """

    def __init__(self, dim: int, side: int, channels: int, width: int) -> None:
        super().__init__()
        _check(side)
        self.start = (side // 8, side // 8, 8 * width)
        self.linear = nn.Linear(dim, 8 * width * (side // 8) ** 2)
        self.main = nn.Sequential(
            *_up(8 * width, 4 * width),
            *_up(4 * width, 2 * width),
            *_up(2 * width, width),
            nn.Conv2d(width, channels, 3, padding=1, bias=False),
            nn.Tanh(),
        )
        _initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        # The linear layer writes channels last, so its output is the convolutions' memory format without a copy.
        x = self.linear(z).unflatten(1, self.start).permute(0, 3, 1, 2)
        return single_or_better(self.main(x))


class Discriminator(nn.Module):
    """(B, channels, side, side) images -> (B,) scores, unbounded, higher = more real.

    Raises:
        ValueError: `side` is not a multiple of 8.
    """

    def __init__(self, side: int, channels: int, width: int) -> None:
        super().__init__()
        _check(side)
        self.main = nn.Sequential(
            *_block(channels, width, 3, 1),
            *_block(width, width, 4, 2),
            *_block(width, 2 * width, 3, 1),
            *_block(2 * width, 2 * width, 4, 2),
            *_block(2 * width, 4 * width, 3, 1),
            *_block(4 * width, 4 * width, 4, 2),
            *_block(4 * width, 8 * width, 3, 1),
        )
        self.linear = SNLinear(8 * width * (side // 8) ** 2, 1, bias=False)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.main(x.contiguous(memory_format=torch.channels_last))
        return single_or_better(self.linear(x.permute(0, 2, 3, 1).flatten(1)).squeeze(1))


def pair(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` asks for."""
    side, channels, width = config.data.resolution, config.data.channels, config.network.width
    return Generator(config.latent.dim, side, channels, width), Discriminator(side, channels, width)


def _up(before: int, after: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def _block(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = SNConv2d(before, after, kernel, stride=stride, padding=1, bias=False)
    return [convolution, nn.LeakyReLU(0.1, inplace=True)]


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    iterate_spectral_norms(network, STARTING_ITERATIONS)


def _check(side: int) -> None:
    if side < 8 or side % 8:
        raise ValueError(f"the SN cnn pair needs a side that is a multiple of 8, not {side}")
