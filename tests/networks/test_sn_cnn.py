import pytest
import torch
from torch import nn

from fastgan.config import override
from fastgan.networks import build
from fastgan.networks.sn_cnn import Discriminator, Generator
from fastgan.presets import DEFAULT, preset


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("side", [8, 24, 32, 48])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(side, channels):
    generator, discriminator = Generator(5, side, channels, 2), Discriminator(side, channels, 2)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, channels, side, side)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)
    assert generator(torch.randn(0, 5)).shape == (0, channels, side, side)


def test_the_published_size():
    """Counted by hand from the layers of AdvLatGAN's code at 32x32, 3 channels, 64 base channels."""
    up = 512 * 256 * 16 + 256 * 128 * 16 + 128 * 64 * 16 + 2 * (256 + 128 + 64)
    assert parameters(Generator(100, 32, 3, 64)) == 101 * 512 * 16 + up + 64 * 3 * 9
    down = 3 * 64 * 9 + 64 * 64 * 16 + 64 * 128 * 9 + 128 * 128 * 16 + 128 * 256 * 9 + 256 * 256 * 16 + 256 * 512 * 9
    assert parameters(Discriminator(32, 3, 64)) == down + 512 * 16


def test_the_spec_of_layers():
    generator, discriminator = Generator(100, 32, 3, 64), Discriminator(32, 3, 64)
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions] == [
        (64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2), (512, 3, 1),
    ]  # fmt: skip
    assert all(m.bias is None for m in (*convolutions, discriminator.linear))
    ups = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in ups] == [
        (512, 256, 4, 2), (256, 128, 4, 2), (128, 64, 4, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("side", [0, 4, 30])
def test_other_sides_are_refused(side):
    with pytest.raises(ValueError, match="multiple of 8"):
        Generator(5, side, 1, 2)
    with pytest.raises(ValueError, match="multiple of 8"):
        Discriminator(side, 1, 2)


def test_memory_is_channels_last_throughout():
    config = override(preset(DEFAULT), ["network.width=4"])
    generator, discriminator = build(config)
    seen = []
    for module in (*generator.modules(), *discriminator.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda m, inputs, output: seen.extend((inputs[0], output)))
    discriminator(generator(torch.randn(4, config.latent.dim)))
    assert len(seen) == 2 * (4 + 7)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_weights_come_from_the_seed_alone():
    config = override(preset(DEFAULT), ["network.width=2"])
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build(config)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second, third = build(config), build(override(config, ["seed=1"]))
    for a, b in zip(*(nn.ModuleList(pair).state_dict().values() for pair in (first, second)), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0].linear.weight, third[0].linear.weight)
