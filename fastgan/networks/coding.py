"""Autoencoders in the parts that others ask for: a generator of latents, a discriminator of images."""

import torch
from torch import Tensor, nn


class Decoding(nn.Module):
    """An autoencoder's decoder as a generator: latents (B, dim), the parts of a code side by side -> images in [-1, 1].

    Args:
        autoencoder: `encode(images)` -> a tuple of tensors (B, ...), `decode(code)` -> images.
        channels, side: of its images.
    """

    def __init__(self, autoencoder: nn.Module, channels: int, side: int) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        weight = next(autoencoder.parameters())
        with torch.no_grad():
            code = autoencoder.encode(torch.zeros(1, channels, side, side, dtype=weight.dtype, device=weight.device))
        self.kind, self.shapes = type(code), [part.shape[1:] for part in code]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.train(autoencoder.training)

    @property
    def dim(self) -> int:
        """Numbers of a latent."""
        return sum(self.sizes)

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, side, side) -> (B, dim)."""
        return torch.cat([part.flatten(1) for part in self.autoencoder.encode(images)], dim=1)

    def content(self, z: Tensor) -> Tensor:
        """The first part of latents, what structure is measured by: (B, numbers)."""
        return z[:, : self.sizes[0]]

    def forward(self, z: Tensor) -> Tensor:
        parts = [part.reshape(-1, *shape) for part, shape in zip(z.split(self.sizes, 1), self.shapes, strict=True)]
        return self.autoencoder.decode(self.kind(*parts) if hasattr(self.kind, "_fields") else self.kind(parts))


class Redrawing(nn.Module):
    """An autoencoder as a discriminator: an image's score is minus the mean absolute difference of its pixels, in [0, 1], to
    its reconstruction, between -1 and 0. Higher = more real, as D of GAIA draws real images again better."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.train(autoencoder.training)

    def forward(self, images: Tensor) -> Tensor:
        return -(images.float() - self.autoencoder(images).float()).abs().flatten(1).mean(1) / 2
