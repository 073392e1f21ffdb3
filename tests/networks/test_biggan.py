import pytest
import torch
from families import parameters
from torch import nn

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.networks import build
from fastgan.networks.biggan import DISCRIMINATOR, GENERATOR, STYLES, Discriminator, Generator
from fastgan.networks.layers import SNConv2d, SNEmbedding, SNLinear
from fastgan.presets import preset

FAMILIES = list(STYLES)


def pair_of(family, side=32, width=4, classes=3, dim=None, attention="[16]", **fields):
    """A pair as a run builds it, narrow."""
    settings = {
        "network.family": family, "network.width": width, "network.classes": classes, "data.resolution": side,
        "latent.dim": dim or 4 * len(GENERATOR[side]), "network.attention": attention, "network.embedding": 6,
    }  # fmt: skip
    return build(override(preset("emoji64-biggan"), [f"{name}={value}" for name, value in (settings | fields).items()]))


# Brock et al. 2019, appendix B, counted in its authors' port: millions of parameters of G and D, 1000 classes.
@pytest.mark.parametrize(
    ("style", "side", "width", "dim", "of_g", "of_d"),
    [
        ("biggan", 64, 64, 120, 31.91, 20.57),
        ("biggan", 128, 96, 120, 70.43, 87.98),
        ("biggan", 256, 96, 119, 82.11, 99.23),
        ("biggan", 256, 96, 140, 82.24, 99.23),
        ("biggan-deep", 128, 128, 128, 50.24, 34.59),
        ("biggan-deep", 256, 128, 128, 55.74, 38.25),
    ],
)
def test_the_published_sizes(style, side, width, dim, of_g, of_d):
    with torch.device("meta"):
        generator = Generator(dim, side, 3, width, 1000, style=STYLES[style])
        discriminator = Discriminator(side, 3, width, 1000, style=STYLES[style])
    assert round(parameters(generator) / 1e6, 2) == of_g
    assert round(parameters(discriminator) / 1e6, 2) == of_d


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", list(GENERATOR))
def test_shapes_and_ranges(family, side):
    generator, discriminator = pair_of(family, side, attention="[16, 64]")
    z, labels = torch.randn(2, 4 * len(GENERATOR[side])), torch.tensor([0, 2])
    with torch.no_grad():
        images = generator(z, labels)
        scores = discriminator(images, labels)
    assert images.shape == (2, 3, side, side)
    assert images.abs().max() <= 1
    assert images.dtype == scores.dtype == torch.float32
    assert scores.shape == (2,)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(z, labels)
        scores = discriminator(images, labels)
    assert images.dtype == scores.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_without_classes(family):
    generator, discriminator = pair_of(family, classes=0)
    assert discriminator(generator(torch.randn(3, 16))).shape == (3,)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_networks_hear_the_label(family):
    generator, discriminator = pair_of(family)
    for network in (generator, discriminator):  # tables of classes start all alike where there is a gain a class
        for part in network.modules():
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, 1)
    generator.eval()
    z, labels = torch.randn(1, 16).expand(3, 16), torch.arange(3)
    images = generator(z, labels)
    assert not torch.allclose(images[0], images[1])
    scores = discriminator(images[:1].expand(3, -1, -1, -1), labels)
    assert len(set(scores.tolist())) == 3


def test_every_chunk_of_z_is_heard():
    generator, _ = pair_of("biggan")
    z = torch.randn(2, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator(z, torch.tensor([0, 1])).square().sum(), z)
    assert (gradient != 0).all()


def test_attention_stands_where_it_is_asked_for():
    generator, discriminator = pair_of("biggan", 64, attention="[32, 16, 128]")
    assert set(generator.attention) == set(discriminator.attention) == {"32", "16"}
    assert not pair_of("biggan", 64, attention="[]")[0].attention


def test_spectral_norm_is_everywhere_but_in_the_table_of_class_vectors():
    generator, discriminator = pair_of("biggan")
    layers = nn.Conv2d | nn.Linear | nn.Embedding
    plain = [m for m in (*generator.modules(), *discriminator.modules()) if isinstance(m, layers)]
    plain = [m for m in plain if not isinstance(m, SNConv2d | SNLinear | SNEmbedding) and not hasattr(m, "u")]
    assert plain == [generator.shared]
    assert {m.eps for m in generator.modules() if hasattr(m, "u")} == {1e-6}


def test_weights_start_orthogonal():
    _, discriminator = pair_of("biggan", width=8)
    for part in discriminator.modules():
        if isinstance(part, nn.Conv2d | nn.Linear | nn.Embedding):
            matrix = part.weight.flatten(1)
            rows = min(matrix.shape)
            product = matrix @ matrix.T if len(matrix) == rows else matrix.T @ matrix
            torch.testing.assert_close(product, torch.eye(rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_channels_last_throughout(family):
    generator, discriminator = pair_of(family, width=8)
    wrong = []
    for name, module in (*generator.named_modules(), *discriminator.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, inputs, output, name=name: wrong.extend(
                    name for x in (inputs[0], output) if not x.is_contiguous(memory_format=torch.channels_last)
                )
            )
    labels = torch.arange(3)
    discriminator(generator(torch.randn(3, 16), labels), labels)
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_change_nothing(family):
    """Losses, gradients of first and second order, and the moving statistics of batch norm."""
    labels, z = torch.arange(3), torch.randn(3, 16)
    found = []
    for recompute in ("false", "true"):
        generator, discriminator = pair_of(family, **{"network.recompute": recompute})
        images = generator(z, labels)
        score = discriminator(images, labels).sum()
        (slope,) = torch.autograd.grad(score, images, create_graph=True)
        (score + slope.square().sum()).backward()
        gradients = [p.grad for n in (generator, discriminator) for p in n.parameters()]
        found.append([score.detach(), *gradients, *generator.buffers()])
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
def test_recomputed_activations_are_not_kept(family):
    """Memory that is still held after a forward of both networks, for the backward."""

    def kept(recompute):
        generator, discriminator = pair_of(family, width=8, **{"network.recompute": recompute})
        labels, z = torch.arange(3), torch.randn(3, 16)
        with torch.profiler.profile(profile_memory=True) as profiler:
            score = discriminator(generator(z, labels), labels)
        assert score.requires_grad
        return sum(event.self_cpu_memory_usage for event in profiler.key_averages())

    assert 0 < kept("true") < 0.5 * kept("false")


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = pair_of("biggan")
    torch.manual_seed(2)
    second, third = pair_of("biggan"), pair_of("biggan", seed=1)
    for a, b, c in zip(*(nn.ModuleList(pair).parameters() for pair in (first, second, third)), strict=True):
        assert torch.equal(a, b)
        assert a.dim() < 2 or not torch.equal(a, c)


def test_sides_and_latents_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="sides of 32, 64, 128, 256, 512, not 48"):
        build(override(preset("emoji64-biggan"), ["data.resolution=48"]))
    with pytest.raises(UserError, match=r"latent\.dim must be a multiple of 5, not 64"):
        build(override(preset("emoji64-biggan"), ["latent.dim=64"]))


def test_tables_of_both_networks_name_the_same_sides():
    assert GENERATOR.keys() == DISCRIMINATOR.keys()
