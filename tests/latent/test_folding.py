"""`folded`: networks draw the same, pass over fewer modules, and are the very same afterwards."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from fastgan.latent.folding import folded
from fastgan.networks.layers import BatchNormAct, Conv2d, SNConv2d
from fastgan.networks.sn_cnn import Generator


def settled(network, *shape):
    """In evaluation mode, frozen, with statistics and weights that are not those of the beginning."""
    torch.manual_seed(1)
    network.train()(3 * torch.randn(16, *shape) + 1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.affine:
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return network.eval().requires_grad_(False)


def norms_called(network, x):
    """Rows of batch norms that a pass goes through."""
    calls = []
    parts = [part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in parts]
    network(x)
    for hook in hooks:
        hook.remove()
    return len(calls)


def layers(first, norm, *rest):
    return nn.Sequential(first, norm, nn.LeakyReLU(0.2), *rest)


CASES = {
    "convolution": (lambda: layers(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)), (3, 8, 8)),
    "groups": (lambda: layers(nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8, affine=False)), (4, 8, 8)),
    "transposed": (lambda: layers(nn.ConvTranspose2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8)), (3, 4, 4)),
    "linear": (lambda: layers(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), (5,)),
    "inside": (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.1)), nn.Tanh()), (3, 5, 5)),
    "ours": (lambda: Generator(6, 16, 3, 2).to(memory_format=torch.channels_last), (6,)),
}
LEFT_ALONE = {
    "spectral norm": (lambda: layers(spectral_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)), (3, 8, 8)),
    "parametrised": (lambda: layers(parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)), (3, 8, 8)),
    "ours, parametrised": (lambda: layers(parametrizations.weight_norm(Conv2d(3, 8, 3)), BatchNormAct(8)), (3, 8, 8)),
    "our spectral norm": (lambda: nn.Sequential(SNConv2d(3, 8, 3), BatchNormAct(8)), (3, 8, 8)),
    "no averages": (lambda: layers(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)), (3, 8, 8)),
    "transposed groups": (lambda: layers(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)), (4, 5, 5)),
    "nothing": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()), (3,)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_pictures_and_gradients_without_the_norm(name):
    make, shape = CASES[name]
    network, x = settled(make(), *shape), torch.randn(3, *shape)
    before, parts = {n: v.clone() for n, v in network.state_dict().items()}, dict(network.named_modules())
    parameters = {name: id(p) for name, p in network.named_parameters()}

    def pictures_and_gradient():
        z = x.clone().requires_grad_()
        y = network(z)
        return y.detach(), torch.autograd.grad(y.square().sum(), z)[0]

    wanted = pictures_and_gradient()
    assert norms_called(network, x) > 0
    with folded(network, lambda: network(x)):
        assert norms_called(network, x) == 0
        for got, want in zip(pictures_and_gradient(), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
            assert got.stride() == want.stride()
    assert {name: id(p) for name, p in network.named_parameters()} == parameters
    assert all(part is parts[n] for n, part in network.named_modules())
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())
    assert torch.equal(network(x), wanted[0])


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_left_alone(name):
    make, shape = LEFT_ALONE[name]
    network, x = settled(make(), *shape), torch.randn(3, *shape)
    wanted, norms, names = network(x), norms_called(network, x), list(network.state_dict())
    with folded(network, lambda: network(x)):
        assert norms_called(network, x) == norms
        assert torch.equal(network(x), wanted)
    assert list(network.state_dict()) == names


class Tapped(nn.Module):
    """Looks at what is between the convolution and its norm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))

    def forward(self, x):
        y = self.body[0](x)
        return self.body[1](y) + y


class Twice(nn.Module):
    """A convolution with a norm of its own behind it, and elsewhere without."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.body = nn.Sequential(self.convolution, nn.BatchNorm2d(3))

    def forward(self, x):
        return self.convolution(self.body(x))


@pytest.mark.parametrize("make", [Tapped, Twice])
def test_where_the_picture_would_change_nothing_is_folded(make):
    network, x = settled(make(), 3, 6, 6), torch.randn(2, 3, 6, 6)
    wanted = network(x)
    with folded(network, lambda: network(x)):
        assert torch.equal(network(x), wanted)


def test_a_hook_keeps_its_layer():
    network, x = settled(CASES["convolution"][0](), 3, 8, 8), torch.randn(2, 3, 8, 8)
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    wanted = network(x)
    with folded(network, lambda: network(x)):
        assert torch.equal(network(x), wanted)
        assert norms_called(network, x) == 1


def test_what_fails_inside_is_undone():
    network = settled(CASES["convolution"][0](), 3, 8, 8)
    twin, x = copy.deepcopy(network), torch.randn(2, 3, 8, 8)
    with pytest.raises(KeyError), folded(network, lambda: network(x)):
        raise KeyError
    assert torch.equal(network(x), twin(x))
    asked = ["first"]  # the look at the folded network fails
    with pytest.raises(IndexError), folded(network, lambda: (asked.pop(), network(x))[1]):
        pass
    assert torch.equal(network(x), twin(x))
    assert type(network[1]) is nn.BatchNorm2d
