import pytest
from families import check_memory, check_refused, check_seeds, check_shapes, pair_of, parameters
from torch import nn

from fastgan.judgement import holds_batch_statistics
from fastgan.networks.dcgan import Discriminator, Generator
from fastgan.networks.layers import BatchNormAct, Conv2d


@pytest.mark.parametrize("side", [16, 32, 48, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(side, channels):
    check_shapes("dcgan-cnn", side, channels)


@pytest.mark.parametrize(("side", "start"), [(32, 2), (48, 3), (64, 4)])
def test_the_published_size(side, start):
    """Counted by hand from the layers of AdvLatGAN's code, 3 channels."""
    up = 1024 * 512 * 16 + 512 * 256 * 16 + 256 * 128 * 16 + 2 * (1024 + 512 + 256 + 128)
    assert parameters(Generator(100, side, 3, 64)) == 100 * 1024 * start**2 + up + 128 * 3 * 16
    down = 25 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 2 * (128 + 256 + 512)
    assert parameters(Discriminator(side, 3, 64)) == down + 512 * start**2 + 1


def test_the_order_of_the_discriminators_layers():
    """LeakyReLU comes before batch norm, and the first block has none."""
    _, discriminator = pair_of("dcgan-cnn")
    block = [Conv2d, nn.LeakyReLU, BatchNormAct]
    assert [type(m) for m in discriminator.main] == [*block[:2], *block, *block, *block]
    assert {m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert holds_batch_statistics(discriminator)
    assert not holds_batch_statistics(discriminator.eval())


def test_the_first_layer_starts_as_the_transposed_convolution_that_it_is():
    generator, _ = pair_of("dcgan-cnn", width=16)
    theirs = nn.ConvTranspose2d(5, 256, 2, bias=False).weight
    assert generator.linear.weight.numel() == theirs.numel()
    assert generator.linear.weight.std().item() == pytest.approx(theirs.std().item(), rel=0.1)


def test_other_sides_are_refused():
    check_refused(lambda s: Generator(5, s, 1, 2), lambda s: Discriminator(s, 1, 2), (0, 8, 24), "multiple of 16")


def test_memory_is_channels_last_throughout():
    check_memory("dcgan-cnn", 4 + 4)


def test_weights_come_from_the_seed_alone():
    check_seeds("dcgan-cnn")
