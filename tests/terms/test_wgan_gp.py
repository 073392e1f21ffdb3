"""Every kind of the WGAN-GP term against its formula, sample by sample, in float64. The kind that training knows best is in
tests/games/test_terms.py too."""

import pytest
import torch
from torch import nn

from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.draw import Draw
from fastgan.judgement import judge
from fastgan.terms import Imagined, Scene, WganGP

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
