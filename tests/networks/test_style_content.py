import pytest
import torch
from families import parameters
from torch import nn

from fastgan.config import override
from fastgan.networks import build
from fastgan.networks.style_content import AdaptiveBlock, Block, pair
from fastgan.presets import preset


def small(side=16, width=4, channels=1, seed=0, **fields):
    """A pair as a run builds it, with codes of 7 and 6 numbers."""
    settings = {
        "network.family": "style-content", "network.width": width, "network.content": 7, "network.style": 6,
        "network.blocks": 1, "data.resolution": side, "data.channels": channels, "seed": seed,
    }  # fmt: skip
    return build(override(preset("digits-sngan"), [f"{name}={value}" for name, value in (settings | fields).items()]))


@pytest.mark.parametrize(("side", "channels", "batch"), [(16, 1, 3), (32, 3, 1), (64, 3, 2), (128, 1, 1)])
def test_shapes(side, channels, batch):
    generator, discriminator = small(side, channels=channels)
    x = torch.rand(batch, channels, side, side) * 2 - 1
    for network, content in ((generator, (batch, 7)), (discriminator, (batch, 8, side // 4, side // 4))):
        code = network.encode(x)
        assert (code.content.shape, code.style.shape) == (content, (batch, 6))
        images = network.decode(code)
        assert images.shape == x.shape
        assert images.abs().max() <= 1
        assert torch.equal(images, network(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(x)
            assert {part.dtype for part in network.encode(x)} == {torch.float32}
        assert images.dtype == half.dtype == torch.float32
        assert (half - images).norm() < 0.05 * images.norm()
        assert network.double()(x.double()).dtype == torch.float64


def formula(side, channels, w, style, content, blocks=4):
    """Parameters by the published layers; without the biases in front of instance norm."""

    def conv(k, a, b):
        return k * k * a * b + b

    def linear(a, b):
        return a * b + b

    entry = conv(7, channels, w) + conv(4, w, 2 * w) + conv(4, 2 * w, 4 * w)
    encoders = 2 * entry + blocks * 2 * (9 * 16 * w * w + 2 * 4 * w) + 2 * conv(4, 4 * w, 4 * w) + linear(4 * w, style)
    between = 0 if content is None else linear(4 * w * side**2 // 16, content) + linear(content, 4 * w * side**2 // 16)
    adapt = linear(style, 4 * w) + 3 * linear(4 * w, 4 * w)
    up = conv(5, 4 * w, 2 * w) + 2 * 2 * w + conv(5, 2 * w, w) + 2 * w
    return encoders + between + adapt + blocks * 2 * 9 * 16 * w * w + up + conv(7, w, channels)


def test_the_published_sizes():
    """128 x 128 in colour, 64 filters; D with half of them and no linear layers on the content."""
    config = override(
        preset("digits-sngan"), ["network.family=style-content", "network.width=64", "data.resolution=128", "data.channels=3"]
    )
    with torch.device("meta"):
        generator, discriminator = pair(config)
    assert parameters(generator) == formula(128, 3, 64, 512, 512) == 283_061_763
    assert parameters(discriminator) == formula(128, 3, 32, 512, None) == 0
    for network, width in ((generator, 64), (discriminator, 32)):
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        assert {m.out_channels for m in convolutions} == {3, *(width * 2**k for k in range(3))}
        assert sum(isinstance(m, Block | AdaptiveBlock) for m in network.modules()) == 8
