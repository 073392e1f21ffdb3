"""Autoencoders with a code of content and a code of style, GAIA's two players (Sainburg et al., "Generative adversarial
interpolative autoencoding", 2018, section 2.3; after MUNIT: Huang, Liu, Belongie, Kautz, ECCV 2018, appendix B).

    content    7x7 w, ReLU -> d times 4x4/2, channels doubled, ReLU -> n residual blocks -> G: linear to `content` numbers
    style      7x7 w, ReLU -> d times 4x4/2, channels doubled, ReLU -> twice 4x4/2, ReLU -> mean over the map -> linear to
               `style` numbers
    decoder    G: linear from `content` to the map again -> n adaptive residual blocks -> d times: upsampled by 2, 5x5 to half
               the channels, layer norm, ReLU -> 7x7 to the image -> tanh

    residual block             x + norm( 3x3( relu( norm( 3x3(x) ) ) ) ), instance norm with a gain and a bias a channel
    adaptive residual block    the same; gain and bias are the style's: style -> linear, ReLU -> linear, ReLU -> two linear
                               layers, one gain and one bias a channel for all the blocks

w = 64, d = 2, n = 4, `content` = `style` = 512 are published, for sides of 128; MUNIT's `style` is 8. D has half of G's filters
and keeps the map as its content. Borders are reflected. Layer norm is over a sample, its gain and bias a channel's. Weights
start normal with variance 2 / inputs (He et al. 2015), biases at 0.

Where it differs from the published network: tanh in the place of a sigmoid, for images in [-1, 1] (2 sigmoid(x) - 1 =
tanh(x / 2)); a map that will be upsampled gets its border before that, one pixel repeated, so that of the two pixels beyond the
border the farther one is the border's and not its neighbour's; no biases where instance norm takes them away again.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgan.config import Config
from fastgan.networks.layers import LinearMap, flat, single_or_better

MORE = 2
"""Halvings of the style's map after those of the content's."""


class Code(NamedTuple):
    """What an image is encoded as; any linear mixture of codes is one too."""

    content: Tensor
    """(B, content) where a linear layer makes it, else a map (B, C, h, w)."""
    style: Tensor
    """(B, style)."""


class Autoencoder(nn.Module):
    """(B, channels, side, side) images -> the same drawn again, in [-1, 1], through a `Code`.

    Args:
        side: a multiple of 2^(downsamplings + 2).
        channels: of the images.
        width: filters of the first layers.
        style: numbers of the style's code.
        content: numbers of the content's code; None keeps the content as a map.
        blocks: residual blocks of the encoder, and of the decoder.
        downsamplings: halvings of the side on the way to the content.

    Raises:
        ValueError: another side.
    """

    def __init__(
        self,
        side: int,
        channels: int,
        width: int,
        *,
        style: int = 512,
        content: int | None = None,
        blocks: int = 4,
        downsamplings: int = 2,
    ) -> None:
        super().__init__()
        multiple = 2 ** (downsamplings + MORE)
        if side % multiple:
            raise ValueError(
                f"with network.downsamplings={downsamplings} style and content codes need a side that is a multiple of "
                f"{multiple}, not {side}"
            )
        widest, small = width * 2**downsamplings, side // 2**downsamplings
        self.content_encoder = nn.Sequential(*_entry(channels, width, downsamplings), *(Block(widest) for _ in range(blocks)))
        self.to_content = None if content is None else nn.Linear(widest * small**2, content)
        self.style_encoder = nn.Sequential(
            *_entry(channels, width, downsamplings), *(Down(widest, widest) for _ in range(MORE))
        )
        self.to_style = nn.Linear(widest, style)
        self.from_content = None if content is None else LinearMap(content, widest, small)
        self.adapt = Adaptation(style, widest)
        self.blocks = nn.ModuleList(AdaptiveBlock(widest) for _ in range(blocks))
        self.up = nn.Sequential(*(Up(widest // 2**step) for step in range(downsamplings)))
        self.image = Reflected(width, channels, 7)
        _initialise(self)

    def encode(self, images: Tensor) -> Code:
        """(B, channels, side, side) -> their codes."""
        content = self.content_encoder(images)
        if self.to_content is not None:
            content = self.to_content(flat(content))
        return Code(single_or_better(content), single_or_better(self.to_style(self.style_encoder(images).mean((2, 3)))))

    def decode(self, code: Code) -> Tensor:
        """Codes -> (B, channels, side, side) images in [-1, 1]."""
        gain, bias = self.adapt(code.style)
        x = code.content if self.from_content is None else self.from_content(code.content)
        for block in self.blocks:
            x = block(x, gain, bias)
        return single_or_better(self.image(self.up(x)).tanh())

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


class Reflected(nn.Conv2d):
    """A convolution of a map with reflected borders; 4x4 with a stride of 2 halves the side."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(before, after, kernel, stride, bias=bias)
        self.border = (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (self.border,) * 4, mode="reflect"))


