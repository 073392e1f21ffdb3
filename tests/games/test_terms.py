import pytest
import torch
from torch import nn

from fastgan.draw import Draw
from fastgan.judgement import judge
from fastgan.terms import R1, Scene


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
    return Scene(real, None, real, None, real, lambda z: z, Draw(0, "D", 0, torch.arange(len(real))))


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
