"""Points between and around images: the numbers drawn in the kernels, the formulas by hand, and what is refused.

The kernels run through Triton's interpreter on CPU tensors; with TRITON_INTERPRET=0 the same tests run them on the GPU.
"""

import pytest
import torch
from operations import DEVICE, PATHS, through

from fastgan.kernels import interpolate as module
from fastgan.kernels import philox, reduction
from fastgan.kernels.interpolate import deviation, interpolate, interpolate_drawn, perturb, perturb_drawn

ROWS = torch.tensor([0, 1, 77, 2**32, 2**33 + 12345])
SOURCES = [(0, 0), (1, 2**32 - 1), (2**64 - 1, 5), (2**63 + 11, 2**31)]
paths = pytest.mark.parametrize("path", PATHS)
layouts = pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels last"])


def on(path, *tensors):
    return [x.to(DEVICE if path == "kernel" else "cpu") for x in tensors]


@paths
@pytest.mark.parametrize(("seed", "step"), SOURCES)
@pytest.mark.parametrize("columns", [1, 7, 2000])
def test_drawn_shares_are_philox_uniforms_to_the_bit(path, seed, step, columns):
    x, y, rows = on(path, torch.ones(5, columns), torch.zeros(5, columns), ROWS)
    with through(path):
        drawn = interpolate_drawn(x, y, seed, "between", rows, step).cpu()
    assert torch.equal(drawn, philox.uniform(seed, "between", ROWS, 1, step).expand(5, columns))


@paths
@layouts
@pytest.mark.parametrize(("seed", "step"), SOURCES[1:3])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 2, 2), (3, 16, 16), (1, 1, 1)])
def test_drawn_noise_is_philox_noise_in_the_order_of_the_dimensions(path, order, seed, step, shape):
    count = torch.Size(shape).numel()
    x, rows, std = on(path, torch.zeros(5, *shape).contiguous(memory_format=order), ROWS, torch.tensor(0.7))
    with through(path):
        uniform = perturb_drawn(x, seed, "around", rows, step, form="uniform", scale=1.0, std=std)
        normal = perturb_drawn(x, seed, "around", rows, step, form="normal", scale=1.0)
    u = philox.uniform(seed, "around", ROWS, count, step).view(5, *shape)
    a = philox.uniform(seed, "around/share", ROWS, 1, step).view(5, 1, 1, 1)
    assert torch.equal(uniform.cpu(), torch.tensor(0.7) * a * u)
    n = philox.normal(seed, "around", ROWS, count, step).view(5, *shape)
    torch.testing.assert_close(normal.cpu(), n, rtol=2e-6, atol=1e-6)
    assert uniform.stride() == normal.stride() == x.stride()


@paths
def test_a_sample_does_not_depend_on_its_batch(path):
    x, y, rows, std = on(path, torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4), ROWS, torch.tensor(0.4))

    def all_of(part):
        return (
            interpolate_drawn(x[part], y[part], 3, "a", rows[part], 2),
            perturb_drawn(x[part], 3, "a", rows[part], 2, form="normal", scale=0.3),
            perturb_drawn(x[part], 3, "a", rows[part], 2, form="uniform", scale=0.5, std=std),
        )

    with through(path):
        for whole, *parts in zip(all_of(slice(None)), all_of(slice(2)), all_of(slice(2, 5)), strict=True):
            assert torch.equal(torch.cat(parts), whole)


@paths
def test_the_ends_are_met_exactly(path):
    x, y = on(path, torch.randn(2, 999), 1e6 * torch.randn(2, 999))
    (share,) = on(path, torch.tensor([1.0, 0.0]))
    with through(path):
        between = interpolate(x, y, share)
    assert torch.equal(between[0], x[0])
    assert torch.equal(between[1], y[1])


@paths
def test_by_hand(path):
    x, y, share, noise = on(
        path, torch.tensor([[1.0, 2.0], [4.0, 8.0]]), torch.zeros(2, 2), torch.tensor([0.25, 0.75]), torch.ones(2, 2)
    )
    x.requires_grad_()
    y.requires_grad_()
    with through(path):
        between = interpolate(x, y, share)
        assert between.tolist() == [[0.25, 0.5], [3.0, 6.0]]
        to_x, to_y = torch.autograd.grad(between.sum(), (x, y))
        assert to_x.tolist() == [[0.25, 0.25], [0.75, 0.75]]
        assert to_y.tolist() == [[0.75, 0.75], [0.25, 0.25]]
        assert perturb(x, noise, share, deviation(x), scale=4.0)[1].tolist() == pytest.approx(
            [4 + 3 * 7.1875**0.5, 8 + 3 * 7.1875**0.5]  # mean 3.75, squares 85 / 4
        )
        assert perturb(x, noise, scale=0.5).tolist() == [[1.5, 2.5], [4.5, 8.5]]


