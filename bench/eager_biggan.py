"""BigGAN (Brock, Donahue, Simonyan, ICLR 2019, appendix B) in plain PyTorch, as its trainers write it: to measure against.

NCHW, torch's own spectral norm, which iterates in every forward, batch norm and then a sample's gain and bias, ReLU, upsampling
and pooling each by itself, shortcuts convolved where the map is large, attention by two batched products and a softmax. Modules
have the names of `fastgan.networks.biggan`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from fastgan.config import Config
from fastgan.networks.biggan import DISCRIMINATOR, EPS, GENERATOR


def pair(config: Config) -> tuple["Generator", "Discriminator"]:
    """Generator and discriminator with the sizes of `config`, whose network.family is biggan, initialised from its seed."""
    side, channels, network = config.data.resolution, config.data.channels, config.network
    attention = set(network.attention)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return (
            Generator(config.latent.dim, side, channels, network.width, network.classes, network.embedding, attention),
            Discriminator(side, channels, network.width, network.classes, attention),
        )


class Generator(nn.Module):
    """(B, dim) latents and int64 (B,) labels -> (B, channels, side, side) images."""

    def __init__(
        self, dim: int, side: int, channels: int, width: int, classes: int, embedding: int, attention: set[int]
    ) -> None:
        super().__init__()
        start, *stages = (widths * width for widths in GENERATOR[side])
        self.chunk = dim // (len(stages) + 1)
        self.shared = _orthogonal(nn.Embedding(classes, embedding)) if classes else None
        condition = self.chunk + (embedding if classes else 0)
        self.linear = _normalised(nn.Linear(self.chunk, 16 * start))
        self.stages, self.attention = nn.ModuleList(), nn.ModuleDict()
        before, at = start, 4
        for after in stages:
            self.stages.append(UpBlock(before, after, condition))
            before, at = after, 2 * at
            if at in attention:
                self.attention[str(at)] = Attention(after)
        self.norm = nn.BatchNorm2d(before)
        self.image = _convolution(before, channels, 3)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        z, *chunks = z.split(self.chunk, 1)
        if self.shared is not None:
            vector = self.shared(labels)
            chunks = [torch.cat([vector, chunk], 1) for chunk in chunks]
        x = self.linear(z).view(len(z), -1, 4, 4)
        for block, condition in zip(self.stages, chunks, strict=True):
            x = block(x, condition)
            x = _attended(self.attention, x)
        return torch.tanh(self.image(functional.relu(self.norm(x), inplace=True)))


class Discriminator(nn.Module):
    """(B, channels, side, side) images and int64 (B,) labels -> (B,) scores."""

    def __init__(self, side: int, channels: int, width: int, classes: int, attention: set[int]) -> None:
        super().__init__()
        self.stages, self.attention = nn.ModuleList(), nn.ModuleDict()
        before, at = channels, side
        for number, (widths, halve) in enumerate(DISCRIMINATOR[side]):
            after = widths * width
            self.stages.append(DownBlock(before, after, halve, number == 0))
            before, at = after, at // 2 if halve else at
            if halve and at in attention:
                self.attention[str(at)] = Attention(after)
        self.linear = _normalised(nn.Linear(before, 1))
        self.embed = _normalised(nn.Embedding(classes, before)) if classes else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        for block in self.stages:
            x = block(x)
            x = _attended(self.attention, x) if block.halve else x
        features = torch.sum(functional.relu(x), [2, 3])
        score = self.linear(features)
        if self.embed is not None:
            score = score + torch.sum(self.embed(labels) * features, 1, keepdim=True)
        return score.squeeze(1)


class ConditionalNorm(nn.Module):
    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.gain = _normalised(nn.Linear(condition, channels, bias=False))
        self.shift = _normalised(nn.Linear(condition, channels, bias=False))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain = (1 + self.gain(condition)).view(len(x), -1, 1, 1)
        bias = self.shift(condition).view(len(x), -1, 1, 1)
        y = functional.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, 0.1, 1e-5)
        return y * gain + bias


class UpBlock(nn.Module):
    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(before, condition), ConditionalNorm(after, condition)
        self.conv1, self.conv2 = _convolution(before, after, 3), _convolution(after, after, 3)
        self.shortcut = _convolution(before, after, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = functional.relu(self.norm1(x, condition), inplace=True)
        h, x = functional.interpolate(h, scale_factor=2), functional.interpolate(x, scale_factor=2)
        h = self.conv1(h)
        h = functional.relu(self.norm2(h, condition), inplace=True)
        return self.conv2(h) + self.shortcut(x)


class DownBlock(nn.Module):
    def __init__(self, before: int, after: int, halve: bool, first: bool) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1, self.conv2 = _convolution(before, after, 3), _convolution(after, after, 3)
        self.shortcut = _convolution(before, after, 1) if halve or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else functional.relu(x))
        h = self.conv2(functional.relu(h, inplace=True))
        if not self.halve:
            return h + self.shortcut(x)
        shortcut = self.shortcut(functional.avg_pool2d(x, 2)) if self.first else functional.avg_pool2d(self.shortcut(x), 2)
        return functional.avg_pool2d(h, 2) + shortcut


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query, self.key = (_convolution(channels, narrow, 1, bias=False) for _ in range(2))
        self.value, self.out = _convolution(channels, half, 1, bias=False), _convolution(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)
        key, value = (functional.max_pool2d(layer(x), 2).flatten(2) for layer in (self.key, self.value))
        weights = functional.softmax(torch.bmm(query.transpose(1, 2), key), -1)
        looked = torch.bmm(value, weights.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
        return self.gamma * self.out(looked) + x


def _attended(attention: nn.ModuleDict, x: Tensor) -> Tensor:
    at = str(x.shape[2])
    return attention[at](x) if at in attention else x


def _convolution(before: int, after: int, kernel: int, bias: bool = True) -> nn.Module:
    return _normalised(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=bias))


def _normalised(layer: nn.Module) -> nn.Module:
    return spectral_norm(_orthogonal(layer), eps=EPS)


def _orthogonal(layer: nn.Module) -> nn.Module:
    nn.init.orthogonal_(layer.weight)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)
    return layer
