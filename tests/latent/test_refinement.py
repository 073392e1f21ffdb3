"""`refine` against the definition, written anew sample by sample in float64, on modules that are not ours."""

import copy
import itertools
import math
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.nn.utils import parametrizations

from fastgan.kernels.ifgsm import MAX_LEAVES
from fastgan.latent import refine
from fastgan.networks.sn_cnn import Discriminator, Generator
from fastgan.objectives import chosen

LOSSES = {
    "hinge": lambda b: -b,
    "wasserstein": lambda b: -b,
    "non-saturating": lambda b: softplus(-b),
    "softplus": lambda b: softplus(-b),
    "minimax": lambda b: -softplus(b),
    "least-squares": lambda b: (b - 1) ** 2 / 2,
}


class Pictures(nn.Module):
    """A stranger's conditional generator: latents (B, 3), labels, images (B, 1, 2, 2)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())
        self.table = nn.Embedding(3, 4)

    def forward(self, z, labels=None):
        x = self.body(z)
        return (x if labels is None else x + self.table(labels)).view(-1, 1, 2, 2)


class Critic(nn.Module):
    """A stranger's discriminator: a score an image, or a map."""

    def __init__(self, scores=1):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, scores))
        self.table = nn.Embedding(3, 1)

    def forward(self, x, labels=None):
        score = self.body(x)
        score = score if labels is None else score + self.table(labels) * x.mean((1, 2, 3))[:, None]
        return score.squeeze(1)


@pytest.fixture
def pair():
    torch.manual_seed(3)
    generator, critic = Pictures().double(), Critic().double()
    with torch.no_grad():
        for parameter in (*generator.parameters(), *critic.parameters()):
            parameter.mul_(2)
    return generator, critic


def define(
    generator, critic, z, labels, steps, step_size, objective,
    radius=None, radius_norm="linf", direction="sign", momentum=0.0, stop_score=None, keep_best=False,
):  # fmt: skip
    """The definition, one sample at a time, in Python numbers but for the networks."""
    refined = []
    for i, start in enumerate(z):
        origin = start.tolist()
        here, velocity = list(origin), [0.0] * len(origin)
        best, best_score, stopped = list(origin), -math.inf, False
        label = None if labels is None else labels[i : i + 1]

        def look(point, label=label):
            leaf = torch.tensor([point], dtype=torch.float64, requires_grad=True)
            inputs = () if label is None else (label,)
            score = critic(generator(leaf, *inputs), *inputs)
            (gradient,) = torch.autograd.grad(LOSSES[objective](score).mean(), leaf)
            return score.mean().item(), gradient[0].tolist()

        for _ in range(steps):
            score, gradient = look(here)
            if score > best_score:
                best, best_score = list(here), score
            stopped = stopped or (stop_score is not None and score >= stop_score)
            if stopped:
                continue
            step = gradient
            if momentum:
                size = sum(abs(g) for g in gradient)
                velocity = [momentum * v + (g / size if size else 0.0) for v, g in zip(velocity, gradient, strict=True)]
                step = velocity
            length = math.sqrt(sum(s * s for s in step))
            for j, s in enumerate(step):
                sign = (s > 0) - (s < 0)
                here[j] -= step_size * (sign if direction == "sign" else s / length if length else 0.0)
            if radius is not None and radius_norm == "linf":
                here = [min(max(h, o - radius), o + radius) for h, o in zip(here, origin, strict=True)]
            elif radius is not None:
                distance = math.dist(here, origin)
                if distance > radius:
                    here = [o + (h - o) * radius / distance for h, o in zip(here, origin, strict=True)]
        if keep_best and steps and look(here)[0] <= best_score:
            here = best
        refined.append(here)
    return torch.tensor(refined, dtype=torch.float64).reshape(z.shape)


OPTIONS = [
    dict(zip(("radius", "radius_norm", "direction", "momentum", "stop_score", "keep_best"), values, strict=True))
    for values in itertools.product((None, 0.15), ("linf", "l2"), ("sign", "l2"), (0.0, 0.9), (None, 0.4), (False, True))
    if values[0] is not None or values[1] == "linf"
]


