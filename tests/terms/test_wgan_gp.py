"""Every kind of the WGAN-GP term against its formula, sample by sample, in float64."""

import pytest
import torch
from torch import nn

from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.draw import Draw
from fastgan.judgement import judge
from fastgan.terms import Imagined, Scene, Term, WganGP

ROWS = torch.arange(40, 47)
SEED, ROUND = 3, 5

KINDS = [
    {"kind": "two-sided", "target": 1.0},
    {"kind": "two-sided", "target": 0.0},
    {"kind": "one-sided", "target": 1.0},
    {"kind": "one-sided", "target": 0.0},
    {"kind": "max"},
    {"kind": "power", "power": 6.0},
    {"kind": "power", "power": 2.0},
    {"kind": "power", "power": 1.0},
    {"kind": "power", "power": 3.5},
]


def critic() -> nn.Module:
    """A convolutional D with second derivatives; its slopes are on both sides of 1 at the points below."""
    torch.manual_seed(1)
    layers = (
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Softplus(),
        nn.Conv2d(4, 5, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(1),
    )
    network = nn.Sequential(*layers, nn.Flatten(0)).double()
    network(torch.zeros(1, 3, 7, 6, dtype=torch.float64))
    with torch.no_grad():
        network[0].weight.mul_(6)
        network[5].weight.mul_(2.5)
    return network


def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, len(ROWS), 3, 7, 6, dtype=torch.float64))


def scene(real, fake, rows=ROWS):
    return Scene(real, None, lambda: Imagined(fake, None, fake), lambda z: z, Draw(SEED, "D", ROUND, rows))


def penalty(term, network, real, fake):
    seen = scene(real, fake)
    return term.loss(seen, judge(network, term.views(seen)))


