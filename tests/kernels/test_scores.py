"""What the catalogue's tests don't ask of the scores' kernels: corners, extremes, NaN, pairs, launches, wrong arguments."""

import math

import pytest
import torch
from operations import DEVICE, PATHS, through
from torch.nn.functional import relu, softplus

from fastgan.kernels import scores
from fastgan.kernels.launch import interpreting, noted, recording
from fastgan.kernels.scores import OBJECTIVES, discriminator_loss, discriminator_scores, generator_loss, per_score, separation

paths = pytest.mark.parametrize("path", PATHS)
each = pytest.mark.parametrize("objective", OBJECTIVES)


def on(path, *numbers, dtype=torch.float32):
    return torch.tensor(numbers, dtype=dtype, device=DEVICE if path == "kernel" else "cpu", requires_grad=True)


@paths
def test_hinge_by_hand(path):
    real, fake = on(path, 2.0, 0.5, -1.0, 0.0), on(path, -3.0, 1.0)
    with through(path):
        loss, score_real, score_fake, share = discriminator_scores(real, fake, "hinge")
        loss.backward()
        mine = generator_loss(fake.detach(), "hinge")
    assert (loss.item(), score_real.item(), score_fake.item()) == ((0.5 + 2 + 1) / 4 + 1, 0.375, -1.0)
    assert share.item() == 5 / 8  # 2 beats both, the others beat -3
    assert real.grad.tolist() == [0, -0.25, -0.25, -0.25]
    assert fake.grad.tolist() == [0, 0.5]
    assert mine.item() == 1
    assert not any(x.requires_grad for x in (score_real, score_fake, share))


@paths
def test_at_the_hinges_corner_the_slope_is_relus(path):
    real, fake = on(path, 1.0), on(path, -1.0)
    with through(path):
        discriminator_loss(real, fake, "hinge").backward()
    assert (real.grad.item(), fake.grad.item()) == (0, 0)


@paths
@each
def test_extreme_scores(path, objective):
    """softplus neither overflows nor loses the digits of small values."""
    numbers = (-1e4, -90.0, -30.0, 0.0, 30.0, 90.0, 1e4)
    f, g, h = OBJECTIVES[objective]
    real, fake = on(path, *numbers), on(path, *numbers)
    with through(path):
        (discriminator_loss(real, fake, objective) + generator_loss(fake, objective)).backward()
        values = per_score(fake, objective)
    wide = torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(values.cpu().double(), scores.FORMULAS[h].value(wide), rtol=2e-6, atol=0)
    slopes = [scores.FORMULAS[name].slope(wide) / 7 for name in (f, g, h)]
    torch.testing.assert_close(real.grad.cpu().double(), slopes[0], rtol=2e-6, atol=1e-30)
    torch.testing.assert_close(fake.grad.cpu().double(), slopes[1] + slopes[2], rtol=2e-6, atol=1e-30)


@paths
@each
def test_a_nan_is_seen(path, objective):
    real, fake = on(path, 1.0, math.nan), on(path, 0.0, 0.5, math.nan)
    with through(path):
        loss, score_real, _, share = discriminator_scores(real, fake, objective)
        mine = generator_loss(fake, objective)
    assert all(x.isnan() for x in (loss, score_real, mine))
    assert share.item() == pytest.approx(2 / 6)


@paths
def test_no_scores(path):
    real, empty = on(path, 2.0, 0.0), on(path)
    with through(path):
        loss, score_real, score_fake, share = discriminator_scores(real, empty, "hinge")
        loss.backward()
        nothing = generator_loss(empty, "hinge")
        assert per_score(empty, "minimax").shape == (0,)
    assert score_real.item() == 1
    assert all(x.isnan() for x in (loss, score_fake, share, nothing))
    assert real.grad.tolist() == [0, -0.5]


@paths
def test_two_types_of_scores(path):
    real, fake = on(path, 0.5, -2.0, dtype=torch.bfloat16), on(path, 0.25)
    with through(path):
        loss = discriminator_loss(real, fake, "least-squares")
        loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == (0.25 + 9) / 4 + 0.03125
    assert (real.grad.dtype, fake.grad.dtype) == (torch.bfloat16, torch.float32)
    assert (real.grad.tolist(), fake.grad.tolist()) == ([-0.25, -1.5], [0.25])


@each
def test_the_slopes_are_the_derivatives(objective):
    x = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    for name in OBJECTIVES[objective]:
        (wanted,) = torch.autograd.grad(scores.FORMULAS[name].value(x).sum(), x)
        torch.testing.assert_close(scores.FORMULAS[name].slope(x), wanted)


