"""Distances of latents against those of images."""

import numpy as np
import pytest
import torch

from fastgan.latent.structure import relative_distances, squared_distances, structure_loss


def by_definition(x, z):
    """The formula, by differences of all pairs, in numpy."""

    def relative(rows):
        rows = rows.reshape(len(rows), -1).astype(np.float64)
        distances = ((rows[:, None] - rows[None]) ** 2).mean(2)
        return distances / distances.mean()

    return ((np.log(1 + relative(x)) - np.log(1 + relative(z))) ** 2).mean()


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_formula(count):
    x, z = torch.randn(count, 3, 5, 4, dtype=torch.float64), torch.randn(count, 6, dtype=torch.float64)
    assert structure_loss(x, z).item() == pytest.approx(by_definition(x.numpy(), z.numpy()), rel=1e-12)
    single = structure_loss(x.float(), z.float()).item()
    assert single == pytest.approx(by_definition(x.numpy(), z.numpy()), rel=1e-4)


def test_its_gradient():
    x, z = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: structure_loss(x, z), z)
    assert torch.autograd.gradcheck(lambda x: structure_loss(x, z.detach()), x.requires_grad_())


def test_channels_last_and_far_from_the_origin():
    """Distances survive an offset a thousand times their size, and do not depend on the layout of memory."""
    x = torch.randn(6, 3, 8, 8)
    expected = ((x.flatten(1)[:, None] - x.flatten(1)[None]) ** 2).mean(2)
    torch.testing.assert_close(squared_distances(x.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(squared_distances(x + 1000), expected, rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(squared_distances(x), expected)
    assert squared_distances(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-35, 2.0**-60, 1e-15, 2.0**70, 1e20, 1e38])
def test_numbers_of_any_magnitude(scale):
    """The measure is free of scale, and so is the gradient, in units of it; what is not finite stays so."""
    x, z = torch.randn(6, 3, 5), torch.randn(6, 4).clamp(-3, 3)
    expected = structure_loss(x, z.requires_grad_())
    (gradient,) = torch.autograd.grad(expected, z)
    large = (z.detach() * scale).requires_grad_()
    loss = structure_loss(x, large)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    if scale < 1e30:  # the gradient at larger ones is below float32
        torch.testing.assert_close(torch.autograd.grad(loss, large)[0] * scale, gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(structure_loss(large.detach(), x), expected.detach(), rtol=1e-5, atol=0)
    for bad in (float("inf"), float("nan")):
        assert not structure_loss(x, z.detach().index_fill(0, torch.tensor([2]), bad)).isfinite()


@pytest.mark.parametrize("value", [0.0, -1.0, 0.3])
def test_constant_images(value):
    """A batch that is all one has no structure: no NaN, and a gradient that pulls on nothing."""
    x, z = torch.full((5, 1, 8, 8), value), torch.randn(5, 4, requires_grad=True)
    assert relative_distances(x).eq(0).all()
    structure_loss(x, z).backward()
    assert z.grad.isfinite().all()
    collapsed = torch.full((5, 4), value, requires_grad=True)
    loss = structure_loss(torch.randn(5, 1, 8, 8), collapsed)
    loss.backward()
    assert loss.isfinite()
    assert collapsed.grad.eq(0).all()


def test_nothing_of_the_size_of_all_pairs_of_pixels_is_made():
    x, z = torch.randn(64, 3, 32, 32), torch.randn(64, 16, requires_grad=True)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, torch.Tensor))
            return found

    with Sizes():
        structure_loss(x, z).backward()
    assert max(sizes) == x.numel()