def norms(network, real, fake) -> list[torch.Tensor]:
    """Of D's gradient at each point between, one sample after the other, differentiable towards D's parameters."""
    shares, found = Draw(SEED, "D", ROUND, ROWS).uniform("wgan-gp", 1).double().flatten(), []
    for share, x, y in zip(shares, real, fake, strict=True):
        between = (share * x + (1 - share) * y)[None].requires_grad_()
        (slope,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
        found.append((slope * slope).sum().sqrt())
    return found


def by_hand(found, kind, target=1.0, power=6.0) -> torch.Tensor:
    if kind == "max":
        return max(found, key=lambda norm: norm.item()) ** 2
    total = torch.zeros((), dtype=torch.float64)
    for norm in found:
        if kind == "power":
            total = total + norm**power
        elif kind == "two-sided" or norm.item() > target:
            total = total + (norm - target) ** 2
    return total / len(found)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_value_and_gradients_of_every_parameter(settings):
    network, (real, fake) = critic(), images()
    found = norms(network, real, fake)
    assert min(found) < 1 < max(found)  # the sides differ
    loss = penalty(WganGP(weight=2.5, **settings), network, real, fake)
    expected = 2.5 * by_hand(found, **settings)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    names, parameters = zip(*network.named_parameters(), strict=True)
    given = (torch.autograd.grad(total, parameters, allow_unused=True) for total in (loss, expected))
    for name, mine, theirs in zip(names, *given, strict=True):
        if name == "5.bias":  # is added to the score: no slope knows it
            assert mine is None
            assert theirs is None
            continue
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_every_kind_is_another_number():
    network, (real, fake) = critic(), images()
    values = [penalty(WganGP(**settings), network, real, fake).item() for settings in KINDS]
    squares = {1, 3, 6}  # with target 0 and power 2 they are all the mean of the squared norms
    assert len({round(value, 9) for place, value in enumerate(values) if place not in squares}) == len(KINDS) - len(squares)
    assert values[1] == pytest.approx(values[3]) == pytest.approx(values[6])


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_no_kind_breaks_where_d_is_flat(settings):
    network, (real, fake) = critic(), images()
    with torch.no_grad():
        network[5].weight.zero_()
    loss = penalty(WganGP(weight=1, **settings), network, real, fake)
    assert loss.item() == (1.0 if settings == {"kind": "two-sided", "target": 1.0} else 0.0)
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    assert all((gradient == 0).all() for gradient in gradients if gradient is not None)


def test_only_the_largest_slope_is_the_whole_batchs_affair():
    assert WganGP(kind="max").couples
    assert not any(WganGP(kind=kind).couples for kind in ("two-sided", "one-sided", "power"))
    with pytest.raises(UserError, match=r"wgan_gp couples the samples of a batch, so training.accumulate must be 1"):
        override(Config(), ["terms.wgan_gp.kind=max", "training.accumulate=2"])
    override(Config(), ["terms.wgan_gp.kind=one-sided", "training.accumulate=2"])


@pytest.mark.parametrize(("wrong", "named"), [("kind=upper", "kind"), ("power=0.5", "power"), ("target=-1", "target")])
def test_settings_out_of_range_are_one_line(wrong, named):
    with pytest.raises(UserError, match=named) as caught:
        override(Config(), [f"terms.wgan_gp.{wrong}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_second_order(settings):
    torch.manual_seed(0)
    real, fake = (side[:2, :, :2, :2] for side in images())

    class Given(nn.Module):
        def __init__(self, weight, last):
            super().__init__()
            self.forward = lambda x: torch.tanh(x.flatten(1) @ weight) @ last

    def loss(weight, last):
        seen = scene(real, fake, ROWS[:2])
        return WganGP(**settings).loss(seen, judge(Given(weight, last), WganGP().views(seen)))

    inputs = [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((12, 2), (2,))]
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_over_ranks_the_largest_norm_is_the_largest_of_all():
    """This rank's own, or another's: then nothing of it is this rank's to change."""
    network, (real, fake) = critic(), images()
    largest = max(norms(network, real, fake)).item()
    for others, expected in ((largest / 2, largest**2), (largest * 2, (largest * 2) ** 2)):
        options = {
            "over_ranks": lambda x: x,
            "gather": lambda x, others=others: torch.cat([torch.full_like(x.detach(), others), x]),
        }
        seen = Scene(real, None, lambda: Imagined(fake, None, fake), lambda z: z, Draw(SEED, "D", ROUND, ROWS), **options)
        term = WganGP(weight=1, kind="max")
        loss = term.loss(seen, judge(network, term.views(seen)))
        assert loss.item() == pytest.approx(expected, rel=1e-12)
        (gradient,) = torch.autograd.grad(loss, [network[0].weight], allow_unused=True)
        assert gradient.any() == (others < largest)


def test_it_accumulates_in_single_precision():
    """A slope whose squares overflow in half precision: 4,096 values of 32."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4096, 1, bias=False), nn.Flatten(0)).half()
    nn.init.constant_(network[1].weight, 32.0)
    real = torch.randn(2, 1, 64, 64).half()
    seen = scene(real, real, ROWS[:2])
    loss = WganGP(weight=1).loss(seen, judge(network, WganGP().views(seen)))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((32 * 64 - 1) ** 2, rel=1e-3)


def test_it_looks_between_the_images_alone():
    """One share an image, drawn by its row, whatever the micro-batch; neither the images nor G's graph are touched."""
    real, fake = (torch.randn(7, 3, 4, 4).requires_grad_(number) for number in (False, True))
    (view,) = WganGP().views(scene(real, fake)).values()
    assert view.alone
    assert view.images.is_leaf
    e = Draw(SEED, "D", ROUND, ROWS).uniform("wgan-gp", 1).view(7, 1, 1, 1)
    torch.testing.assert_close(view.images, e * real + (1 - e) * fake)
    assert e.unique().numel() == 7
    half = scene(real[3:], fake[3:], ROWS[3:])
    torch.testing.assert_close(WganGP().views(half)["wgan_gp"].images, view.images[3:])
    points = WganGP().views(scene(real.flatten(1)[:, :2], fake.flatten(1)[:, :2]))["wgan_gp"].images
    torch.testing.assert_close(points, view.images.flatten(1)[:, :2])


def test_where_classes_differ_the_points_have_the_real_images():
    real, fake = (torch.randn(7, 3, 4, 4) for _ in range(2))
    labels = torch.arange(7), torch.arange(7).flip(0)
    seen = Scene(real, labels[0], lambda: Imagined(fake, labels[1], fake), lambda z: z, Draw(SEED, "D", ROUND, ROWS))
    assert WganGP().views(seen)["wgan_gp"].labels is labels[0]


def test_slopes_differentiated_are_of_second_order():
    assert WganGP().second_order
    assert not Term().second_order
