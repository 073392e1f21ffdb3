"""R3GAN (Huang, Gokaslan, Kuleshov, Tompkin, "The GAN is dead; long live the GAN! A modern GAN baseline", NeurIPS 2024, section
4): residual blocks with grouped convolutions, nothing normalised, the same in both players.

    generator      (z, class vector) -> linear to c0 numbers, each the weight of a learned 4x4 map -> blocks; then, for each
                   doubling of the side: 1x1 where the channels change, interpolated to twice the side -> blocks; at last 1x1
    discriminator  1x1 from the image -> for each halving of the side: blocks -> interpolated to half the side, 1x1 where the
                   channels change; blocks at 4x4 -> each channel's product with a learned 4x4 map, summed -> linear to the
                   score, or to a vector whose product with the class's is the score
    block          x + 1x1( act( grouped 3x3( act( 1x1(x) ) ) ) ), wider by `expansion` inside; act: LeakyReLU 0.2 of the map
                   and a bias. No other layer has a bias.

    side of a map       channels
    4 to `widest`       width
    2 `widest`          width / 2
    4 `widest`, ...     width / 4, ...

With L blocks in a network the first two convolutions of a block start with weights of standard deviation
sqrt(2 / 1.04) L^(-1/4) / sqrt(inputs), the third with zeros (after Fixup: Zhang, Dauphin, Ma, ICLR 2019): a block starts as the
identity. Linear and other 1x1 layers start with 1 / sqrt(inputs). The interpolating filter is [1, 2, 1] times the box of two
pixels, [1, 3, 3, 1] / 8 along each axis, with zeros beyond the border.
"""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from fastgan.config import Config
from fastgan.networks.layers import channels_last, single_or_better

START = 4
"""Side of the smallest maps."""
SLOPE = 0.2
"""Of the activation for negative numbers."""


class Generator(nn.Module):
    """(B, dim) latents and, with classes, int64 (B,) labels -> (B, channels, side, side) images.

    Nothing bounds the images that it is trained with; in evaluation mode they are cut to [-1, 1], as a file would.

    Args:
        side: a power of two from 8 on.
        channels: of the images.
        width: channels of the widest maps.
        classes: 0 for an unconditional generator, called without labels.
        embedding: numbers of a class vector.
        depth: blocks of a stage.
        expansion: channels inside a block, in those of its map.
        group: channels in a group of the 3x3 convolutions; all of them where there are fewer.
        widest: side of the largest maps that have `width` channels.

    Raises:
        ValueError: another side, or channels that do not divide into halves or groups.
    """

    def __init__(
        self,
        dim: int,
        side: int,
        channels: int,
        width: int,
        classes: int = 0,
        *,
        embedding: int = 64,
        depth: int = 2,
        expansion: int = 2,
        group: int = 16,
        widest: int = 32,
    ) -> None:
        super().__init__()
        first, *more = widths(side, width, widest)
        gain = block_gain(depth * (len(more) + 1))
        blocks = {"depth": depth, "expansion": expansion, "group": group, "gain": gain}
        self.embed = started(nn.Embedding(classes, embedding), classes) if classes else None
        inputs = dim + embedding if classes else dim
        self.linear = started(nn.Linear(inputs, first, bias=False), inputs)
        self.basis = nn.Parameter(torch.randn(1, first, START, START))
        self.stages = nn.ModuleList([stage(first, **blocks)])
        self.transitions = nn.ModuleList()
        for before, after in zip((first, *more), more, strict=False):
            self.transitions.append(nn.Sequential(*_pointwise(before, after), Doubled()))
            self.stages.append(stage(after, **blocks))
        self.image = pointwise(after, channels)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            z = torch.cat([z, self.embed(labels)], 1)
        x = self.stages[0](self.linear(z)[:, :, None, None] * self.basis)
        for transition, blocks in zip(self.transitions, self.stages[1:], strict=True):
            x = blocks(transition(x))
        images = single_or_better(self.image(x))
        return images if self.training else images.clamp(-1, 1)


class Discriminator(nn.Module):
    """(B, channels, side, side) images and, with classes, int64 (B,) labels -> (B,) scores, unbounded, higher = more real.

    Args: as for `Generator`; the class vector has `width` numbers.

    Raises:
        ValueError: as `Generator`.
    """

    def __init__(
        self,
        side: int,
        channels: int,
        width: int,
        classes: int = 0,
        *,
        depth: int = 2,
        expansion: int = 2,
        group: int = 16,
        widest: int = 32,
    ) -> None:
        super().__init__()
        first, *more = reversed(widths(side, width, widest))
        gain = block_gain(depth * (len(more) + 1))
        blocks = {"depth": depth, "expansion": expansion, "group": group, "gain": gain}
        self.map = pointwise(channels, first)
        self.stages = nn.ModuleList([stage(first, **blocks)])
        self.transitions = nn.ModuleList()
        for before, after in zip((first, *more), more, strict=False):
            self.transitions.append(nn.Sequential(Halved(), *_pointwise(before, after)))
            self.stages.append(stage(after, **blocks))
        self.basis = nn.Parameter(torch.randn(1, after, START, START) / START)
        self.linear = started(nn.Linear(after, width if classes else 1, bias=False), after)
        # The product's standard deviation starts as that of one of its `width` summands.
        self.embed = started(nn.Embedding(classes, width), classes * width) if classes else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stages[0](self.map(channels_last(x)))
        for transition, blocks in zip(self.transitions, self.stages[1:], strict=True):
            x = blocks(transition(x))
        features = self.linear((x * self.basis).sum((2, 3)))
        score = features.squeeze(1) if self.embed is None else (features * self.embed(labels)).sum(1)
        return single_or_better(score)


