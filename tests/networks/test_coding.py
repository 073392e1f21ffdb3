"""Autoencoders as generators of latents and as discriminators."""

import torch
from torch import nn

from fastgan.config import override
from fastgan.networks import build
from fastgan.networks.coding import Decoding, Redrawing
from fastgan.presets import preset

SMALL = ("data.resolution=16", "network.width=2", "network.content=4", "network.style=3", "network.blocks=1")


def pair():
    return build(override(preset("gaia-digits"), SMALL))


def test_a_decoder_draws_what_the_autoencoder_does():
    autoencoder, _ = pair()
    decoding, images = Decoding(autoencoder, 1, 16), torch.randn(3, 1, 16, 16)
    assert decoding.dim == 7
    z = decoding.encode(images)
    assert z.shape == (3, 7)
    assert torch.equal(decoding.content(z), autoencoder.encode(images).content)
    torch.testing.assert_close(decoding(z), autoencoder(images))
    assert decoding(z[:0]).shape == (0, 1, 16, 16)
    assert decoding.training
    assert not Decoding(autoencoder.eval(), 1, 16).training


def test_a_code_that_is_a_map():
    _, autoencoder = pair()
    decoding, images = Decoding(autoencoder, 1, 16), torch.randn(2, 1, 16, 16)
    assert decoding.dim == 4 * 4 * 4 + 3
    torch.testing.assert_close(decoding(decoding.encode(images)), autoencoder(images))


def test_scores_are_errors():
    class Flat(nn.Module):
        def forward(self, x):
            return x + torch.tensor([0.5, -1.0]).view(2, 1, 1, 1)

    assert Redrawing(Flat())(torch.zeros(2, 1, 4, 4)).tolist() == [-0.25, -0.5]
