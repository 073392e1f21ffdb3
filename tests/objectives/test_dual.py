"""The designed dual is what its conditions ask for."""

import pytest
import torch

from fastgan.objectives import chosen

ALPHAS = pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])


def w_inverse(t):
    return torch.where(t >= 0, 1 + t, 1 / (1 - t))


@ALPHAS
def test_the_slopes_hang_together(alpha):
    """phi' > 0 and psi'(t) = -w^-1(t) phi'(t)."""
    dual, t = chosen("designed-dual", {"alpha": alpha}), torch.linspace(-5, 5, 201, dtype=torch.float64, requires_grad=True)
    phi, psi = (torch.autograd.grad(function(t).sum(), t)[0] for function in (dual.phi, dual.psi))
    assert (phi > 0).all()
    assert (w_inverse(t).diff() > 0).all()
    torch.testing.assert_close(psi, -w_inverse(t) * phi)


@ALPHAS
def test_the_best_score_is_w_of_the_ratio_of_densities(alpha):
    dual, t = chosen("designed-dual", {"alpha": alpha}), torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    for ratio, best in ((0.2, -4), (0.5, -1), (1, 0), (3, 2), (6, 5)):
        found = t[(ratio * dual.phi(t) + dual.psi(t)).argmax()]
        assert found.item() == pytest.approx(best, abs=2e-3)