@paths
@layouts
def test_the_result_lies_in_memory_as_the_second_does(path, order):
    x, y, share = on(path, torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5).contiguous(memory_format=order), torch.rand(2))
    with through(path):
        assert interpolate(x, y, share).stride() == y.stride()
        assert interpolate_drawn(x, y, 1, "a", torch.arange(2, device=x.device)).stride() == y.stride()


@paths
@pytest.mark.parametrize("shape", [(3, 1000), (1, 40_000)])
def test_the_deviation_far_from_zero(path, shape, monkeypatch):
    """A sum of squares in float32 would have lost it; with four programs each sweeps several times."""
    monkeypatch.setattr(reduction, "PROGRAMS", 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3000.0
    (given,) = on(path, x)
    with through(path):
        found = deviation(given)
        alike = deviation(torch.full_like(given, 0.1))
    assert found.item() == pytest.approx(x.double().std(correction=0).item(), rel=1e-5)
    assert alike.item() == pytest.approx(0, abs=1e-7)
    assert not found.requires_grad


@paths
def test_the_uniform_form_takes_the_deviation_of_its_batch(path):
    x, rows = on(path, torch.randn(5, 3, 4, 4), ROWS)
    with through(path):
        own = perturb_drawn(x, 1, "a", rows, form="uniform", scale=0.5)
        given = perturb_drawn(x, 1, "a", rows, form="uniform", scale=0.5, std=deviation(x))
    assert torch.equal(own, given)
    assert not torch.equal(own, x)


@paths
def test_the_gradient_of_noisy_images_is_passed_on(path):
    x, rows = on(path, torch.randn(5, 3, 4, 4), ROWS)
    x.requires_grad_()
    upstream = torch.randn_like(x)
    with through(path):
        for form in module.FORMS:
            (to_x,) = torch.autograd.grad(perturb_drawn(x, 1, "a", rows, form=form, scale=0.5), x, upstream)
            assert torch.equal(to_x, upstream)


def sample(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators(shape, dtype):
    x, y, share, rows = sample(*shape, dtype=dtype), sample(*shape, dtype=dtype), torch.rand(shape[0]), torch.arange(shape[0])
    last = [t.detach().to(memory_format=torch.channels_last).requires_grad_() if len(shape) == 4 else t for t in (x, y)]
    for pair in ((x, y), last):
        torch.library.opcheck(torch.ops.fastgan.interpolate.default, (*pair, share))
        torch.library.opcheck(torch.ops.fastgan.interpolate_drawn.default, (*pair, rows, -1, "a", 3))
    for sides in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.fastgan.interpolate_backward.default, (x, share, *sides))
    noise, std = torch.randn(shape).to(dtype), torch.tensor(0.5)
    for form, given in (
        ("given", (noise, share, std, None)),
        ("given", (noise, None, None, None)),
        ("normal", (None, None, None, rows)),
        ("uniform", (None, None, std, rows)),
    ):
        torch.library.opcheck(torch.ops.fastgan.perturb.default, (last[0], *given, 0.5, form, 7, "a", 3))
    torch.library.opcheck(torch.ops.fastgan.deviation.default, (x.detach(),))


@layouts
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(50, 3, 40, 33), (3, 3, 131, 129), (1, 2, 300, 300), (70001, 2, 1, 1)])
def test_large_half_precision_on_the_cpu_rounds_once(shape, dtype, order):
    """Sizes at which the CPU goes through it sample by sample, or in parts of which the last is a shorter one."""
    torch.manual_seed(0)
    x, y = (torch.randn(shape).to(dtype).contiguous(memory_format=order).requires_grad_() for _ in range(2))
    share = torch.rand(shape[0])
    share[0] = 1.0
    column = share.view(-1, 1, 1, 1)
    point = interpolate(x, y, share)
    assert point.stride() == y.stride()
    single = torch.lerp(y.float(), x.float(), column)
    assert torch.equal(point, single.to(dtype))
    drawn = interpolate_drawn(x, y, 3, "large", torch.arange(shape[0]))
    assert torch.equal(drawn, interpolate(x, y, philox.uniform(3, "large", torch.arange(shape[0]), 1).flatten()))
    upstream = torch.randn(shape).to(dtype).contiguous(memory_format=order)
    wanted = [(upstream.float() * part).to(dtype) for part in (column, 1 - column)]
    once = torch.autograd.grad(point, (x, y), upstream, retain_graph=True)
    again = torch.autograd.grad(point, (x, y), upstream.requires_grad_(), create_graph=True)
    for first, second, third in zip(once, again, wanted, strict=True):
        assert torch.equal(first, third)
        assert torch.equal(second, third)
    (twice,) = torch.autograd.grad(again[0].float().sum(), upstream)
    assert torch.equal(twice, column.to(dtype).expand(shape))
    (alone,) = torch.autograd.grad(interpolate(x.detach(), y, share), y, upstream.detach())
    assert torch.equal(alone, wanted[1])


