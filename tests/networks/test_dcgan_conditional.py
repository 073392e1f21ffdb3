import pytest
import torch
from families import check_memory, check_refused, check_seeds, check_shapes, pair_of, parameters
from torch.nn.functional import conv2d

from fastgan.checked import UserError
from fastgan.networks.dcgan_conditional import Discriminator, Generator

FAMILY = "dcgan-conditional"


@pytest.mark.parametrize("side", [8, 24, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(side, channels):
    check_shapes(FAMILY, side, channels, classes=4)


def test_the_published_size():
    """Counted by hand from MSGAN's layers at 32x32, 3 channels, 10 classes, less the biases before batch norm."""
    up = 110 * 512 * 16 + 512 * 256 * 16 + 256 * 128 * 16 + 128 * 3 * 16 + 3 + 2 * (512 + 256 + 128)
    assert parameters(Generator(100, 32, 3, 64, 10)) == up
    down = 13 * 128 * 16 + 128 + 128 * 256 * 16 + 256 * 512 * 16 + 2 * (256 + 512) + 512 * 16 + 1
    assert parameters(Discriminator(32, 3, 64, 10)) == down


def test_both_networks_hear_the_label():
    generator, discriminator = pair_of(FAMILY, classes=4, width=4)
    generator.eval()
    z, labels = torch.randn(1, 5).expand(4, 5), torch.arange(4)
    images = generator(z, labels)
    scores = discriminator.eval()(images[:1].expand(4, -1, -1, -1), labels)
    for a in range(4):
        for b in range(a):
            assert not torch.equal(images[a], images[b])
            assert scores[a] != scores[b]


def test_the_discriminator_sees_a_constant_map_for_the_class():
    _, discriminator = pair_of(FAMILY, classes=4)
    first = discriminator.main[0]
    seen = []
    first.register_forward_hook(lambda m, inputs, output: seen.append(output.detach().clone()))
    images = torch.randn(2, 3, 32, 32)
    discriminator(images, torch.tensor([3, 0]))
    maps = torch.zeros(2, 4, 32, 32)
    maps[0, 3] = maps[1, 0] = 1
    expected = conv2d(torch.cat([images, maps], 1), first.weight, first.bias, stride=2, padding=1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_other_sides_are_refused():
    check_refused(lambda s: Generator(5, s, 1, 2, 3), lambda s: Discriminator(s, 1, 2, 3), (0, 4, 30), "multiple of 8")
    check_refused(lambda n: Generator(5, 32, 1, 2, n), lambda n: Discriminator(32, 1, 2, n), (0,), "needs classes")


def test_classes_and_family_must_agree():
    with pytest.raises(UserError, match="needs classes"):
        pair_of(FAMILY)
    with pytest.raises(UserError, match="sn-cnn takes no classes"):
        pair_of("sn-cnn", classes=10)


def test_memory_is_channels_last_throughout():
    check_memory(FAMILY, 3 + 3, classes=4)


def test_weights_come_from_the_seed_alone():
    check_seeds(FAMILY, classes=4)