class First(Reflected):
    """7x7, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 7)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


class Down(Reflected):
    """4x4/2, ReLU: (B, before, h, w) -> (B, after, h/2, w/2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


class InstanceNorm(nn.Module):
    """A gain and a bias a channel after each sample's channel is normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return normalised(x, self.weight, self.bias)


class Block(nn.Module):
    """(B, channels, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = Reflected(channels, channels, 3, bias=False), InstanceNorm(channels)
        self.conv2, self.norm2 = Reflected(channels, channels, 3, bias=False), InstanceNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class AdaptiveBlock(nn.Module):
    """(B, channels, h, w), gain and bias (B, channels) -> (B, channels, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Reflected(channels, channels, 3, bias=False)
        self.conv2 = Reflected(channels, channels, 3, bias=False)

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        y = normalised(self.conv1(x), gain, bias).relu()
        return x + normalised(self.conv2(y), gain, bias)


class Adaptation(nn.Module):
    """(B, style) -> gain and bias, (B, channels) each."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(style, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU())
        self.gain, self.bias = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(style)
        return self.gain(hidden), self.bias(hidden)


class Up(nn.Module):
    """(B, channels, h, w) -> (B, channels/2, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 2, 5)
        self.norm = LayerNorm(channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(functional.pad(x, (1,) * 4, mode="replicate"), scale_factor=2)
        return self.norm(self.conv(x)).relu()


class LayerNorm(nn.Module):
    """Over each sample, then a gain and a bias a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return normalised(x, self.weight, self.bias, axes=(1, 2, 3))


def normalised(x: Tensor, gain: Tensor, bias: Tensor, axes: tuple[int, ...] = (2, 3), eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gain + bias with mean and variance of each sample over the axes."""
    wide = single_or_better(x)
    var, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    y = (wide - mean) * (var + eps).rsqrt()
    return torch.addcmul(bias[..., None, None].to(y.dtype), y, gain[..., None, None].to(y.dtype)).to(x.dtype)


def pair(config: Config) -> tuple[Autoencoder, Autoencoder]:
    """Generator and discriminator, with half of the generator's filters and the map as its content.

    Raises:
        ValueError: a side that does not halve so often, or an odd width.
    """
    network, side, channels = config.network, config.data.resolution, config.data.channels
    if network.width % 2:
        raise ValueError(f"D has half of G's filters, so network.width must be even, not {network.width}")
    shape = {name: getattr(network, name) for name in ("style", "blocks", "downsamplings")}
    generator = Autoencoder(side, channels, network.width, content=network.content, **shape)
    return generator, Autoencoder(side, channels, network.width // 2, **shape)


def _entry(channels: int, width: int, downsamplings: int) -> list[nn.Module]:
    """The layers that both encoders begin with."""
    return [First(channels, width), *(Down(width * 2**step, width * 2 ** (step + 1)) for step in range(downsamplings))]


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