@pytest.mark.parametrize("objective", LOSSES)
def test_every_option_equals_the_definition(pair, objective):
    z = torch.randn(7, 3, dtype=torch.float64)
    for options in OPTIONS:
        found = refine(*pair, z, steps=5, step_size=0.07, objective=objective, **options)
        expected = define(*pair, z, None, 5, 0.07, objective, **options)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9, msg=lambda m, o=options: f"{o}: {m}")


def test_labels_reach_both_networks_and_stay(pair):
    z, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    found = refine(*pair, z, labels, steps=4, step_size=0.1)
    torch.testing.assert_close(found, define(*pair, z, labels, 4, 0.1, "hinge"), rtol=0, atol=1e-9)
    assert not torch.equal(found, refine(*pair, z, steps=4, step_size=0.1))


@pytest.mark.parametrize("objective", LOSSES)
def test_a_map_of_scores_is_a_mean_of_losses(pair, objective):
    torch.manual_seed(5)
    critic = Critic(scores=3).double()
    z = torch.randn(5, 3, dtype=torch.float64)
    options = {"stop_score": 0.05, "keep_best": True, "direction": "l2"}
    found = refine(pair[0], critic, z, steps=4, step_size=0.1, objective=objective, **options)
    torch.testing.assert_close(found, define(pair[0], critic, z, None, 4, 0.1, objective, **options), rtol=0, atol=1e-9)


def test_the_ordinary_case_moves_every_coordinate_by_steps_of_one_size(pair):
    z = torch.randn(9, 3, dtype=torch.float64)
    moved = (refine(*pair, z, steps=1, step_size=0.04) - z).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.04))


def test_an_objective_with_settings_of_its_own_is_descended(pair):
    """Least squares with its target far below: refinement seeks what D takes for the least real; c_G = 1 is the name's own."""
    z = torch.randn(9, 3, dtype=torch.float64)
    low, high = (chosen("least-squares", {"cg": target}) for target in (-100.0, 1.0))
    options = {"steps": 3, "step_size": 0.05}
    torch.testing.assert_close(
        refine(*pair, z, objective=high, **options), refine(*pair, z, objective="least-squares", **options)
    )
    torch.testing.assert_close(refine(*pair, z, objective=low, steps=1), 2 * z - refine(*pair, z, objective="hinge", steps=1))


@pytest.mark.parametrize("objective", ["relativistic", "softmax", "fisher", "gan-qp", "designed-dual", "f-gan-js"])
def test_where_scores_are_compared_refinement_goes_up_each_samples_own(pair, objective):
    z = torch.randn(9, 3, dtype=torch.float64)
    for direction in ("sign", "l2"):
        options = {"steps": 3, "step_size": 0.05, "direction": direction}
        torch.testing.assert_close(refine(*pair, z, objective=objective, **options), refine(*pair, z, **options))


def test_refinement_raises_the_score(pair):
    z = torch.randn(64, 3, dtype=torch.float64)
    generator, critic = pair
    before, after = critic(generator(z)), critic(generator(refine(*pair, z, steps=20, step_size=0.02)))
    assert (after > before).double().mean() > 0.9


def test_keep_best_is_never_worse_than_the_start(pair):
    z = torch.randn(64, 3, dtype=torch.float64)
    generator, critic = pair
    found = refine(*pair, z, steps=6, step_size=1.0, keep_best=True)
    assert (critic(generator(found)) >= critic(generator(z)) - 1e-12).all()
    assert not torch.equal(found, z)


def test_zero_steps_and_an_empty_batch(pair):
    z = torch.randn(4, 3, dtype=torch.float64)
    same = refine(*pair, z, steps=0)
    assert torch.equal(same, z)
    assert refine(*pair, z[:0], steps=3, keep_best=True, stop_score=0.0, momentum=0.5).shape == (0, 3)


