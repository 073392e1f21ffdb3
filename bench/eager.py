"""The step as the published scripts write it, to measure against: plain eager PyTorch.

Written from the description of AdvLatGAN's training script, not from its text: `backward()` fills every `.grad`, in refinement
and in the generator's step too; real and generated images are judged in two passes; NCHW, fp32; spectral norm iterates in
every forward.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from fastgan.config import Config
from fastgan.objectives import OBJECTIVES


class EagerStep:
    """One round of AdvLatGAN-qua on the SN "cnn" pair of `config`, terms left out."""

    def __init__(self, config: Config) -> None:
        self.config = config
        side, channels, width = config.data.resolution, config.data.channels, config.network.width
        self.generator = _generator(config.latent.dim, side, channels, width)
        self.discriminator = _discriminator(side, channels, width)
        self.objective = OBJECTIVES[config.objective]
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=settings.rate, betas=settings.betas)
            for network, settings in ((self.generator, config.generator), (self.discriminator, config.discriminator))
        ]

    def __call__(self, real: Tensor) -> None:
        """Refine, step D, step G."""
        latent, (of_generator, of_discriminator) = self.config.latent, self.optimisers
        z = torch.randn(len(real), latent.dim)
        for _ in range(latent.refine_steps):
            self._clear()
            z = z.detach().requires_grad_()
            self.objective.per_score(self.discriminator(self.generator(z))).mean().backward()
            z = z - latent.step_size * z.grad.sign()
        with torch.no_grad():
            fake = self.generator(z)
        loss = self.objective.discriminator(self.discriminator(real), self.discriminator(fake))
        self._clear()
        loss.backward()
        of_discriminator.step()

        z = torch.randn(self.config.training.generator_batch * len(real), latent.dim)
        loss = self.objective.per_score(self.discriminator(self.generator(z))).mean()
        self._clear()
        loss.backward()
        of_generator.step()

    def _clear(self) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad()


def _generator(dim: int, side: int, channels: int, width: int) -> nn.Sequential:
    start = side // 8
    layers: list[nn.Module] = [nn.Linear(dim, 8 * width * start**2), nn.Unflatten(1, (8 * width, start, start))]
    for before, after in ((8, 4), (4, 2), (2, 1)):
        layers.append(nn.ConvTranspose2d(before * width, after * width, 4, stride=2, padding=1, bias=False))
        layers += [nn.BatchNorm2d(after * width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.Tanh())


def _discriminator(side: int, channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = channels
    for multiple, kernel, stride in ((1, 3, 1), (1, 4, 2), (2, 3, 1), (2, 4, 2), (4, 3, 1), (4, 4, 2), (8, 3, 1)):
        convolution = nn.Conv2d(before, multiple * width, kernel, stride=stride, padding=1, bias=False)
        layers += [spectral_norm(convolution), nn.LeakyReLU(0.1, inplace=True)]
        before = multiple * width
    return nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(before * (side // 8) ** 2, 1, bias=False)))
