"""The conditional DCGAN pair of MSGAN (Mao et al. 2019), which AdvLatGAN-div trains: the class is joined to the input, one-hot.

    generator      (z, class) -> linear to (side/8, side/8, 8w) -> 4x4 stride-2 transposed convolutions 4w, 2w, each of these
                   maps with batch norm and ReLU -> one more to the image -> tanh
    discriminator  (image, a constant map for each class) -> 4x4 stride-2 convolutions 2w, 4w, 8w, LeakyReLU 0.2, batch norm
                   before it but for the first -> linear to 1

w = 64 is published, at 32x32; any side that is a multiple of 8 works. The published last layer is a 4x4 convolution of a 4x4
map and a sigmoid: a linear layer here, and the score is the sigmoid's argument. Weights start as torch's layers do (MSGAN's
N(0, 0.02) is asked of the blocks that hold the convolutions and never reaches them). The published biases before batch norm are
left out: their true gradient is zero.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fastgan.config import Config
from fastgan.networks.dcgan import start_as_transposed
from fastgan.networks.layers import BatchNormAct, Conv2d, ConvTranspose2d, LinearMap, as_laid_out, check_side, flat, up


class Generator(nn.Module):
    """(B, dim) latents and int64 (B,) labels from 0 to classes - 1 -> (B, channels, side, side) images in [-1, 1].

    Raises:
        ValueError: `side` is not a multiple of 8, or `classes` is not at least 1.
    """

    def __init__(self, dim: int, side: int, channels: int, width: int, classes: int) -> None:
        super().__init__()
        _check(side, classes)
        self.classes = classes
        self.linear = LinearMap(dim + classes, 8 * width, side // 8, bias=False)
        start_as_transposed(self.linear)
        self.main = nn.Sequential(
            BatchNormAct(8 * width),
            nn.Identity(),
            *up(8 * width, 4 * width),
            *up(4 * width, 2 * width),
            ConvTranspose2d(2 * width, channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        z = torch.cat([z, one_hot(labels, self.classes).to(z.dtype)], dim=1)
        return self.main(self.linear(z)).float()


class Discriminator(nn.Module):
    """(B, channels, side, side) images and int64 (B,) labels -> (B,) scores, unbounded, higher = more real. Holds batch
    statistics.

    Raises:
        ValueError: `side` is not a multiple of 8, or `classes` is not at least 1.
    """

    def __init__(self, side: int, channels: int, width: int, classes: int) -> None:
        super().__init__()
        _check(side, classes)
        self.classes = classes
        self.main = nn.Sequential(
            Conv2d(channels + classes, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            *_down(2 * width, 4 * width),
            *_down(4 * width, 8 * width),
        )
        self.linear = nn.Linear(8 * width * (side // 8) ** 2, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        maps = one_hot(labels, self.classes).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        x = as_laid_out(torch.cat([x, maps], dim=1), self.main[0].weight)  # cat takes the layout of neither for its own
        return self.linear(flat(self.main(x))).squeeze(1).float()


def pair(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` asks for."""
    side, channels, width = config.data.resolution, config.data.channels, config.network.width
    classes = config.network.classes
    return Generator(config.latent.dim, side, channels, width, classes), Discriminator(side, channels, width, classes)


def _down(before: int, after: int) -> list[nn.Module]:
    convolution = Conv2d(before, after, 4, stride=2, padding=1, bias=False)
    return [convolution, BatchNormAct(after, "leaky", 0.2), nn.Identity()]


def _check(side: int, classes: int) -> None:
    check_side(side, 8, "conditional DCGAN")
    if classes < 1:
        raise ValueError(f"the conditional DCGAN pair needs classes (network.classes), not {classes}")