@pytest.mark.parametrize("shape", [(50, 3, 40, 33), (3, 3, 131, 129)])
def test_operators_on_large_half_precision(shape):
    x, y = (sample(*shape, dtype=torch.bfloat16) for _ in range(2))
    torch.library.opcheck(torch.ops.fastgan.interpolate.default, (x, y, torch.rand(shape[0])))
    torch.library.opcheck(torch.ops.fastgan.interpolate_backward.default, (x, torch.rand(shape[0]), True, True))


def test_the_backward_of_the_backward_takes_sides_that_are_not_used():
    grad, share = sample(3, 5), torch.rand(3)
    to_x, to_y = torch.ops.fastgan.interpolate_backward(grad, share, True, True)
    upstream = torch.randn(3, 5)
    torch.testing.assert_close(torch.autograd.grad(to_x, grad, upstream, retain_graph=True)[0], share[:, None] * upstream)
    torch.testing.assert_close(torch.autograd.grad(to_y, grad, upstream)[0], (1 - share[:, None]) * upstream)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.int64)}, "x must be floating-point"),
        ({"x": torch.tensor(1.0)}, "x must be floating-point"),
        ({"y": torch.zeros(4, 2)}, "y must match x"),
        ({"y": torch.zeros(4, 3, dtype=torch.float64)}, "y must match x"),
        ({"share": torch.zeros(4, 1)}, r"share must be floating-point \(4,\)"),
        ({"share": torch.zeros(4, dtype=torch.int64)}, r"share must be floating-point \(4,\)"),
        ({"share": torch.zeros(4, requires_grad=True)}, "share is a constant"),
    ],
)
def test_wrong_pairs_are_named(change, message):
    given = {"x": torch.zeros(4, 3), "y": torch.zeros(4, 3), "share": torch.zeros(4)}
    interpolate(**given)  # right as they are
    with pytest.raises(ValueError, match=message):
        interpolate(**(given | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": torch.zeros(4, 2)}, "noise must match x"),
        ({"noise": torch.zeros(4, 3, requires_grad=True)}, "noise is a constant"),
        ({"share": torch.zeros(3)}, "share must be"),
        ({"std": torch.zeros(1)}, "std must be a floating-point scalar"),
        ({"std": torch.tensor(1)}, "std must be a floating-point scalar"),
        ({"std": torch.tensor(1.0, requires_grad=True)}, "std is a constant"),
    ],
)
def test_wrong_noise_is_named(change, message):
    given = {"x": torch.zeros(4, 3), "noise": torch.zeros(4, 3), "share": torch.zeros(4), "std": torch.tensor(1.0)}
    perturb(**given)
    with pytest.raises(ValueError, match=message):
        perturb(**(given | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "cauchy"}, "form must be one of normal, uniform, not 'cauchy'"),
        ({"form": "normal", "std": torch.tensor(1.0)}, "std is of the uniform form"),
        ({"rows": torch.arange(3)}, r"rows must be int64 \(4,\)"),
        ({"rows": torch.zeros(4)}, r"rows must be int64 \(4,\)"),
        ({"x": torch.empty(4, 2**31, device="meta"), "rows": torch.empty(4, dtype=torch.int64, device="meta")}, r"2\*\*31"),
    ],
)
def test_wrong_draws_are_named(change, message):
    given = {"x": torch.zeros(4, 3), "seed": 1, "purpose": "a", "rows": torch.arange(4), "form": "uniform", "scale": 0.5}
    perturb_drawn(**given)
    with pytest.raises(ValueError, match=message):
        perturb_drawn(**(given | change))
    with pytest.raises(ValueError, match="rows must be int64"):
        interpolate_drawn(torch.zeros(4, 3), torch.zeros(4, 3), 1, "a", torch.arange(3))
    with pytest.raises(ValueError, match="x must be floating-point"):
        deviation(torch.arange(3))
