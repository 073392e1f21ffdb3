"""The mode-seeking ratio by hand, where distances vanish, and what is refused.

The kernels run through Triton's interpreter on CPU tensors; with TRITON_INTERPRET=0 the same tests run them on the GPU.
"""

import math

import pytest
import torch
from operations import DEVICE, PATHS, through

from fastgan.kernels import reduction
from fastgan.kernels.mode_seeking import mode_seeking

paths = pytest.mark.parametrize("path", PATHS)


def pairs(path, *shapes, dtype=torch.float32):
    """x1, x2, z1, z2 that require gradients."""
    device = DEVICE if path == "kernel" else "cpu"
    generator = torch.Generator().manual_seed(1)
    shapes = shapes or ((3, 2, 4, 5), (3, 6))
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).to(device).requires_grad_()
        for s in shapes
        for _ in range(2)
    ]


@paths
def test_by_hand(path):
    """Images 2, 0 and 6 apart (sign 0 in the second), latents 4: ratio 8/3 / 4."""
    x1, x2, z1, z2 = (
        torch.tensor(values, device=DEVICE if path == "kernel" else "cpu").requires_grad_()
        for values in ([[1.0, 5.0, 0.0]], [[3.0, 5.0, -6.0]], [[0.0, 1.0]], [[4.0, -3.0]])
    )
    with through(path):
        loss, ratio = mode_seeking(x1, x2, z1, z2, eps=1 / 3)
        of_loss = torch.autograd.grad(loss, (x1, x2, z1, z2), retain_graph=True)
        of_ratio = torch.autograd.grad(ratio, (x1, x2, z1, z2))
    assert loss.item() == pytest.approx(1.0)
    assert ratio.item() == pytest.approx(2 / 3)
    signs = [1.0, 0.0, -1.0], [1.0, -1.0]
    scales = 1 / (3 * 4), -2 / 3 / (2 * 4)
    for place, (sign, scale, side) in enumerate(
        (sign, scale, side) for sign, scale in zip(signs, scales, strict=True) for side in (-1, 1)
    ):
        assert of_ratio[place][0].tolist() == pytest.approx([side * scale * s for s in sign])
        assert of_loss[place][0].tolist() == pytest.approx([-side * scale * s for s in sign])  # loss^2 is 1


@paths
def test_the_objective_of_mining(path):
    """AdvLatGAN-div makes mean|G(z2) - G(z1)| / (mean|z2 - z1| + 1) small."""
    x1, x2, z1, z2 = pairs(path)
    with through(path):
        ratio = mode_seeking(x1, x2, z1, z2, offset=1.0)[1]
        found = torch.autograd.grad(ratio, (x2, z2))
    expected = (x2 - x1).abs().mean() / ((z2 - z1).abs().mean() + 1)
    torch.testing.assert_close(ratio, expected)
    for mine, theirs in zip(found, torch.autograd.grad(expected, (x2, z2)), strict=True):
        torch.testing.assert_close(mine, theirs)


@paths
def test_several_sweeps_of_few_programs(path, monkeypatch):
    monkeypatch.setattr(reduction, "PROGRAMS", 3)
    x1, x2, z1, z2 = pairs(path, (2, 9000), (2, 4001))
    with through(path):
        _, ratio = mode_seeking(x1, x2, z1, z2)
    torch.testing.assert_close(ratio, (x2 - x1).abs().mean() / (z2 - z1).abs().mean())


@paths
@pytest.mark.parametrize("again", [False, True], ids=["first order", "in a graph"])
def test_equal_images_have_the_largest_loss_and_no_gradient(path, again):
    x1, *_ = given = pairs(path)
    given[1] = x1.detach().clone().requires_grad_()
    with through(path):
        loss, ratio = mode_seeking(*given)
        to_x1, to_x2, to_z1, to_z2 = torch.autograd.grad(loss, given, create_graph=again)
    assert ratio.item() == 0
    assert loss.item() == pytest.approx(1e5)
    assert all((gradient == 0).all() for gradient in (to_x1, to_x2, to_z1, to_z2))


@paths
@pytest.mark.parametrize("alike", [False, True], ids=["images differ", "images too"])
@pytest.mark.parametrize("again", [False, True], ids=["first order", "in a graph"])
def test_equal_latents_ask_for_nothing(path, alike, again):
    given = pairs(path)
    for pair in (0, 2) if alike else (2,):
        given[pair + 1] = given[pair].detach().clone().requires_grad_()
    with through(path):
        loss, ratio = mode_seeking(*given)
        firsts = torch.autograd.grad(loss, given, create_graph=again, retain_graph=True)
        of_ratio = torch.autograd.grad(ratio, given)
        if again:
            seconds = torch.autograd.grad(sum(first.square().sum() for first in firsts), given)
            assert all((second == 0).all() for second in seconds)
    assert loss.item() == 0
    assert ratio.item() == math.inf
    assert all((first == 0).all() for first in (*firsts, *of_ratio))


