"""What the catalogue's tests don't say of an image's error: autograd's slope, torch's cross-entropy, the edge."""

import pytest
import torch
from operations import PATHS, through
from torch.nn import functional

from fastgan.kernels.image_error import image_error


def images(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=random, dtype=torch.float64) * 1.8 - 0.9 for _ in range(2)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_torchs_losses_and_autograds_slope(loss, layout, path):
    y, x = images(3, 2, 5, 4)
    y = y.contiguous(memory_format=layout).requires_grad_()
    with through(path):
        found = image_error(y, x, loss)
    errors = functional.mse_loss(y, x, reduction="none").flatten(1).mean(1)
    losses = functional.binary_cross_entropy((y + 1) / 2, (x + 1) / 2, reduction="none").flatten(1).mean(1)
    wanted = losses if loss == "bce" else errors
    torch.testing.assert_close(found.losses, wanted.detach())
    torch.testing.assert_close(found.errors, errors.detach())
    torch.testing.assert_close(found.slope, torch.autograd.grad(wanted.sum(), y)[0])
    assert found.slope.is_contiguous(memory_format=layout)
    assert not any(tensor.requires_grad for tensor in found)


@pytest.mark.parametrize("path", PATHS)
def test_saturated_pixels_have_finite_losses_that_point_back(path):
    y, x = torch.tensor([[1.0, -1.0, 3.0]]), torch.tensor([[-1.0, 1.0, 1.0]])
    with through(path):
        found = image_error(y, x, "bce")
    assert found.losses.isfinite().all()
    assert found.slope.isfinite().all()
    assert found.slope[0, 0] > 0 > found.slope[0, 1]


@pytest.mark.parametrize("path", PATHS)
def test_an_image_that_overshoots_counts_as_one_that_does_not(path):
    """In loss and slope of bce."""
    y, x = images(2, 3, 4)
    x[0, 0], x[1, 1] = 1.01, -1.01
    with through(path):
        found, wanted = (image_error(y, given, "bce") for given in (x, x.clamp(-1, 1)))
    torch.testing.assert_close(found.losses, wanted.losses)
    torch.testing.assert_close(found.slope, wanted.slope)


@pytest.mark.parametrize("path", PATHS)
def test_half_precision_against_full(path):
    """G under autocast may return it; the given images stay in float32."""
    y, x = images(2, 1, 9, 9)
    half = y.bfloat16()
    with through(path):
        found = image_error(half, x.float())
    assert (found.losses.dtype, found.errors.dtype, found.slope.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    torch.testing.assert_close(found.errors.double(), (half.double() - x).square().flatten(1).mean(1), rtol=1e-5, atol=1e-6)


def test_operator():
    y, x = images(2, 3, 4, 5)
    for loss in ("mse", "bce"):
        torch.library.opcheck(torch.ops.fastgan.image_error.default, (y, x, loss))


@pytest.mark.parametrize(
    ("y", "x", "loss", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "mse", r"of one shape and device, not torch.float32 \(2, 3\)"),
        (torch.ones(2), torch.ones(2), "mse", r"two floating-point \(B, ...\) tensors"),
        (torch.ones(2, 3).long(), torch.ones(2, 3), "mse", "floating-point"),
        (torch.ones(2, 3), torch.ones(2, 3), "l1", "loss must be one of mse, bce, not 'l1'"),
    ],
)
def test_wrong_arguments_are_named(y, x, loss, message):
    with pytest.raises(ValueError, match=message):
        image_error(y, x, loss)
