"""The ResNet pairs of the AdvLatGAN experiments, for images of 32 and 48 pixels (after Miyato et al. 2018, tables 3 and 4).

    generator      z -> linear to (side/8, side/8, c0) -> three blocks that double the side, c1, c2, c3 -> batch norm, ReLU
                   -> 3x3 convolution -> tanh
                   block: batch norm, ReLU, upsample, 3x3, batch norm, ReLU, 3x3, beside a 1x1 on the shortcut
    discriminator  four blocks -> ReLU -> pooled over the image -> linear to 1
                   block: ReLU (not in the first), 3x3, ReLU, 3x3, average pool where it halves the side, beside a 1x1 on the
                   shortcut where it halves the side

                   c0 to c3            blocks of D, * halves the side
        32 px      4w 4w 4w 4w         2w* 2w* 2w 2w
        48 px      8w 4w 2w w          w* 2w* 4w* 8w*

    SN             spectral norm throughout D, sum pooling, no bias in D's last layer; Xavier-uniform, with gain sqrt(2) on the
                   main paths of the blocks
    WGAN           nothing normalised in D, mean pooling; torch's own initialisation

w = 64 is published. A 1x1 convolution commutes with upsampling and with pooling: it stands where the map is small. The
published biases of G's blocks are left out: each shifts a whole channel, which every later batch norm takes away, so their true
gradient is zero.
"""

from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn

from fastgan.config import Config
from fastgan.networks.layers import (
    STARTING_ITERATIONS,
    BatchNormAct,
    Conv2d,
    LinearMap,
    SNConv2d,
    SNLinear,
    channels_last,
    iterate_spectral_norms,
    xavier,
)

GENERATOR = {32: (4, 4, 4, 4), 48: (8, 4, 2, 1)}
"""Side -> channels of the first map and of each block, in widths."""
DISCRIMINATOR = {32: ((2, True), (2, True), (2, False), (2, False)), 48: ((1, True), (2, True), (4, True), (8, True))}
"""Side -> channels of each block, in widths, and whether it halves the side."""


class Generator(nn.Module):
    """(B, dim) latents -> (B, channels, side, side) images in [-1, 1].

    Args:
        spectral: initialise as the SN family does; as torch does otherwise.

    Raises:
        ValueError: `side` is neither 32 nor 48.
    """

    def __init__(self, dim: int, side: int, channels: int, width: int, spectral: bool) -> None:
        super().__init__()
        _check(side)
        start, *blocks = (widths * width for widths in GENERATOR[side])
        self.linear = LinearMap(dim, start, side // 8)
        self.blocks = nn.Sequential(*map(UpBlock, (start, *blocks), blocks))
        last = blocks[-1]
        self.image = nn.Sequential(BatchNormAct(last), nn.Identity(), Conv2d(last, channels, 3, padding=1), nn.Tanh())
        if spectral:
            _initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.image(self.blocks(self.linear(z))).float()


class Discriminator(nn.Module):
    """(B, channels, side, side) images -> (B,) scores, unbounded, higher = more real.

    Args:
        spectral: the SN family's, with spectral norm and sum pooling; the WGAN family's otherwise.

    Raises:
        ValueError: `side` is neither 32 nor 48.
    """

    def __init__(self, side: int, channels: int, width: int, spectral: bool) -> None:
        super().__init__()
        _check(side)
        convolution = SNConv2d if spectral else Conv2d
        blocks, before = [], channels
        for widths, halve in DISCRIMINATOR[side]:
            blocks.append(DownBlock(before, widths * width, convolution, halve, first=not blocks))
            before = widths * width
        self.blocks = nn.Sequential(*blocks)
        self.pool = partial(torch.sum if spectral else torch.mean, dim=(2, 3))
        self.linear = SNLinear(before, 1, bias=False) if spectral else nn.Linear(before, 1)
        if spectral:
            _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.blocks(channels_last(x)).relu())).squeeze(1).float()


class UpBlock(nn.Module):
    """(B, before, h, w) -> (B, after, 2h, 2w)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            BatchNormAct(before, upsample=True),
            nn.Identity(),
            nn.Identity(),
            Conv2d(before, after, 3, padding=1, bias=False),
            BatchNormAct(after),
            nn.Identity(),
            Conv2d(after, after, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Sequential(Conv2d(before, after, 1, bias=False), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class DownBlock(nn.Module):
    """(B, before, h, w) -> (B, after, h, w), or (B, after, h/2, w/2) where it halves the side."""

    def __init__(self, before: int, after: int, convolution: type[Conv2d], halve: bool, first: bool) -> None:
        super().__init__()
        pool = [nn.AvgPool2d(2)] if halve else []
        self.main = nn.Sequential(
            *([] if first else [nn.ReLU()]),  # not in place: the shortcut needs its input
            convolution(before, after, 3, padding=1),
            nn.ReLU(inplace=True),
            convolution(after, after, 3, padding=1),
            *pool,
        )
        self.shortcut = nn.Sequential(*pool, convolution(before, after, 1)) if halve or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


def sn_pair(config: Config) -> tuple[Generator, Discriminator]:
    """The SN pair that `config` asks for."""
    return _pair(config, spectral=True)


def wgan_pair(config: Config) -> tuple[Generator, Discriminator]:
    """The WGAN pair that `config` asks for."""
    return _pair(config, spectral=False)


def _pair(config: Config, spectral: bool) -> tuple[Generator, Discriminator]:
    side, channels, width = config.data.resolution, config.data.channels, config.network.width
    generator = Generator(config.latent.dim, side, channels, width, spectral)
    return generator, Discriminator(side, channels, width, spectral)


def _initialise(network: Generator | Discriminator) -> None:
    xavier(network)
    for block in network.blocks:
        xavier(block.main, gain=sqrt(2))
    iterate_spectral_norms(network, STARTING_ITERATIONS)


def _check(side: int) -> None:
    if side not in GENERATOR:
        raise ValueError(f"the ResNet pairs are made for sides of 32 and 48, not {side}")
