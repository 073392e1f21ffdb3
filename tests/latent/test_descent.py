"""`LBFGS` by itself, on quadratics whose minimum is known."""

import pytest
import torch

from fastgan.latent.descent import LBFGS, Room


def quadratics(count, dim, seed=0):
    """Convex, f(z) = z' A z / 2 - b z, (count, dim, dim) and (count, dim) in float64."""
    random = torch.Generator().manual_seed(seed)
    root = torch.randn(count, dim, dim, generator=random, dtype=torch.float64)
    return root @ root.mT / dim + 0.05 * torch.eye(dim), 2 * torch.randn(count, dim, generator=random, dtype=torch.float64)


def losses_and_gradients(z, a, b):
    product = (a @ z[:, :, None]).squeeze(2)
    return (z * (product / 2 - b)).sum(1), product - b


@pytest.mark.parametrize("bound", [0.2, 0.5, 2.0])
def test_the_minimum_inside_a_box(bound):
    """Where every coordinate has no slope, or stands on a bound that its slope holds it to (Karush, Kuhn and Tucker)."""
    a, b = quadratics(8, 12)
    wanted = torch.zeros_like(b)
    for _ in range(400):  # one coordinate after the other: the minimum of each is known
        for i in range(12):
            rest = b[:, i] - (a[:, i] * wanted).sum(1) + a[:, i, i] * wanted[:, i]
            wanted[:, i] = (rest / a[:, i, i]).clamp(-bound, bound)
    assert (wanted.abs() == bound).any()
    assert (wanted.abs() < bound).any()
    optimiser = LBFGS(torch.zeros_like(b), Room(bound=bound), rate=0.1, history=16)
    for _ in range(150):
        optimiser.step(optimiser.state, *losses_and_gradients(optimiser.state["z"], a, b))
    torch.testing.assert_close(optimiser.state["best_z"], wanted, rtol=1e-5, atol=1e-5)
    assert (optimiser.state["best_z"].abs() <= bound).all()