def test_on_the_cpu_it_is_plain_code_to_the_bit():
    plain = {
        "hinge": (lambda a, b: relu(1 - a).mean() + relu(1 + b).mean(), lambda b: -b),
        "non-saturating": (lambda a, b: softplus(-a).mean() + softplus(b).mean(), lambda b: softplus(-b)),
        "minimax": (lambda a, b: softplus(-a).mean() + softplus(b).mean(), lambda b: -softplus(b)),
        "wasserstein": (lambda a, b: b.mean() - a.mean(), lambda b: -b),
        "least-squares": (lambda a, b: ((a - 1).square().mean() + b.square().mean()) / 2, lambda b: (b - 1).square() / 2),
    }
    assert set(plain) == set(OBJECTIVES)
    real, fake = torch.randn(64, requires_grad=True), torch.randn(64, requires_grad=True)
    for name, (theirs, mine) in plain.items():
        loss, score_real, score_fake, share = discriminator_scores(real, fake, name)
        assert torch.equal(loss, theirs(real, fake))
        assert torch.equal(loss, discriminator_loss(real, fake, name))
        assert (score_real, score_fake) == (real.mean(), fake.mean())
        assert share == (real[:, None] > fake[None]).float().mean()
        assert torch.equal(generator_loss(fake, name), mine(fake).mean())
        assert torch.equal(per_score(fake, name), mine(fake))
        for a, b in zip(*(torch.autograd.grad(x, (real, fake)) for x in (loss, theirs(real, fake))), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pairs_by_sorting_are_the_pairs(monkeypatch, dtype):
    real, fake = torch.randn(3, 1, 5, 7).to(dtype), torch.randn(70).to(dtype)
    fake[:20] = real.flatten()[:20]  # draws
    real[0, 0, 0, 1], fake[3], fake[4], real[1, 0, 0, 0] = math.nan, math.nan, -math.inf, math.inf
    one_by_one = separation(real, fake)
    monkeypatch.setattr(scores, "PAIRS", 0)
    monkeypatch.setattr(scores, "SORTED", 0)
    assert separation(real, fake) == one_by_one
    assert separation(real[:0], fake).isnan()
    with interpreting():
        assert discriminator_scores(real.cpu(), fake.cpu(), "hinge")[3] == one_by_one


def test_maps_of_a_billion_pairs_take_no_memory():
    real, fake = torch.randn(32, 1, 30, 30) + 1, torch.randn(32, 1, 30, 30)
    assert separation(real, fake).item() == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=0.01)


@pytest.mark.parametrize(("count", "launches"), [(1, 1), (64, 1), (scores.ONE_PROGRAM, 1), (scores.ONE_PROGRAM + 1, 2)])
def test_launches(count, launches):
    """One, gradients and statistics included; the backward has none of ours."""
    real, fake = (torch.empty(count, device="meta", requires_grad=True) for _ in range(2))
    with recording() as recorded:
        discriminator_scores(real, fake, "hinge")[0].backward()
    assert len(recorded) == launches
    with recording() as recorded:
        generator_loss(fake, "hinge").backward()
    assert len(recorded) == launches
    with recording() as recorded:
        per_score(fake, "hinge").sum().backward()
    assert len(recorded) == 1


def test_slopes_that_nobody_wants_are_not_written():
    fake = torch.empty(64, device="meta")
    with recording() as recorded:
        generator_loss(fake, "hinge")
    assert noted(recorded[0], "").constexprs["fake_slope_ptr"] is None


@paths
@each
def test_second_order_of_each_score(path, objective):
    """What a gradient through refinement would ask for."""
    x = on(path, -1.5, 0.25, 3.0, dtype=torch.float64)
    with through(path):
        (slope,) = torch.autograd.grad(per_score(x, objective).sum(), x, create_graph=True)
        curvature = torch.autograd.grad(slope.sum(), x)[0] if slope.requires_grad else torch.zeros_like(x)
    s = torch.sigmoid(x.detach())
    wanted = {"non-saturating": s * (1 - s), "minimax": -s * (1 - s), "least-squares": torch.ones_like(s)}
    torch.testing.assert_close(curvature, wanted.get(objective, torch.zeros_like(s)))


def test_operators():
    for shape, objective in (((5,), "hinge"), ((2, 1, 3, 4), "non-saturating"), ((1,), "minimax")):
        real, fake = torch.randn(shape), torch.randn(shape)
        for wanted in (True, False):
            a, b = (x.clone().requires_grad_(wanted) for x in (real, fake))
            torch.library.opcheck(torch.ops.fastgan.scores_discriminator.default, (a, b, objective, wanted))
            torch.library.opcheck(torch.ops.fastgan.scores_generator.default, (b, objective, wanted))
            torch.library.opcheck(torch.ops.fastgan.scores_each.default, (b, objective, wanted))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: discriminator_loss(x, x, "hing"), "unknown objective 'hing'; known: hinge, non-saturating"),
        (lambda x: generator_loss(x.long(), "hinge"), "floating point and on one device, not torch.int64 on"),
        (lambda x: per_score(x.bool(), "hinge"), "floating point"),
        (lambda x: discriminator_scores(x, x.to("meta"), "hinge"), "on one device, not torch.float32 on cpu and .* on meta"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3))
