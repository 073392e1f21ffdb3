import torch
from torch import nn

from fastgan.networks import build
from fastgan.networks.mlp import Discriminator, Generator
from fastgan.presets import preset


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_shapes():
    generator, discriminator = Generator(5, 8), Discriminator(8)
    points = generator(torch.randn(3, 5))
    assert points.shape == (3, 2)
    assert discriminator(points).shape == (3,)
    assert discriminator(generator(torch.randn(0, 5))).shape == (0,)


def test_points_are_not_squashed():
    """Modes reach +-2.1: a far latent must give a far point."""
    torch.manual_seed(0)
    generator = Generator(2, 16)
    near, far = (generator(scale * torch.ones(1, 2)).norm() for scale in (1e3, 1e6))
    assert far > 100 * near > 1000


def test_the_published_size():
    generator, discriminator = build(preset("grid25"))
    assert parameters(generator) == 3 * 256 + 2 * 257 * 256 + 257 * 2
    assert parameters(discriminator) == 3 * 256 + 2 * 257 * 256 + 257
    for network in (generator, discriminator):
        assert [type(m) for m in network.main] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
        assert not list(network.buffers())


def test_scores_have_the_second_order_that_r1_needs():
    discriminator = Discriminator(8)
    x = torch.randn(6, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for name, p in discriminator.named_parameters() if name.endswith("weight"))
