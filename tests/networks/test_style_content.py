import pytest
import torch
from families import parameters
from torch import nn
from torch.nn import functional

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.networks import build
from fastgan.networks.style_content import AdaptiveBlock, Autoencoder, Block, Code, Doubling, pair, reflected
from fastgan.presets import preset


def small(side=16, width=4, channels=1, seed=0, **fields):
    """A pair as a run builds it, with codes of 7 and 6 numbers."""
    settings = {
        "game": "gaia", "network.family": "style-content", "network.width": width, "network.content": 7, "network.style": 6,
        "network.blocks": 1, "data.resolution": side, "data.channels": channels, "seed": seed,
    }  # fmt: skip
    return build(override(preset("digits-sngan"), [f"{name}={value}" for name, value in (settings | fields).items()]))


@pytest.mark.parametrize(("side", "channels", "batch"), [(16, 1, 3), (32, 3, 1), (64, 3, 2), (128, 1, 1)])
def test_shapes(side, channels, batch):
    generator, discriminator = small(side, channels=channels)
    x = torch.rand(batch, channels, side, side) * 2 - 1
    for network, content in ((generator, (batch, 7)), (discriminator, (batch, 8, side // 4, side // 4))):
        code = network.encode(x)
        assert (code.content.shape, code.style.shape) == (content, (batch, 6))
        images = network.decode(code)
        assert images.shape == x.shape
        assert images.abs().max() <= 1
        assert torch.equal(images, network(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(x)
            assert {part.dtype for part in network.encode(x)} == {torch.float32}
        assert images.dtype == half.dtype == torch.float32
        assert (half - images).norm() < 0.05 * images.norm()
        assert network.double()(x.double()).dtype == torch.float64


def formula(side, channels, w, style, content, blocks=4):
    """Parameters by the published layers; without the biases in front of instance norm."""

    def conv(k, a, b):
        return k * k * a * b + b

    def linear(a, b):
        return a * b + b

    entry = conv(7, channels, w) + conv(4, w, 2 * w) + conv(4, 2 * w, 4 * w)
    encoders = 2 * entry + blocks * 2 * (9 * 16 * w * w + 2 * 4 * w) + 2 * conv(4, 4 * w, 4 * w) + linear(4 * w, style)
    between = 0 if content is None else linear(4 * w * side**2 // 16, content) + linear(content, 4 * w * side**2 // 16)
    adapt = linear(style, 4 * w) + 3 * linear(4 * w, 4 * w)
    up = conv(5, 4 * w, 2 * w) + 2 * 2 * w + conv(5, 2 * w, w) + 2 * w
    return encoders + between + adapt + blocks * 2 * 9 * 16 * w * w + up + conv(7, w, channels)


def test_the_published_sizes():
    """128 x 128 in colour, 64 filters; D with half of them and no linear layers on the content."""
    config = override(
        preset("digits-sngan"),
        ["game=gaia", "network.family=style-content", "network.width=64", "data.resolution=128", "data.channels=3"],
    )
    with torch.device("meta"):
        generator, discriminator = pair(config)
    assert parameters(generator) == formula(128, 3, 64, 512, 512) == 283_061_763
    assert parameters(discriminator) == formula(128, 3, 32, 512, None) == 3_665_667
    for network, width in ((generator, 64), (discriminator, 32)):
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        assert {m.out_channels for m in convolutions} == {3, *(width * 2**k for k in range(3))}
        assert sum(isinstance(m, Block | AdaptiveBlock) for m in network.modules()) == 8


def test_the_memory_format_changes_nothing():
    x = torch.rand(3, 1, 16, 16, dtype=torch.float64) * 2 - 1
    for network in small():
        network.double()
        last, first = [], []
        for found, layout in ((last, torch.channels_last), (first, torch.contiguous_format)):
            network.to(memory_format=layout)
            y = network(x.contiguous(memory_format=layout))
            found += [y, *torch.autograd.grad(y.square().sum(), network.parameters())]
        for a, b in zip(last, first, strict=True):
            torch.testing.assert_close(a, b)


def test_maps_stay_channels_last():
    seen = []
    x = torch.rand(3, 1, 16, 16).contiguous(memory_format=torch.channels_last)
    for network in small():
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.weight.shape[2] < 7:
                module.register_forward_hook(lambda m, inputs, output: seen.extend((inputs[0], output)))
        network(x)
    assert len(seen) == 2 * 2 * (2 + 4 + 2 * 2 + 2)  # of each player: down, residual blocks, up
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)


def test_seeds():
    torch.manual_seed(5)
    first = nn.ModuleList(small())
    torch.manual_seed(6)
    same, other = nn.ModuleList(small()), nn.ModuleList(small(seed=1))
    assert all(map(torch.equal, first.parameters(), same.parameters()))
    drawn = [p for p in zip(first.parameters(), other.parameters(), strict=True) if p[0].dim() > 1]
    assert not any(torch.equal(*p) for p in drawn)


def test_weights_start_as_published():
    """Normal with variance 2 / inputs, biases at 0."""
    generator, _ = small(side=32, width=16, channels=3)
    layers = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        assert layer.bias is None or not layer.bias.any()
        if layer.weight.numel() > 2000:
            assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.1)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_constant_images_give_finite_gradients(batch, value):
    x = torch.full((batch, 1, 16, 16), value, requires_grad=True)
    for network in small():
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x)
        gradients = torch.autograd.grad((y - 0.3).abs().mean(), [x, *network.parameters()])
        assert all(g.isfinite().all() for g in (y, *gradients))


def test_codes_are_decoded_one_by_one_or_together_and_mixed():
    """G's decoder takes codes of any origin; a mixture's picture depends on nothing else in the batch."""
    generator, _ = small()
    x = torch.rand(4, 1, 16, 16) * 2 - 1
    code = generator.encode(x)
    mixed = Code(*(0.3 * part + 0.7 * part.flip(0) for part in code))
    together = generator.decode(Code(*map(torch.cat, zip(code, mixed, strict=True))))
    torch.testing.assert_close(together, torch.cat([generator.decode(code), generator.decode(mixed)]), rtol=1e-4, atol=1e-5)
    assert (generator.decode(mixed) - generator.decode(code)).abs().max() > 1e-3
    torch.testing.assert_close(generator(x[:1]), generator(x)[:1], rtol=1e-4, atol=1e-5)


def test_style_and_content_both_count():
    for network in small():
        code = network.encode(torch.rand(2, 1, 16, 16) * 2 - 1)
        images = network.decode(code)
        for changed in (code._replace(style=code.style.flip(0)), code._replace(content=code.content.flip(0))):
            assert (network.decode(changed) - images).abs().max() > 1e-3


def test_doubling_is_upsampling_and_a_5x5():
    torch.manual_seed(0)
    layer = Doubling(6, 3).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    big = functional.interpolate(functional.pad(x, (1,) * 4, mode="replicate"), scale_factor=2)
    ours, theirs = layer(x), functional.conv2d(big, layer.weight, layer.bias)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    given = [x, layer.weight, layer.bias]
    for a, b in zip(*(torch.autograd.grad(y, given, weights) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("border", "sides"), [(1, (2, 2)), (1, (5, 4)), (3, (4, 6)), (2, (3, 7))])
def test_reflections_gradient(border, sides):
    x = torch.randn(2, 3, *sides, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(reflected(x, border)[0], functional.pad(x, (border,) * 4, mode="reflect"))
    assert torch.autograd.gradcheck(lambda x: reflected(x, border), x)
    both = torch.cat([x, 2 * x], 1)
    torch.testing.assert_close(torch.cat(reflected(both, border, 2), 1), functional.pad(both, (border,) * 4, mode="reflect"))
    assert torch.autograd.gradcheck(lambda x: reflected(x, border, 2), both.detach().requires_grad_())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 24}, "multiple of 16, not 24"),
        ({"side": 16, "network.downsamplings": 3}, "multiple of 32, not 16"),
        ({"width": 3}, "must be even, not 3"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)


def test_more_or_less_downsampling():
    for count, side in ((1, 8), (3, 32)):
        network = Autoencoder(side, 1, 2, style=3, content=4, blocks=1, downsamplings=count)
        assert network(torch.rand(2, 1, side, side)).shape == (2, 1, side, side)
