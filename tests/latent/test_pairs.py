"""`hard_partner` against the definition, written anew in float64: in numpy for a generator whose gradient is known, by eager
torch for others."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastgan.config import Latent
from fastgan.draw import Draw
from fastgan.latent import Pairing, Prior, hard_partner
from fastgan.networks import biggan

POINTS = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Tangent(nn.Module):
    """G(z) = tanh(z W + b_y), (B, 4) -> (B, 1, 2, 3), with a derivative that anyone can write down."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(POINTS[:4, :6].clone())
        self.table = nn.Embedding(3, 6).double()

    def forward(self, z, labels=None):
        x = z @ self.weight
        return torch.tanh(x if labels is None else x + self.table(labels)).view(-1, 1, 2, 3)


def in_numpy(generator, z1, z2, labels, steps, step_size, offset):
    weight = generator.weight.detach().numpy()
    bias = 0 if labels is None else generator.table(labels).detach().numpy()
    z1, z2 = z1.numpy(), z2.numpy().copy()
    x1, ratios = np.tanh(z1 @ weight + bias), []
    for _ in range(steps):
        x2 = np.tanh(z2 @ weight + bias)
        apart, below = np.abs(x2 - x1).mean(), np.abs(z2 - z1).mean() + offset
        ratios.append(apart / below)
        to_apart = (np.sign(x2 - x1) * (1 - x2**2) / x2.size) @ weight.T
        to_below = np.sign(z2 - z1) / z2.size
        z2 -= step_size * np.sign(to_apart / below - apart / below**2 * to_below)
    return torch.from_numpy(z2), ratios


def latents(batch=7, size=4, distance=0.08):
    z = torch.randn(2, batch, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return z[0], z[0] + distance * z[1]


@pytest.mark.parametrize("steps", [0, 1, 3, 10])
@pytest.mark.parametrize(("step_size", "offset", "distance"), [(0.004, 1.0, 0.08), (0.05, 0.0, 0.08), (0.3, 0.2, 3.0)])
@pytest.mark.parametrize("labelled", [False, True])
def test_it_equals_the_definition(steps, step_size, offset, distance, labelled):
    generator, (z, near) = Tangent(), latents(distance=distance)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0]) if labelled else None
    found = hard_partner(generator, z, near, labels, steps, step_size, offset)
    expected, _ = in_numpy(generator, z, near, labels, steps, step_size, offset)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_published_numbers_are_the_defaults():
    generator, (z, near) = Tangent(), latents()
    assert torch.equal(hard_partner(generator, z, near), hard_partner(generator, z, near, None, 3, 0.004, 1.0))
    settings = Latent(pair="hard")
    assert (settings.pair_distance, settings.pair_steps, settings.pair_step_size) == (0.08, 3, 0.004)


def test_the_ratio_falls_and_is_the_batchs():
    """Images draw nearer for their latents' distance; and the pairs of a batch are mined together."""
    generator, (z, near) = Tangent(), latents(batch=64, distance=1.0)
    _, ratios = in_numpy(generator, z, near, None, 40, 0.01, 0.0)
    assert ratios[-1] < 0.9 * ratios[0]
    found = hard_partner(generator, z, near, None, 40, 0.01, 0.0)
    alone = torch.cat([hard_partner(generator, a[None], b[None], None, 40, 0.01, 0.0) for a, b in zip(z, near, strict=True)])
    assert not torch.allclose(found, alone, atol=1e-3)


def define(generator, z1, z2, labels, steps, step_size, offset):
    """By eager torch, on a copy of the network for each pass, so that nothing of one reaches the next."""

    def images(z):
        return copy.deepcopy(generator)(z, *([] if labels is None else [labels]))

    x1 = images(z1).detach()
    for _ in range(steps):
        z2 = z2.detach().requires_grad_()
        ratio = (images(z2) - x1).abs().mean() / ((z2 - z1).abs().mean() + offset)
        (gradient,) = torch.autograd.grad(ratio, z2)
        z2 = z2 - step_size * torch.sign(gradient)
    return z2.detach()