def strange_pair():
    """Everything that moves by itself in a forward: batch statistics, spectral vectors of both of torch's kinds."""
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4), nn.Unflatten(1, (1, 2, 2)))
    critic = nn.Sequential(
        nn.Flatten(), parametrizations.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(8, 1))
    )
    return generator, critic


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_nothing_of_the_networks_changes(ours, training):
    generator, critic = (Generator(3, 8, 1, 2), Discriminator(8, 1, 2)) if ours else strange_pair()
    networks = nn.ModuleList([generator, critic]).train(training)
    next(generator.parameters()).requires_grad_(False)
    for parameter in networks.parameters():
        parameter.grad = torch.randn_like(parameter)
    z = torch.randn(8, 3, requires_grad=True)

    before = copy.deepcopy(networks.state_dict())
    identity = {name: (id(t), t.data_ptr()) for name, t in networks.state_dict(keep_vars=True).items()}
    flags = [p.requires_grad for p in networks.parameters()]
    grads = [p.grad.clone() for p in networks.parameters()]
    kept = z.detach().clone()
    found = refine(generator, critic, z, steps=3, step_size=0.1, momentum=0.5, keep_best=True, stop_score=50.0)

    assert not torch.equal(found, z)
    assert torch.equal(z.detach(), kept)
    assert z.grad is None
    assert not found.requires_grad
    for name, tensor in networks.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert {name: (id(t), t.data_ptr()) for name, t in networks.state_dict(keep_vars=True).items()} == identity
    assert [p.requires_grad for p in networks.parameters()] == flags
    assert all(torch.equal(p.grad, g) for p, g in zip(networks.parameters(), grads, strict=True))
    assert networks.training is training


def test_the_networks_are_whole_again_after_an_error():
    generator, critic = strange_pair()
    before = copy.deepcopy(generator.state_dict())
    with pytest.raises(RuntimeError):
        refine(generator, critic, torch.randn(4, 5), steps=2)
    assert all(torch.equal(t, before[name]) for name, t in generator.state_dict().items())
    assert all(p.requires_grad for p in generator.parameters())


def test_every_iteration_asks_the_same_networks():
    """In training mode torch's spectral norm iterates in each forward: over K steps D would drift from the one given."""
    generator, critic = strange_pair()
    z = torch.randn(6, 3)
    twice = refine(generator, critic, refine(generator, critic, z, steps=1, step_size=0.1), steps=1, step_size=0.1)
    assert torch.equal(refine(generator, critic, z, steps=2, step_size=0.1), twice)


def test_it_works_where_gradients_are_off(pair):
    z = torch.randn(5, 3, dtype=torch.float64)
    expected = refine(*pair, z, steps=3)
    with torch.no_grad():
        assert torch.equal(refine(*pair, z, steps=3), expected)
    with torch.inference_mode():
        assert torch.equal(refine(*pair, z + 0, steps=3), expected)


class FromChunks(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 4).double()

    def forward(self, z):
        parts = list(z.values()) if isinstance(z, dict) else list(z)
        return torch.tanh(self.body(torch.cat([p.flatten(1) for p in parts], dim=1))).view(-1, 1, 2, 2)


Pair = namedtuple("Pair", ["w", "noise"])


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "side by side"])
@pytest.mark.parametrize("kind", ["list", "tuple", "dict", "named"])
def test_latents_of_several_leaves(pair, kind, apart, monkeypatch):
    monkeypatch.setattr("fastgan.latent.leaves._SMALL_LEAF", 0 if apart else 4096)
    torch.manual_seed(0)
    generator, critic = FromChunks(), pair[1]
    leaves = [torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 1, 2, 2, dtype=torch.float64)]
    kinds = {"list": list, "tuple": tuple, "dict": lambda x: dict(zip(("w", "noise"), x, strict=True)), "named": Pair._make}
    z = kinds[kind](leaves)
    flat = torch.cat([leaf.flatten(1) for leaf in leaves], dim=1)

    class Flat(nn.Module):
        def forward(self, z):
            return torch.tanh(generator.body(z)).view(-1, 1, 2, 2)

    options = {"steps": 3, "step_size": 0.1, "direction": "l2", "radius": 0.2, "radius_norm": "l2"}
    found = refine(generator, critic, z, **options)
    assert type(found) is type(z)
    parts = list(found.values()) if kind == "dict" else list(found)
    assert parts[1].shape == leaves[1].shape
    torch.testing.assert_close(torch.cat([p.flatten(1) for p in parts], 1), refine(Flat(), critic, flat, **options))

    only = refine(generator, critic, z, steps=3, step_size=0.1, leaves=["noise" if kind == "dict" else 1])
    parts = list(only.values()) if kind == "dict" else list(only)
    assert torch.equal(parts[0], leaves[0])
    assert not torch.equal(parts[1], leaves[1])


