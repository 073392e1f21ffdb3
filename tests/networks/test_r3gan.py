import pytest
import torch
from families import check_memory, pair_of, parameters
from torch import nn

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.networks import build
from fastgan.networks.r3gan import Block, Discriminator, Doubled, Generator, Halved
from fastgan.presets import preset


def small(side=16, classes=0, width=8, seed=0, **fields):
    """A pair as a run builds it, with latents of 5 coordinates."""
    settings = {
        "network.family": "r3gan", "network.width": width, "network.classes": classes, "network.group": 4,
        "network.embedding": 6, "network.depth": 1, "data.resolution": side, "latent.dim": 5, "seed": seed,
    }  # fmt: skip
    return build(override(preset("digits-sngan"), [f"{name}={value}" for name, value in (settings | fields).items()]))


def stirred(*networks):
    """With branches that do something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return networks


# Counted in the authors' own networks (github.com/brownvc/R3GAN, R3GAN/Networks.py) with the widths, cardinalities and blocks
# of their train.py: parameters of G and D.
@pytest.mark.parametrize(
    ("side", "width", "group", "widest", "classes", "of_g", "of_d"),
    [
        (32, 768, 16, 32, 10, 20_781_952, 21_280_512),
        (32, 768, 16, 32, 0, 20_732_160, 20_683_776),
        (64, 768, 16, 32, 0, 22_429_824, 22_381_440),
        (256, 768, 16, 32, 0, 23_057_952, 23_009_568),
        (32, 1536, 32, 32, 1000, 82_914_304, 86_548_992),
        (64, 1536, 32, 64, 1000, 103_570_432, 107_205_120),
    ],
)
def test_the_published_sizes(side, width, group, widest, classes, of_g, of_d):
    with torch.device("meta"):
        generator = Generator(64, side, 3, width, classes, group=group, widest=widest)
        discriminator = Discriminator(side, 3, width, classes, group=group, widest=widest)
    assert (parameters(generator), parameters(discriminator)) == (of_g, of_d)


@pytest.mark.parametrize(("side", "channels", "classes"), [(8, 1, 0), (32, 3, 0), (64, 3, 4), (128, 1, 3)])
def test_shapes(side, channels, classes):
    generator, discriminator = small(side, classes, **{"data.channels": channels})
    z, labels = 20 * torch.randn(3, 5), (torch.tensor([0, 1, classes - 1]),) if classes else ()
    images = generator(z, *labels)
    assert images.shape == (3, channels, side, side)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, scores = generator(z, *labels), discriminator(images, *labels)
    assert scores.shape == (3,)
    assert images.dtype == half.dtype == scores.dtype == torch.float32
    assert (half - images).norm() < 0.02 * images.norm()
    assert images.abs().max() > 1
    torch.testing.assert_close(generator.eval()(z, *labels), images.clamp(-1, 1))
    assert generator(z[:0], *(label[:0] for label in labels)).shape == (0, channels, side, side)


def test_memory_and_seeds():
    check_memory("r3gan", convolutions=2 * (4 * 2 * 3 + 1))  # four stages of two blocks each, and the image's 1x1
    first, same, other = (nn.ModuleList(small(classes=3, seed=seed)) for seed in (0, 0, 1))
    assert all(map(torch.equal, first.parameters(), same.parameters()))
    drawn = [p for p in zip(first.parameters(), other.parameters(), strict=True) if p[0].any()]
    assert len(drawn) == 2 * (3 * 2 + 4)  # two layers of each stage's block, the ends, the class vectors
    assert not any(torch.equal(*p) for p in drawn)


def test_a_block_starts_as_the_identity_and_its_weights_as_published():
    torch.manual_seed(0)
    generator, discriminator = Generator(64, 32, 3, 64, 10, depth=2), Discriminator(32, 3, 64, 10, depth=2)
    x = torch.randn(2, 64, 8, 8)
    gain = (2 / 1.04) ** 0.5 * 8**-0.25
    for network in (generator, discriminator):
        blocks = [module for module in network.modules() if isinstance(module, Block)]
        assert len(blocks) == 8
        for block in blocks:
            torch.testing.assert_close(block(x), x, rtol=0, atol=0)
            assert (block.conv1.weight.shape, block.conv2.weight.shape) == ((128, 64, 1, 1), (128, 16, 3, 3))
            assert block.conv1.weight.std().item() == pytest.approx(gain / 64**0.5, rel=0.1)
            assert block.conv2.weight.std().item() == pytest.approx(gain / (9 * 16) ** 0.5, rel=0.1)
            assert not any(p.any() for p in (block.conv1.bias, block.conv2.bias, block.conv3.weight))
    assert generator.linear.weight.std().item() == pytest.approx(128**-0.5, rel=0.1)
    assert generator.embed.weight.std().item() == pytest.approx(10**-0.5, rel=0.15)
    assert discriminator.embed.weight.std().item() == pytest.approx(640**-0.5, rel=0.15)
    assert discriminator.basis.std().item() == pytest.approx(1 / 4, rel=0.1)


def test_resampling_is_by_the_filter():
    """Against convolutions as they are defined, and each against numerical derivatives."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    weight = (taps[:, None] * taps).expand(3, 1, 4, 4)
    double, halve = Doubled(), Halved()
    torch.testing.assert_close(double(x), nn.functional.conv_transpose2d(x, 4 * weight, stride=2, padding=1, groups=3))
    torch.testing.assert_close(halve(x), nn.functional.conv2d(x, weight, stride=2, padding=1, groups=3))
    inside = double(torch.ones(1, 1, 4, 4))[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    for resample in (double, halve):
        x = torch.randn(1, 2, 4, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(resample, x)
        assert torch.autograd.gradgradcheck(resample, x)


@pytest.mark.parametrize("classes", [0, 3])
def test_gradients_to_the_second_order(classes):
    """R1's and R2's gradient reaches every weight of D but the biases, and is finite, as G's is."""
    generator, discriminator = stirred(*small(classes=classes))
    labels = (torch.tensor([0, 1, 2, 0]),) if classes else ()
    images = generator(torch.randn(4, 5), *labels)
    discriminator(images, *labels).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in generator.parameters())
    discriminator.zero_grad()
    real = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real, *labels).sum(), real, create_graph=True)
    gradient.square().sum().backward()
    reached = {name: p.grad for name, p in discriminator.named_parameters() if "bias" not in name}
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in reached.values())


def test_the_gradient_of_d_is_that_of_its_function():
    discriminator = stirred(small()[1].double())[0]
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x)
    direction = torch.randn_like(x)
    step = 1e-6 * direction
    numerical = (discriminator(x + step) - discriminator(x - step)) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(numerical.item(), rel=1e-5)


def test_both_networks_hear_the_class():
    generator, discriminator = stirred(*small(classes=3))
    z, one, other = torch.randn(4, 5), torch.zeros(4, dtype=torch.long), torch.full((4,), 2)
    assert (generator(z, one) - generator(z, other)).abs().max() > 1e-3
    images = generator(z, one)
    assert (discriminator(images, one) - discriminator(images, other)).abs().max() > 1e-4
    assert pair_of("r3gan", classes=0)[1].embed is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"side": 24}, "power of two"),
        ({"width": 9, "side": 64}, "does not divide"),
        ({"width": 10, "network.group": 16}, "groups of 16"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, message):
    with pytest.raises(UserError, match=f"network.family r3gan: .*{message}"):
        small(**fields)