def restless():
    """Everything that moves by itself in a forward: batch statistics, spectral vectors of both of torch's kinds."""
    torch.manual_seed(1)
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 8)), nn.BatchNorm1d(8), nn.Tanh(), nn.utils.spectral_norm(nn.Linear(8, 6)),
        nn.Unflatten(1, (1, 2, 3)),
    ).double()  # fmt: skip


def hierarchical(classes=5):
    """BigGAN's: z is one tensor, cut into parts inside."""
    torch.manual_seed(2)
    return biggan.Generator(8, 32, 3, 1, classes, embedding=4, attention=(16,)).double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", ["restless", "biggan"])
def test_networks_that_normalise_over_the_batch(network, training):
    generator, labels = (restless(), None) if network == "restless" else (hierarchical(), torch.arange(6) % 5)
    generator.train(training)
    z, near = latents(6, 4 if network == "restless" else 8)
    expected = define(generator, z, near, labels, 4, 0.02, 1.0)
    torch.testing.assert_close(hard_partner(generator, z, near, labels, 4, 0.02), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", ["restless", "biggan"])
@pytest.mark.parametrize("known", [True, False])
def test_nothing_of_the_network_changes(network, training, known):
    generator, labels = (restless(), None) if network == "restless" else (hierarchical(), torch.arange(6) % 5)
    generator.train(training)
    next(generator.parameters()).requires_grad_(False)
    for parameter in generator.parameters():
        parameter.grad = torch.randn_like(parameter)
    z, near = (t.requires_grad_() for t in latents(6, 4 if network == "restless" else 8))

    before = copy.deepcopy(generator.state_dict())
    identity = {name: (id(t), t.data_ptr()) for name, t in generator.state_dict(keep_vars=True).items()}
    flags = [p.requires_grad for p in generator.parameters()]
    grads = [p.grad.clone() for p in generator.parameters()]
    kept = z.detach().clone(), near.detach().clone()
    images = torch.randn(6, *((1, 2, 3) if network == "restless" else (3, 32, 32)), dtype=torch.float64) if known else None
    found = hard_partner(generator, z, near, labels, images=images)

    assert not torch.equal(found, near)
    assert not found.requires_grad
    assert torch.equal(z.detach(), kept[0])
    assert torch.equal(near.detach(), kept[1])
    assert z.grad is near.grad is None
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert {name: (id(t), t.data_ptr()) for name, t in generator.state_dict(keep_vars=True).items()} == identity
    assert [p.requires_grad for p in generator.parameters()] == flags
    assert all(torch.equal(p.grad, g) for p, g in zip(generator.parameters(), grads, strict=True))
    assert generator.training is training


def test_images_that_are_known_are_not_made_again():
    generator, (z, near), calls = Tangent(), latents(), []
    generator.register_forward_hook(lambda *_: calls.append(1))
    found = hard_partner(generator, z, near)
    assert len(calls) == 1 + 3
    with torch.no_grad():
        images = generator(z)
    calls.clear()
    assert torch.equal(hard_partner(generator, z, near, images=images), found)
    assert len(calls) == 3


def test_the_network_is_whole_again_after_an_error():
    generator = restless()
    before = copy.deepcopy(generator.state_dict())
    with pytest.raises(RuntimeError):
        hard_partner(generator, *torch.randn(2, 4, 5, dtype=torch.float64))
    assert all(torch.equal(t, before[name]) for name, t in generator.state_dict().items())
    assert all(p.requires_grad for p in generator.parameters())


def test_it_works_where_gradients_are_off():
    generator, (z, near), labels = Tangent(), latents(3), torch.arange(3)
    expected = hard_partner(generator, z, near, labels)
    with torch.no_grad():
        assert torch.equal(hard_partner(generator, z, near, labels), expected)
    with torch.inference_mode():
        assert torch.equal(hard_partner(generator, z + 0, near + 0, labels + 0, images=generator(z, labels)), expected)


def test_an_empty_batch_and_equal_latents():
    generator, (z, _) = Tangent(), latents()
    assert hard_partner(generator, z[:0], z[:0]).shape == (0, 4)
    assert torch.equal(hard_partner(generator, z, z, offset=0.0), z)


def test_half_precision_under_autocast():
    generator, (z, near) = Tangent().float(), (t.float() for t in latents(64))
    exact = hard_partner(generator, z, near, steps=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = hard_partner(generator, z, near, steps=1)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().lt(1e-6).float().mean() > 0.8  # images of one sign, rounded, may be equal


class FromParts(nn.Module):
    """Of a latent in parts, but for the last, which it makes no use of."""

    def forward(self, z):
        parts = list(z.values()) if isinstance(z, dict) else list(z)
        return torch.tanh(torch.cat([p.flatten(1) for p in parts[:-1]], 1) @ POINTS)


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "side by side"])
@pytest.mark.parametrize("kind", [list, tuple, lambda x: dict(zip("abc", x, strict=True))], ids=["list", "tuple", "dict"])
def test_latents_of_several_leaves(kind, apart, monkeypatch):
    """Distances are over all leaves: a leaf without use moves away, which makes the ratio smaller."""
    monkeypatch.setattr("fastgan.latent.leaves._SMALL_LEAF", 0 if apart else 4096)
    flat, near = latents(5, 9)

    def parts(z):
        return kind([z[:, :2], z[:, 2:6].view(-1, 1, 2, 2), z[:, 6:]])

    found = hard_partner(FromParts(), parts(flat), parts(near), steps=3, step_size=0.02)
    leaves = list(found.values()) if isinstance(found, dict) else list(found)
    assert type(found) is type(parts(flat))
    assert [leaf.shape for leaf in leaves] == [(5, 2), (5, 1, 2, 2), (5, 3)]

    class Flat(nn.Module):
        def forward(self, z):
            return torch.tanh(z[:, :6] @ POINTS)

    expected = define(Flat(), flat, near, None, 3, 0.02, 1.0)
    torch.testing.assert_close(torch.cat([leaf.flatten(1) for leaf in leaves], 1), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(leaves[2], near[:, 6:] + 0.06 * (near - flat)[:, 6:].sign())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": -1}, "steps"),
        ({"step_size": -0.1}, "step_size"),
        ({"offset": -1.0}, "offset"),
        ({"partner": torch.zeros(2, 3, dtype=torch.float64)}, "same leaves"),
        ({"partner": torch.zeros(2, 4)}, "same leaves"),
        ({"partner": [torch.zeros(2, 4, dtype=torch.float64)] * 2}, "same leaves"),
        ({"z": torch.zeros(4), "partner": torch.zeros(4)}, "latents"),
        ({"images": torch.zeros(2, 6, dtype=torch.float64)}, "x1 and x2"),
    ],
)
def test_options_out_of_range_are_refused(change, reason):
    options = {"z": torch.zeros(2, 4, dtype=torch.float64), "partner": torch.ones(2, 4, dtype=torch.float64), "steps": 1}
    with pytest.raises(ValueError, match=reason):
        hard_partner(Tangent(), **options | change)


def test_pairs_of_a_game():
    """Random: another latent of the prior. Hard: the search begins 0.08 n from the first. Both are drawn by row."""
    generator, prior, draw = Tangent().float(), Prior(4, "uniform"), Draw(3, "D", 2, torch.arange(5))
    z = prior(draw)
    images = generator(z).detach()
    random = Pairing(Latent(dim=4, pair="random"))(generator, prior, draw, z, None, None)
    assert torch.equal(random, prior(draw, "partner"))
    assert not torch.equal(random, z)
    hard = Pairing(Latent(dim=4, pair="hard", pair_distance=0.3, pair_steps=2, pair_step_size=0.1))
    found = hard(generator, prior, draw, z, None, images)
    near = z + 0.3 * draw.normal("partner", 4)
    torch.testing.assert_close(found, hard_partner(generator, z, near, None, 2, 0.1))
    assert (found - near).abs().max() > 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu():
    z, near = latents()
    expected = hard_partner(Tangent(), z, near, steps=5)
    found = hard_partner(Tangent().cuda(), z.cuda(), near.cuda(), steps=5)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-9)