class Sum(nn.Module):
    """Of all leaves but the last, which it makes no use of."""

    def forward(self, z):
        assert all(leaf.shape == z[0].shape for leaf in z)
        return sum(leaf * (k + 1) for k, leaf in enumerate(z[:-1]))


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "side by side"])
@pytest.mark.parametrize("count", [3, MAX_LEAVES, MAX_LEAVES + 2])
def test_a_leaf_without_use_stays_and_any_number_moves(pair, count, apart, monkeypatch):
    monkeypatch.setattr("fastgan.latent.leaves._SMALL_LEAF", 0 if apart else 4096)
    z = [torch.randn(5, 1, 2, 2, dtype=torch.float64) for _ in range(count)]
    found = refine(Sum(), pair[1], z, steps=3, step_size=0.1, momentum=0.9, stop_score=1e9)
    assert torch.equal(found[-1], z[-1])
    assert not any(torch.equal(a, b) for a, b in zip(found[:-1], z[:-1], strict=True))


def test_noise_maps_reach_the_generator_contiguous(pair, monkeypatch):
    monkeypatch.setattr("fastgan.latent.leaves._SMALL_LEAF", 0)
    generator, z = FromChunks(), [torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, 2, 1, dtype=torch.float64)]
    z[1] = z[1].contiguous(memory_format=torch.channels_last)
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.extend(leaf.is_contiguous() for leaf in inputs[0]))
    refine(generator, pair[1], z, steps=2, keep_best=True)
    assert seen == [True] * 6


def test_half_precision_under_autocast():
    generator, critic = Generator(3, 8, 1, 2), Discriminator(8, 1, 2)
    z = torch.randn(8, 3)
    exact = refine(generator, critic, z, steps=1, step_size=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = refine(generator, critic, z, steps=1, step_size=0.1)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().lt(1e-6).float().mean() > 0.8  # a sign turns only where the gradient is near 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"objective": "hing"}, "unknown objective"),
        ({"objective": "mmd"}, "trains no score"),
        ({"steps": -1}, "steps"),
        ({"step_size": -0.1}, "step_size"),
        ({"radius": -1.0}, "radius"),
        ({"radius": 1.0, "radius_norm": "l3"}, "l3"),
        ({"direction": "up"}, "up"),
        ({"leaves": [1]}, "leaves"),
        ({"z": torch.zeros(3, dtype=torch.int64)}, "latents"),
        ({"z": torch.zeros(3, 3, dtype=torch.int64)}, "floating"),
    ],
)
def test_options_out_of_range_are_refused(pair, change, reason):
    options = {"z": torch.zeros(2, 3, dtype=torch.float64), "steps": 1} | change
    with pytest.raises(ValueError, match=reason):
        refine(*pair, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_definition(pair):
    generator, critic = (network.cuda() for network in pair)
    z = torch.randn(7, 3, dtype=torch.float64, device="cuda")
    found = refine(generator, critic, z, steps=5, step_size=0.07, momentum=0.9, radius=0.2, keep_best=True)
    expected = refine(generator.cpu(), critic.cpu(), z.cpu(), steps=5, step_size=0.07, momentum=0.9, radius=0.2, keep_best=True)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-9)
