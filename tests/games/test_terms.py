import numpy as np
import pytest
import torch
from torch import nn

from fastgan.draw import Draw
from fastgan.judgement import judge
from fastgan.terms import R1, Imagined, Scene, Term, WganGP


class Quadratic(nn.Module):
    """D(x) = x'Ax / 2 + b'x, whose gradient is known: (A + A')x / 2 + b."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(4, dtype=torch.float64))

    def forward(self, x):
        x = x.flatten(1)
        return ((x @ self.a) * x).sum(1) / 2 + x @ self.b


def scene(real):
    def nobody():
        raise AssertionError("R1 has no use for generated images")

    return Scene(real, None, nobody, nobody, Draw(0, "D", 0, torch.arange(len(real))))


def apply(term, network, real):
    return term.loss(scene(real), judge(network, term.views(scene(real))))


def test_r1_equals_its_formula_and_its_gradient():
    torch.manual_seed(0)
    network, real = Quadratic(), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    slope = real.flatten(1) @ (network.a + network.a.T) / 2 + network.b
    expected = 0.7 / 2 * slope.square().sum(1).mean()
    found = apply(R1(gamma=0.7), network, real)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(found, network.parameters(), retain_graph=True),
        torch.autograd.grad(expected, network.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_r1_at_zero_slope_is_zero_without_nan():
    network = Quadratic()
    with torch.no_grad():
        network.a.zero_()
        network.b.zero_()
    loss = apply(R1(), network, torch.randn(3, 1, 2, 2, dtype=torch.float64))
    assert loss.item() == 0
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, network.parameters(), allow_unused=True) if g is not None)


def test_r1_asks_for_the_real_images_alone():
    real = torch.randn(3, 1, 2, 2)
    ((name, view),) = R1().views(scene(real)).items()
    assert name == "real"  # in the place of the objective's own view
    assert view.alone
    assert torch.equal(view.images, real)
    assert not real.requires_grad


def test_a_term_out_of_range_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        R1(gamma=-1)


class Smooth(nn.Module):
    """A D with a second derivative: a softplus layer in float64."""

    def __init__(self, size=4):
        super().__init__()
        self.first, self.last = nn.Linear(size, 6).double(), nn.Linear(6, 1).double()

    def forward(self, x):
        return self.last(nn.functional.softplus(self.first(x.flatten(1)))).squeeze(1)


def pair_scene(real, fake, seed=3):
    return Scene(real, None, lambda: Imagined(fake, None, fake), lambda z: z, Draw(seed, "D", 5, torch.arange(len(real))))


def penalty(term, network, real, fake):
    seen = pair_scene(real, fake)
    return term.loss(seen, judge(network, term.views(seen)))


def shares(count, seed=3):
    return Draw(seed, "D", 5, torch.arange(count)).uniform("wgan-gp", 1).double()


def images(count=5):
    return torch.randn(2, count, 1, 2, 2, dtype=torch.float64)


@pytest.mark.parametrize("target", [1.0, 0.0])
def test_wgan_gp_equals_its_formula_in_numpy(target):
    torch.manual_seed(0)
    network, (real, fake) = Smooth(), images()
    a, b, w = (t.detach().numpy() for t in (network.first.weight, network.first.bias, network.last.weight[0]))
    e = shares(5).numpy()
    x = e * real.flatten(1).numpy() + (1 - e) * fake.flatten(1).numpy()
    slope = (w / (1 + np.exp(-(x @ a.T + b)))) @ a  # the derivative of softplus is the logistic function
    expected = 7 * np.mean((np.sqrt((slope**2).sum(1)) - target) ** 2)
    found = penalty(WganGP(weight=7, target=target), network, real, fake)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert found.dtype == torch.float64


def test_wgan_gp_has_the_gradient_of_finite_differences():
    torch.manual_seed(0)
    network, (real, fake) = Smooth(), images()
    found = torch.autograd.grad(penalty(WganGP(), network, real, fake), [network.first.weight, network.last.weight])
    for parameter, gradient in zip((network.first.weight, network.last.weight), found, strict=True):
        for at in np.ndindex(*parameter.shape):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter[at] += step
                values.append(penalty(WganGP(), network, real, fake).item())
                with torch.no_grad():
                    parameter[at] -= step
            assert gradient[at].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_wgan_gp_passes_second_order_checks():
    torch.manual_seed(0)
    real, fake = images(3)

    def loss(weight, last):
        class Given(nn.Module):
            def forward(self, x):
                return nn.functional.softplus(x.flatten(1) @ weight) @ last

        return penalty(WganGP(), Given(), real, fake)

    inputs = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_wgan_gp_at_zero_slope_is_the_squared_target_without_nan():
    network = Quadratic()
    with torch.no_grad():
        network.a.zero_()
        network.b.zero_()
    real, fake = images(3)
    loss = penalty(WganGP(weight=10), network, real, fake)
    assert loss.item() == 10
    assert all((g == 0).all() for g in torch.autograd.grad(loss, network.parameters()))


def test_wgan_gp_accumulates_in_single_precision():
    """A slope whose squares overflow in half precision: 4,096 values of 32."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4096, 1, bias=False), nn.Flatten(0)).half()
    nn.init.constant_(network[1].weight, 32.0)
    real = torch.randn(2, 1, 64, 64).half()
    loss = penalty(WganGP(weight=1), network, real, real)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((32 * 64 - 1) ** 2, rel=1e-3)


def test_wgan_gp_looks_between_the_images_alone():
    """One share an image, drawn by its row, whatever the micro-batch; neither the images nor G's graph are touched."""
    real, fake = (torch.randn(6, 3, 4, 4).requires_grad_(number) for number in (False, True))
    (view,) = WganGP().views(pair_scene(real, fake)).values()
    assert view.alone
    assert view.images.is_leaf
    e = shares(6).float().view(6, 1, 1, 1)
    torch.testing.assert_close(view.images, e * real + (1 - e) * fake)
    assert e.unique().numel() == 6
    half = Scene(real[3:], None, lambda: Imagined(fake[3:], None, fake[3:]), lambda z: z, Draw(3, "D", 5, torch.arange(3, 6)))
    torch.testing.assert_close(WganGP().views(half)["wgan_gp"].images, view.images[3:])
    points = WganGP().views(pair_scene(real.flatten(1)[:, :2], fake.flatten(1)[:, :2]))["wgan_gp"].images
    torch.testing.assert_close(points, view.images.flatten(1)[:, :2])


def test_gradient_penalties_say_that_they_are_of_second_order():
    assert R1().second_order
    assert WganGP().second_order
    assert not Term().second_order
