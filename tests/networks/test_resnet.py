import math

import pytest
import torch
from families import check_memory, check_refused, check_seeds, check_shapes, pair_of, parameters
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, relu

from fastgan.checked import UserError
from fastgan.networks.layers import SNConv2d, SNLinear
from fastgan.networks.resnet import Discriminator, DownBlock, Generator, UpBlock

FAMILIES = ("sn-resnet", "wgan-resnet")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(family, side, channels):
    check_shapes(family, side, channels)


def up(before, after):
    """Parameters of a block of G, less the biases: two 3x3, a 1x1, two batch norms."""
    return 9 * before * after + 9 * after * after + before * after + 2 * (before + after)


def down(before, after, shortcut=True):
    """Parameters of a block of D: two 3x3 and, on the shortcut, a 1x1, all with biases."""
    return 9 * before * after + 9 * after * after + 2 * after + shortcut * (before + 1) * after


@pytest.mark.parametrize("spectral", [True, False])
def test_the_published_size_at_32(spectral):
    """Counted by hand from the layers of AdvLatGAN's code, 3 channels, less the biases of G's blocks."""
    expected = 101 * 256 * 16 + 3 * up(256, 256) + 2 * 256 + 256 * 3 * 9 + 3
    assert parameters(Generator(100, 32, 3, 64, spectral)) == expected
    blocks = down(3, 128) + down(128, 128) + 2 * down(128, 128, shortcut=False)
    assert parameters(Discriminator(32, 3, 64, spectral)) == blocks + 128 + (not spectral)


@pytest.mark.parametrize("spectral", [True, False])
def test_the_published_size_at_48(spectral):
    expected = 101 * 512 * 36 + up(512, 256) + up(256, 128) + up(128, 64) + 2 * 64 + 64 * 3 * 9 + 3
    assert parameters(Generator(100, 48, 3, 64, spectral)) == expected
    blocks = down(3, 64) + down(64, 128) + down(128, 256) + down(256, 512)
    assert parameters(Discriminator(48, 3, 64, spectral)) == blocks + 512 + (not spectral)


def test_an_up_block_is_the_published_one():
    """The shortcut's 1x1 stands before the upsampling there after it, and the published biases change nothing that a batch norm
    follows."""
    torch.manual_seed(0)
    block = UpBlock(3, 4).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    first, norm, second = block.main[3], block.main[4], block.main[6]
    inner = conv2d(
        interpolate(relu(nn.BatchNorm2d(3).double()(x)), scale_factor=2), first.weight, torch.randn(4).double(), padding=1
    )
    main = conv2d(relu(nn.BatchNorm2d(4).double()(inner)), second.weight, padding=1)
    expected = main + conv2d(interpolate(x, scale_factor=2), block.shortcut[0].weight)
    torch.testing.assert_close(block(x), expected)
    assert norm.training


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("halve", [True, False])
def test_a_down_block_is_the_published_one(first, halve):
    torch.manual_seed(0)
    block = DownBlock(3, 4, nn.Conv2d, halve, first).double()
    a, b = (m for m in block.main if isinstance(m, nn.Conv2d))
    (c,) = (m for m in block.shortcut if isinstance(m, nn.Conv2d))
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    kept = x.clone()
    main = conv2d(relu(conv2d(x if first else relu(x), a.weight, a.bias, padding=1)), b.weight, b.bias, padding=1)
    expected = main + conv2d(x, c.weight, c.bias)
    torch.testing.assert_close(block(x), avg_pool2d(expected, 2) if halve else expected)
    assert torch.equal(x, kept)


def test_which_blocks_halve_the_side():
    for side, sizes in ((32, [16, 8, 8, 8]), (48, [24, 12, 6, 3])):
        _, discriminator = pair_of("sn-resnet", side)
        seen = []
        for block in discriminator.blocks:
            block.register_forward_hook(lambda m, inputs, output, seen=seen: seen.append(output.shape[-1]))
        discriminator(torch.randn(1, 3, side, side))
        assert seen == sizes


def test_sn_sums_and_wgan_averages_over_the_image():
    x = torch.randn(2, 3, 32, 32)
    for family, reduce in (("sn-resnet", torch.sum), ("wgan-resnet", torch.mean)):
        _, discriminator = pair_of(family)
        pooled = reduce(relu(discriminator.blocks(x)), dim=(2, 3))
        torch.testing.assert_close(discriminator(x), discriminator.linear(pooled).squeeze(1))


def test_spectral_norm_and_initialisation():
    generator, discriminator = pair_of("sn-resnet", width=16)
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert all(isinstance(m, SNConv2d | SNLinear) for m in layers)
    assert len(layers) == 11
    for layer in layers:  # fifteen iterations at the start come close
        assert torch.linalg.matrix_norm(layer.normalised_weight().flatten(1), 2).item() == pytest.approx(1, rel=0.15)
    block = generator.blocks[0]
    for layer, gain in ((block.main[3], math.sqrt(2)), (block.shortcut[0], 1.0), (generator.image[2], 1.0)):
        fans = layer.weight[0].numel() + layer.weight[:, 0].numel()
        bound = gain * math.sqrt(6 / fans)
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert not any(isinstance(m, SNConv2d) for m in pair_of("wgan-resnet")[1].modules())


@pytest.mark.parametrize("spectral", [True, False])
def test_other_sides_are_refused(spectral):
    check_refused(
        lambda s: Generator(5, s, 1, 2, spectral), lambda s: Discriminator(s, 1, 2, spectral), (0, 16, 64), "sides of 32 and 48"
    )
    with pytest.raises(UserError, match=r"network\.family sn-resnet: .* not 64"):
        pair_of("sn-resnet", 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_channels_last_throughout(family):
    check_memory(family, 3 * 3 + 1 + 4 * 2 + 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_from_the_seed_alone(family):
    check_seeds(family)
