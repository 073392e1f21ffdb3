"""Orthogonal regularisation: the rows of each weight shall not lie along each other.

    R = weight * sum over weights W of | W W' * (1 - I) |^2_F,    W: (outputs, everything else)

Brock, Donahue, Simonyan, "Large scale GAN training for high fidelity natural image synthesis" (ICLR 2019), equation 3, which
gives 1e-4 for G; after Brock, Lim, Ritchie, Weston (ICLR 2017). Class vectors shared by G's layers are left alone, as there.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fastgan.checked import CHECKED, NonNegativeFloat
from fastgan.judgement import Judgement
from fastgan.kernels.reduction import accumulator
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class Orthogonal(Term):
    """Of the weights as they are stepped, before any spectral norm, in float32 or better."""

    weight: NonNegativeFloat = 1e-4
    network: Literal["generator", "discriminator"] = "generator"
    """Whose weights."""

    @property
    def player(self) -> Literal["generator", "discriminator"]:
        """That network's."""
        return self.network

    @property
    def looks_at(self) -> Literal["pair"]:
        """No images: in a game of pairs it counts once."""
        return "pair"

    @property
    def reads_weights(self) -> bool:
        """Outside any forward."""
        return True

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term."""
        with torch.autocast(scene.real.device.type, enabled=False):
            losses = [_overlap(weight) for network in scene.networks for weight in _matrices(network)]
        return self.weight * sum(losses, start=scene.real.new_zeros(()))


def _matrices(network: nn.Module) -> list[Tensor]:
    """Every weight of two or more dimensions, its outputs first, which are second where a convolution is transposed."""
    found = {}
    for part in network.modules():
        for weight in part.parameters(recurse=False):
            if weight.dim() > 1 and not isinstance(part, nn.Embedding):
                found[weight] = weight.transpose(0, 1) if isinstance(part, nn.ConvTranspose2d) else weight
    return [weight.flatten(1) for weight in found.values()]


def _overlap(weight: Tensor) -> Tensor:
    weight = weight.to(accumulator(weight.dtype))
    # | W W' |_F = | W' W |_F: a first layer of 20 numbers to 24,576 has 400 products, and not 2.4 GB of them.
    products = weight @ weight.T if len(weight) < weight.shape[1] else weight.T @ weight
    return products.square().sum() - weight.square().sum(1).square().sum()