@pytest.mark.filterwarnings("ignore:overflow")  # of the ratio's own slope, which isn't asked for
@paths
@pytest.mark.parametrize("again", [False, True], ids=["first order", "in a graph"])
def test_nearly_equal_latents_have_finite_slopes(path, again):
    """Their distance's square is nothing in float32, and so is the loss's."""
    given = pairs(path)
    with torch.no_grad():
        given[2].zero_()
        given[3].fill_(1e-30)
    with through(path):
        loss, _ = mode_seeking(*given)
        gradients = torch.autograd.grad(loss, given, create_graph=again)
    assert all(gradient.isfinite().all() for gradient in gradients)
    # The loss is |z| / |x| here, and its slope along z2 1 / |x|: in float64 it would be the same.
    apart = (given[1] - given[0]).abs().mean()
    torch.testing.assert_close(gradients[3], torch.full_like(gradients[3], 1 / apart.item() / given[3].numel()))


@paths
def test_broken_images_are_seen(path):
    given = pairs(path)
    with torch.no_grad():
        given[1][0, 0, 0, 0] = math.nan
    with through(path):
        loss, ratio = mode_seeking(*given)
        gradients = torch.autograd.grad(loss, given)
    assert loss.isnan()
    assert ratio.isnan()
    assert all(gradient.isnan().all() for gradient in gradients)


@paths
@pytest.mark.parametrize(("images", "latents"), [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float64")])
def test_precisions_may_differ(path, images, latents):
    x1, x2 = pairs(path, dtype=getattr(torch, images))[:2]
    z1, z2 = pairs(path, dtype=getattr(torch, latents))[2:]
    with through(path):
        loss, _ = mode_seeking(x1, x2, z1, z2)
        gradients = torch.autograd.grad(loss, (x1, z2))
    wide = [t.detach().double().requires_grad_() for t in (x1, x2, z1, z2)]
    expected = 1 / ((wide[1] - wide[0]).abs().mean() / (wide[3] - wide[2]).abs().mean() + 1e-5)
    wanted = torch.autograd.grad(expected, (wide[0], wide[3]))
    assert loss.dtype == (torch.float64 if latents == "float64" else torch.float32)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for mine, theirs, dtype in zip(gradients, wanted, (x1.dtype, z2.dtype), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-9)


def test_operators():
    given = pairs("cpu")
    for tensors in (given, [t.detach().to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in given]):
        torch.library.opcheck(torch.ops.fastgan.mode_seeking.default, (*tensors, 1e-5, 0.5))
    x1, x2, *_ = (t.detach() for t in given)
    one, slopes = torch.tensor(1.0), torch.randn(4)
    for upstream in ((one, one), (one, None), (None, one)):
        for sides in ((True, True), (True, False), (False, True)):
            torch.library.opcheck(torch.ops.fastgan.mode_seeking_backward.default, (x1, x2, *upstream, slopes, 1, *sides))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x2": torch.zeros(4, 2)}, "x1 and x2 must be floating-point"),
        ({"x2": torch.zeros(4, 3, dtype=torch.float64)}, "x1 and x2 must be floating-point"),
        ({"x1": torch.zeros(4, 3).long(), "x2": torch.zeros(4, 3).long()}, "x1 and x2 must be floating-point"),
        ({"z1": torch.tensor(1.0), "z2": torch.tensor(1.0)}, "z1 and z2 must be floating-point"),
        ({"z2": torch.zeros(4, 5, device="meta")}, "z1 and z2 must be floating-point"),
        ({"z1": torch.zeros(3, 5), "z2": torch.zeros(3, 5)}, "as many and on one device"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"eps": math.nan}, "eps must be above 0"),
        ({"offset": -1.0}, "offset must be at least 0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    given = {"x1": torch.zeros(4, 3), "x2": torch.ones(4, 3), "z1": torch.zeros(4, 5), "z2": torch.ones(4, 5)}
    mode_seeking(**given)  # right as they are
    with pytest.raises(ValueError, match=message):
        mode_seeking(**(given | change))


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_parts_of_a_batch_have_the_wholes_loss(offset):
    """Each with the means of both: the mean of their gradients towards what is common, and signs of those towards their own
    latents, are the whole's."""
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, 6, 3, dtype=torch.float64)
    x1, common = torch.randn(6, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def of(rows, over_ranks=None):
        z = z2[rows].clone().requires_grad_()
        loss, ratio = mode_seeking(x1[rows], z @ common, z1[rows], z, offset=offset, over_ranks=over_ranks)
        return loss, ratio, *torch.autograd.grad(loss + ratio, (common, z))

    halves, whole = (slice(0, 3), slice(3, 6)), of(slice(0, 6))
    own = []
    for rows in halves:
        of(rows, lambda means: own.append(means.detach()) or means)
    means = torch.stack(own).mean(0)
    found = [of(rows, lambda mine: mine + (means - mine).detach()) for rows in halves]
    for loss, ratio, *_ in found:
        torch.testing.assert_close((loss, ratio), whole[:2], rtol=1e-12, atol=0)
    torch.testing.assert_close((found[0][2] + found[1][2]) / 2, whole[2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.cat([found[0][3], found[1][3]]) / 2, whole[3], rtol=1e-10, atol=1e-12)