class Block(nn.Module):
    """(B, channels, h, w) -> the same; at first the identity."""

    def __init__(self, channels: int, expansion: int, group: int, gain: float) -> None:
        super().__init__()
        hidden = expansion * channels
        group = min(group, hidden)
        if hidden % group:
            raise ValueError(f"the {hidden} channels inside a block do not divide into groups of {group}")
        self.conv1 = started(nn.Conv2d(channels, hidden, 1), channels, gain)
        self.conv2 = started(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // group), 9 * group, gain)
        self.conv3 = started(nn.Conv2d(hidden, channels, 1, bias=False), hidden, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(self.conv1(x), SLOPE, inplace=True)
        y = functional.leaky_relu(self.conv2(y), SLOPE, inplace=True)
        return x + self.conv3(y)


class Doubled(nn.Module):
    """(B, C, h, w) -> (B, C, 2h, 2w), interpolated."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # one operator of a graph, in the place of eight and their copies
            taps = x.new_tensor([0.25, 0.75, 0.75, 0.25])
            weight = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
            return functional.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])
        return _Double.apply(x)


class Halved(nn.Module):
    """(B, C, h, w) of even sides -> (B, C, h/2, w/2), interpolated."""

    def forward(self, x: Tensor) -> Tensor:
        return _Halve.apply(x)


class _Double(Function):
    """Four times the adjoint of `_Halve`: the two are closed under differentiation. torch's transposed convolution of as many
    groups as channels takes 60 times as long on a CPU in bf16 (64 maps of 16x16x64: 65 ms against 1.1)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        rows = padded.new_empty(batch, height, 2, width + 2, channels)
        torch.lerp(padded[:, 1:-1], padded[:, :-2], 0.25, out=rows[:, :, 0])
        torch.lerp(padded[:, 1:-1], padded[:, 2:], 0.25, out=rows[:, :, 1])
        rows = rows.view(batch, 2 * height, width + 2, channels)
        y = padded.new_empty(batch, 2 * height, width, 2, channels)
        torch.lerp(rows[:, :, 1:-1], rows[:, :, :-2], 0.25, out=y[:, :, :, 0])
        torch.lerp(rows[:, :, 1:-1], rows[:, :, 2:], 0.25, out=y[:, :, :, 1])
        return y.view(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 4 * _Halve.apply(grad)


class _Halve(Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        # Made where it is used: a copy from the host has no place in a CUDA graph.
        taps = (2 - (torch.arange(4, dtype=x.dtype, device=x.device) - 1.5).abs()) / 4  # 1, 3, 3, 1 by 8
        weight = (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4).contiguous()
        return functional.conv2d(x, weight, stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Double.apply(grad) / 4


def widths(side: int, width: int, widest: int) -> list[int]:
    """Channels of the maps of 4x4, 8x8, ... up to `side`.

    Raises:
        ValueError: a side that is no power of two from 8 on, or a width that does not halve so often.
    """
    if side < 2 * START or side & (side - 1):
        raise ValueError(f"R3GAN's networks need a side that is a power of two from {2 * START} on, not {side}")
    found, at = [], START
    while at <= side:
        shrunk = max(at // widest, 1)
        if width % shrunk:
            raise ValueError(f"a width of {width} does not divide by {shrunk}, as maps of {at}x{at} ask")
        found.append(width // shrunk)
        at *= 2
    return found


def block_gain(blocks: int) -> float:
    """What weights in a block of a network of so many blocks start with, in 1 / sqrt(inputs)."""
    return sqrt(2 / (1 + SLOPE**2)) * blocks**-0.25


def stage(channels: int, depth: int, **block: float) -> nn.Sequential:
    """`depth` blocks."""
    return nn.Sequential(*(Block(channels, **block) for _ in range(depth)))


def pointwise(before: int, after: int) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return started(nn.Conv2d(before, after, 1, bias=False), before)


def _pointwise(before: int, after: int) -> list[nn.Module]:
    return [pointwise(before, after)] if before != after else []


def started(layer: nn.Module, inputs: int, gain: float = 1.0) -> nn.Module:
    """The layer with normal weights of standard deviation gain / sqrt(inputs), and a zero bias."""
    nn.init.normal_(layer.weight, std=gain / sqrt(inputs))
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)
    return layer


def pair(config: Config) -> tuple[Generator, Discriminator]:
    """The pair that `config` asks for."""
    network, side, channels = config.network, config.data.resolution, config.data.channels
    shape = {name: getattr(network, name) for name in ("depth", "expansion", "group", "widest")}
    generator = Generator(
        config.latent.dim, side, channels, network.width, network.classes, embedding=network.embedding, **shape
    )
    return generator, Discriminator(side, channels, network.width, network.classes, **shape)
