import pytest
import torch
from families import check_memory, check_refused, check_seeds, check_shapes, pair_of, parameters
from torch import nn

from fastgan.networks.wgan import Discriminator, Generator


@pytest.mark.parametrize("side", [8, 24, 32, 48, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(side, channels):
    check_shapes("wgan-cnn", side, channels)


def test_the_published_size():
    """Counted by hand from the layers of AdvLatGAN's code at 32x32, 3 channels, less the biases before batch norm."""
    up = 512 * 256 * 16 + 256 * 128 * 16 + 128 * 64 * 16 + 2 * (256 + 128 + 64)
    assert parameters(Generator(100, 32, 3, 64)) == 101 * 512 * 16 + up + 64 * 3 * 9 + 3
    down = 3 * 64 * 9 + 64 * 64 * 16 + 64 * 128 * 9 + 128 * 128 * 16 + 128 * 256 * 9 + 256 * 256 * 16 + 256 * 512 * 9
    assert parameters(Discriminator(32, 3, 64)) == down + 2 * (64 + 128 + 256) + 512 + 512 * 16 + 1


def test_nothing_in_the_discriminator_mixes_samples():
    """A gradient penalty needs the gradient of each score towards its own image alone."""
    _, discriminator = pair_of("wgan-cnn")
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in discriminator.modules())
    images = torch.randn(3, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images)[1], images)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


def test_weights_start_as_torch_starts_them():
    generator, discriminator = pair_of("wgan-cnn", width=16)
    for layer in (discriminator.main[2], discriminator.linear, generator.linear):
        fan = layer.weight[0].numel()
        assert 0.9 * fan**-0.5 < layer.weight.abs().max() <= fan**-0.5
        assert layer.bias.abs().max() > 0


def test_other_sides_are_refused():
    check_refused(lambda s: Generator(5, s, 1, 2), lambda s: Discriminator(s, 1, 2), (0, 4, 30), "multiple of 8")


def test_memory_is_channels_last_throughout():
    check_memory("wgan-cnn", 4 + 7)


def test_weights_come_from_the_seed_alone():
    check_seeds("wgan-cnn")
