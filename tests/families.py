"""What the tests of every family look at."""

import pytest
import torch
from torch import nn

from fastgan.config import override
from fastgan.networks import build
from fastgan.presets import DEFAULT, preset


def pair_of(family, side=32, width=2, channels=3, classes=0, seed=0):
    """A family's pair, as a run builds it, with latents of 5 coordinates."""
    settings = [
        f"network.family={family}", f"network.width={width}", f"network.classes={classes}", f"data.resolution={side}",
        f"data.channels={channels}", "latent.dim=5", f"seed={seed}",
    ]  # fmt: skip
    return build(override(preset(DEFAULT), settings))


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def check_shapes(family, side, channels, classes=0):
    generator, discriminator = pair_of(family, side, channels=channels, classes=classes)
    labels = (torch.tensor([0, 1, classes - 1]),) if classes else ()
    images = generator(torch.randn(3, 5), *labels)
    assert images.shape == (3, channels, side, side)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = discriminator(generator(torch.randn(3, 5), *labels), *labels)
    assert scores.shape == discriminator(images, *labels).shape == (3,)
    assert scores.dtype == torch.float32
    generator.eval()
    assert generator(torch.randn(0, 5), *(label[:0] for label in labels)).shape == (0, channels, side, side)


def check_memory(family, convolutions, classes=0):
    """Inputs and outputs of all convolutions are channels-last; there are as many of them as the layer lists say."""
    generator, discriminator = pair_of(family, width=4, classes=classes)
    seen = []
    for module in (*generator.modules(), *discriminator.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda m, inputs, output: seen.extend((inputs[0], output)))
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    labels = (torch.arange(4),) if classes else ()
    discriminator(generator(torch.randn(4, 5), *labels), *labels)
    assert len(seen) == 2 * convolutions
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def check_seeds(family, classes=0):
    torch.manual_seed(1)
    first = pair_of(family, classes=classes)
    torch.manual_seed(2)
    second, third = pair_of(family, classes=classes), pair_of(family, classes=classes, seed=1)
    same, other = [], []
    for a, b, c in zip(*(nn.ModuleList(pair).parameters() for pair in (first, second, third)), strict=True):
        same.append(torch.equal(a, b))
        other.append(a.dim() < 2 or not torch.equal(a, c))
    assert all(same)
    assert all(other)


def check_refused(generator, discriminator, sides, message):
    for side in sides:
        with pytest.raises(ValueError, match=message):
            generator(side)
        with pytest.raises(ValueError, match=message):
            discriminator(side)
