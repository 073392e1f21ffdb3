"""Nothing of a network changes, whatever its forward does to its buffers."""

import torch
from torch import nn

from fastgan.latent import frozen, refine
from fastgan.networks.sn_cnn import Discriminator, Generator


class Caching(nn.Module):
    """Fills a buffer that was None and registers another in its forward, as position caches do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("cache", None)

    def forward(self, z):
        self.cache = torch.ones(1)
        self.register_buffer("made", torch.zeros(1), persistent=False)
        return self.linear(z).view(-1, 1, 2, 2)


class Counter(nn.Module):
    """Adds to a buffer that it may share with another module, and shows it in its output."""

    def __init__(self, count):
        super().__init__()
        self.register_buffer("count", count)

    def forward(self, x):
        self.count += 1
        return x * self.count


def test_buffers_that_a_forward_makes_are_gone():
    generator, critic = Caching(), nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    before = set(generator.state_dict())
    refine(generator, critic, torch.randn(5, 3), steps=2)
    assert generator.cache is None
    assert "made" not in dict(generator.named_buffers())
    assert set(generator.state_dict()) == before
    assert not generator._non_persistent_buffers_set


def test_a_shared_buffer_stays_shared_and_is_set_back():
    count = torch.zeros(())
    first, second = Counter(count), Counter(count)
    x = torch.ones(1)
    with frozen(first, second) as reset:
        assert second(first(x)).item() == 1 * 2
        assert second(first(x)).item() == 3 * 4
        reset()
        assert second(first(x)).item() == 1 * 2
    assert first.count is count
    assert second.count is count
    assert count.item() == 0


def test_it_nests():
    network = Counter(torch.zeros(()))
    with frozen(network):
        network(torch.ones(1))
        with frozen(network):
            network(torch.ones(1))
        assert network.count.item() == 1
    assert network.count.item() == 0


def test_networks_of_inference_mode():
    with torch.inference_mode():
        network = nn.Linear(2, 2)
    with frozen(network):
        pass
    assert all(p.requires_grad for p in network.parameters())


def test_scores_of_inference_mode_do_not_spoil_refinement():
    generator, discriminator = Generator(3, 8, 1, 2), Discriminator(8, 1, 2)
    discriminator.requires_grad_(False)
    z = torch.randn(4, 3)
    with torch.inference_mode():
        discriminator(generator(z))
    assert refine(generator, discriminator, z, steps=1).shape == z.shape


def test_our_networks_refine_in_double_precision():
    generator, discriminator = Generator(3, 8, 1, 2).double(), Discriminator(8, 1, 2).double()
    found = refine(generator, discriminator, torch.randn(4, 3, dtype=torch.float64), steps=2)
    assert found.dtype == torch.float64
