"""GAIA (Sainburg et al. 2018) in plain PyTorch, autoencoders and a round, as one writes them: to measure against.

NCHW, torch's own instance norm and reflected borders, each norm, activation and sum by itself, 5x5 convolutions where the map
is large. Modules have the names of `fastgan.networks.style_content`. A round is one forward of both players on everything, a
`backward()` of each loss, which fills the other player's gradients too, and Adam for both.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgan.config import Config

_EPS = 1e-5
_DECAY = 0.9999


class EagerGaiaRound:
    """A round of `config`, whose game is gaia, with the published code's losses and balances, of pairs' mixtures."""

    def __init__(self, config: Config) -> None:
        self.settings, adams = config.gaia, (config.generator, config.discriminator)
        self.generator, self.discriminator = pair(config)
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=adam.rate, betas=adam.betas, eps=adam.eps)
            for network, adam in zip((self.generator, self.discriminator), adams, strict=True)
        ]
        self.rates = [adam.rate for adam in adams]
        self.average = deepcopy(self.generator)

    def __call__(self, real: Tensor, labels: Tensor | None = None) -> None:
        of_generator, of_discriminator, share = self.losses(real, torch.randn(len(real)))
        for optimiser, rate, paced in zip(self.optimisers, self.rates, (1 - share, share), strict=True):
            optimiser.param_groups[0]["lr"] = rate * (paced.item() if self.settings.balanced_rates else 1)
        networks = self.generator, self.discriminator
        gradients = []
        for network, loss in zip(networks, (of_generator, of_discriminator), strict=True):
            for each in networks:
                each.zero_grad()
            loss.backward(retain_graph=loss is of_generator)
            gradients.append([parameter.grad for parameter in network.parameters()])
        for network, found, optimiser in zip(networks, gradients, self.optimisers, strict=True):
            for parameter, gradient in zip(network.parameters(), found, strict=True):
                parameter.grad = gradient
            optimiser.step()
        with torch.no_grad():
            for kept, parameter in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                kept.mul_(_DECAY).add_(parameter, alpha=1 - _DECAY)

    def losses(self, real: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L_G, L_D and D's share of the rate; `noise` (B,), the standard normal numbers behind the shares of mixtures."""
        settings, slope = self.settings, self.settings.slope
        code = self.generator.encode(real)
        shares = settings.mix_mean + settings.mix_deviation * noise
        generated = self.generator.decode(*code)
        mixtures = self.generator.decode(*(_mixtures(part, shares) for part in code))
        error_real = _error(real, self.discriminator(real))
        error_reconstructed = _error(real, self.discriminator(generated))
        error_mixed = _error(mixtures, self.discriminator(mixtures))
        error_fake = (error_mixed + error_reconstructed) / 2
        weight = torch.sigmoid(slope * (settings.tolerated * error_mixed - error_real)).clamp(0, settings.most_fake)
        of_discriminator = (error_real - weight * error_fake).clamp(-settings.bound, settings.bound)
        share = torch.sigmoid(slope * (error_mixed - error_reconstructed))
        of_generator = share * error_mixed + (1 - share) * error_reconstructed
        of_generator = of_generator + settings.structure * _structure(real, code[0])
        share = torch.sigmoid(slope * (error_real - error_fake)).detach()
        return of_generator.clamp(-settings.bound, settings.bound), of_discriminator, share


def _mixtures(z: Tensor, shares: Tensor) -> Tensor:
    first, second = z.chunk(2)
    a, b = shares[:, None].chunk(2)
    return torch.cat([a * first + (1 - a) * second, b * first.flip(0) + (1 - b) * second])


def _error(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean() / 2  # of pixels in [0, 1]


def _structure(x: Tensor, z: Tensor) -> Tensor:
    far = [(a[:, None] - a).square().mean(2) for a in (x.flatten(1), z.flatten(1))]
    far = [torch.log(1 + distances / distances.mean()) for distances in far]
    return (far[0] - far[1]).square().mean()


def pair(config: Config) -> tuple["Autoencoder", "Autoencoder"]:
    """Generator and discriminator with the sizes of `config`, initialised from its seed."""
    network, side, channels = config.network, config.data.resolution, config.data.channels
    shape = side, channels, network.style, network.blocks, network.downsamplings
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return Autoencoder(*shape, network.width, network.content), Autoencoder(*shape, network.width // 2)


class Autoencoder(nn.Module):
    def __init__(
        self, side: int, channels: int, style: int, blocks: int, downsamplings: int, width: int, content: int | None = None
    ) -> None:
        super().__init__()
        widest, self.small = width * 2**downsamplings, side // 2**downsamplings
        size = widest * self.small**2
        self.content_encoder = nn.Sequential(*_entry(channels, width, downsamplings), *(Block(widest) for _ in range(blocks)))
        self.to_content = None if content is None else nn.Linear(size, content)
        self.style_encoder = nn.Sequential(*_entry(channels, width, downsamplings), Down(widest, widest), Down(widest, widest))
        self.to_style = nn.Linear(widest, style)
        self.from_content = None if content is None else nn.Linear(content, size)
        self.adapt = Adaptation(style, widest)
        self.blocks = nn.ModuleList(AdaptiveBlock(widest) for _ in range(blocks))
        self.up = nn.Sequential(*(Up(widest // 2**step) for step in range(downsamplings)))
        self.image = _reflected(width, channels, 7)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        content = self.content_encoder(images)
        if self.to_content is not None:
            content = self.to_content(content.flatten(1))
        return content, self.to_style(functional.adaptive_avg_pool2d(self.style_encoder(images), 1).flatten(1))

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        gain, bias = self.adapt(style)
        x = content if self.from_content is None else self.from_content(content).view(len(style), -1, self.small, self.small)
        for block in self.blocks:
            x = block(x, gain, bias)
        return torch.tanh(self.image(self.up(x)))

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(*self.encode(images))


class First(nn.Conv2d):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 7, padding=3, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(x))


class Down(nn.Conv2d):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 4, stride=2, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(x))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _reflected(channels, channels, 3, bias=False), _instance_norm(channels)
        self.conv2, self.norm2 = _reflected(channels, channels, 3, bias=False), _instance_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))


class AdaptiveBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_reflected(channels, channels, 3, bias=False) for _ in range(2))

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        y = functional.relu(_adapted(self.conv1(x), gain, bias))
        return x + _adapted(self.conv2(y), gain, bias)


class Adaptation(nn.Module):
    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(style, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU())
        self.gain, self.bias = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(style)
        return self.gain(hidden), self.bias(hidden)


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 2, 5)
        self.norm = LayerNorm(channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(functional.pad(x, (1, 1, 1, 1), mode="replicate"), scale_factor=2)
        return functional.relu(self.norm(self.conv(x)))


class LayerNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.layer_norm(x, x.shape[1:], eps=_EPS)
        return y * self.weight[:, None, None] + self.bias[:, None, None]


def _adapted(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, eps=_EPS) * gain[..., None, None] + bias[..., None, None]


def _instance_norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, eps=_EPS, affine=True)


def _reflected(before: int, after: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, padding_mode="reflect", bias=bias)


def _entry(channels: int, width: int, downsamplings: int) -> list[nn.Module]:
    return [First(channels, width), *(Down(width * 2**step, width * 2 ** (step + 1)) for step in range(downsamplings))]
