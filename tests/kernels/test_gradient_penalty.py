"""Gradient penalties and gradient-normalised scores: what the tests of the catalogue can't know of them.

Kernels run through Triton's interpreter on CPU tensors; with TRITON_INTERPRET=0 the same tests run them on the GPU.
"""

import math

import pytest
import torch
from operations import DEVICE, PATHS, through
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan.kernels import gradient_penalty as module
from fastgan.kernels.ahead_of_time import compile_launches
from fastgan.kernels.gradient_penalty import (
    FORMS,
    KINDS,
    gradient_normalised_score,
    gradient_norms,
    gradient_penalty,
    gradient_penalty_reference,
)
from fastgan.kernels.launch import noted, recording

paths = pytest.mark.parametrize("path", PATHS)
kinds = pytest.mark.parametrize("kind", KINDS)
forms = pytest.mark.parametrize("form", FORMS)


def device(path: str) -> str:
    return DEVICE if path == "kernel" else "cpu"


def leaf(values, path: str, dtype=torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device(path)).requires_grad_()


def first_and_second(function, x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of function(x), and that of the gradient's product with 1, 2, 3, ..."""
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    weights = torch.arange(1.0, x.numel() + 1, dtype=x.dtype, device=x.device).view_as(x)
    if not first.requires_grad:
        return first, torch.zeros_like(x)
    (second,) = torch.autograd.grad((first * weights).sum(), x, allow_unused=True)
    return first.detach(), torch.zeros_like(x) if second is None else second


# Norms 5, 13 and 0.5 against the target 1, by hand.
BY_HAND = [[3.0, 4.0], [5.0, -12.0], [0.3, 0.4]]


@paths
@pytest.mark.parametrize(
    ("kind", "value", "slopes"),
    [
        ("two-sided", (16 + 144 + 0.25) / 3, [2 * 4 / 5 / 3, 2 * 12 / 13 / 3, 2 * -0.5 / 0.5 / 3]),
        ("one-sided", (16 + 144) / 3, [2 * 4 / 5 / 3, 2 * 12 / 13 / 3, 0]),
        ("zero-centred", (25 + 169 + 0.25) / 3, [2 / 3] * 3),
        ("power", (125 + 2197 + 0.125) / 3, [3 * 5 / 3, 3 * 13 / 3, 3 * 0.5 / 3]),
        ("max", 169, [0, 2, 0]),
    ],
)
def test_penalties_by_hand(kind, value, slopes, path):
    grad = leaf(BY_HAND, path)
    with through(path):
        penalty = gradient_penalty(grad, kind, power=3.0)
        (to_grad,) = torch.autograd.grad(penalty, grad)
    assert penalty.item() == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(to_grad.cpu(), torch.tensor(BY_HAND) * torch.tensor(slopes)[:, None], rtol=1e-5, atol=1e-6)


@paths
def test_norms_and_scores_by_hand(path):
    grad, score = leaf(BY_HAND, path), leaf([5.0, -2.0, 0.0], path)
    with through(path):
        norms = gradient_norms(grad)
        gn = gradient_normalised_score(score, grad)
        gran = gradient_normalised_score(score, grad, "gran", eps=0.75)
        (to_grad,) = torch.autograd.grad(norms, grad, torch.ones_like(norms), retain_graph=True)
        to_score, through_norm = torch.autograd.grad(gn.sum(), (score, grad))
    torch.testing.assert_close(norms.tolist(), [5.0, 13.0, 0.5], rtol=1e-6, atol=0)
    torch.testing.assert_close(to_grad.tolist(), [[0.6, 0.8], [5 / 13, -12 / 13], [0.6, 0.8]], rtol=1e-6, atol=0)
    torch.testing.assert_close(gn.tolist(), [0.5, -2 / 15, 0.0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gran.tolist(), [5 * 5 / 25.75, -2 * 13 / 169.75, 0.0], rtol=1e-6, atol=0)
    torch.testing.assert_close(to_score.tolist(), [5 / 100, 13 / 225, 2.0], rtol=1e-6, atol=0)  # n / (n + |D|)^2
    torch.testing.assert_close(through_norm[0].tolist(), [-5 / 100 * 0.6, -5 / 100 * 0.8], rtol=1e-6, atol=0)


@paths
@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("power", [1.0, 1.5, 3.0, 6.0])
def test_where_the_gradient_vanishes_its_derivatives_do(kind, dtype, power, path):
    """Some samples, and all of them."""
    for values in ([[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0]] * 3):
        grad = leaf(values, path, dtype)
        with through(path):
            penalty = gradient_penalty(grad, kind, power=power)
            first, second = first_and_second(lambda g: gradient_penalty(g, kind, power=power), grad)
        assert penalty.isfinite()
        assert (first[0] == 0).all()
        assert first.isfinite().all()
        assert second.isfinite().all()
        if kind not in ("zero-centred", "max"):
            assert (second[0] == 0).all()


@paths
def test_the_square_is_smooth_where_the_gradient_vanishes(path):
    """n^2 by any name: its second derivative is 2 everywhere."""
    for arguments in ({"kind": "zero-centred"}, {"target": 0.0}, {"kind": "power", "power": 2.0}):
        grad = leaf([[0.0, 0.0], [3.0, 4.0]], path, torch.float64)
        with through(path):
            _, second = first_and_second(lambda g, arguments=arguments: gradient_penalty(g, **arguments), grad)
        torch.testing.assert_close(second.tolist(), [[1.0, 2.0], [3.0, 4.0]])  # 2 / B times the weights


@paths
@forms
def test_scores_where_nothing_is_left_are_0_without_nan(form, path):
    score, grad = leaf([0.0, 0.0, 2.0], path), leaf([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], path)
    with through(path):
        found = gradient_normalised_score(score, grad, form)
        firsts = torch.autograd.grad(found.sum(), (score, grad), create_graph=True)
        seconds = torch.autograd.grad(sum(f.square().sum() for f in firsts), (score, grad))
    assert found[:2].tolist() == [0, 0]
    assert found[2].item() == (1 if form == "gn" else 0)
    assert all(t.isfinite().all() for t in (*firsts, *seconds))
    assert firsts[0][0] == 0
    assert (firsts[1][0] == 0).all()
    assert (firsts[1][2] == 0).all()


@paths
@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e-22, 1e-10, 1e10, 1e18])
def test_norms_whose_squares_leave_single_precision(size, path):
    grad = leaf([[3.0, 4.0], [1.0, 0.0]], path).mul(size).detach().requires_grad_()
    with through(path):
        norms = gradient_norms(grad)
        (to_grad,) = torch.autograd.grad(norms, grad, torch.ones_like(norms))
    torch.testing.assert_close((norms / size).tolist(), [5.0, 1.0], rtol=1e-5, atol=0)
    torch.testing.assert_close(to_grad.tolist(), [[0.6, 0.8], [1.0, 0.0]], rtol=1e-5, atol=0)


@paths
@pytest.mark.parametrize("kind", ["two-sided", "one-sided", "power"])
def test_tiny_gradients_are_pulled_up_and_bend(kind, path):
    """Norms of 5e-22, where D is sure of itself: first and second derivatives as the formula has them in float64."""
    arguments = {"kind": kind, "target": 1.0 if kind == "two-sided" else 1e-22, "power": 1.0}
    tiny = torch.tensor([[3e-22, 4e-22], [1e-22, 1e-22]])
    want = first_and_second(lambda g: gradient_penalty_reference(g, **arguments), tiny.double().requires_grad_())
    with through(path):
        got = first_and_second(lambda g: gradient_penalty(g, **arguments), tiny.to(device(path)).requires_grad_())
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.cpu().double(), w, rtol=1e-4, atol=0)


@paths
@kinds
def test_the_smallest_numbers_make_no_nan(kind, path):
    grad = leaf([[1e-44, 0.0], [1e-40, 1e-45], [1.0, 1.0]], path)
    with through(path):
        first, second = first_and_second(lambda g: gradient_penalty(g, kind, power=1.0) * 1000, grad)
    assert first.isfinite().all()
    assert not second.isnan().any()


@paths
@kinds
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_gradient_is_seen(kind, broken, path):
    """In the penalty, and in the gradient of its own sample; the others keep theirs."""
    grad = leaf([[3.0, 4.0], [broken, 1.0], [6.0, 8.0]], path)
    with through(path):
        penalty = gradient_penalty(grad, kind, power=3.0)
        (to_grad,) = torch.autograd.grad(penalty, grad)
    assert not penalty.isfinite()
    assert not to_grad[1].isfinite().all()
    assert to_grad[::2].isfinite().all()


@paths
def test_the_first_of_equal_maxima_gets_the_gradient(path):
    count = 2 * module.FINISHING
    grad = torch.zeros(count, 2, device=device(path))
    grad[0, 0], grad[7, 0], grad[8, 1], grad[count - 1, 0] = 1.0, 3.0, -3.0, 3.0
    grad.requires_grad_()
    with through(path):
        (to_grad,) = torch.autograd.grad(gradient_penalty(grad, "max"), grad)
    assert to_grad[7].tolist() == [6, 0]
    assert to_grad.count_nonzero() == 1


@paths
@pytest.mark.parametrize(
    "shape", [(1, 5 * module.PROGRAMS + 3), (3, 4 * module.BLOCK + 5), (2 * module.FINISHING + 1, 2), (1, 1)]
)
def test_rows_of_any_length(shape, path):
    """Half precision is widened: the CPU's path does so sample by sample here, and in pieces with something left over."""
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    with through(path):
        found = gradient_norms(grad.to(device(path)))
    torch.testing.assert_close(found.cpu().double(), grad.double().norm(dim=1), rtol=2e-7, atol=0)


def test_half_precision_is_widened_by_the_megabyte(monkeypatch):
    monkeypatch.setattr(module, "COPIED", 3000)
    grad = torch.randn(5, 1400, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(gradient_norms(grad).double(), grad.double().norm(dim=1), rtol=2e-7, atol=0)


def test_rows_are_split_into_few_configurations():
    sizes = [(batch, columns) for batch in (1, 2, 7, 16, 64, 256, 4096) for columns in (1, 3072, 12288, 49152, 786432, 2**24)]
    assert {module.parts(*size) for size in sizes} == {1, 4, 16, 64, 256, 1024}
    for batch, columns in sizes:
        assert module.parts(batch, columns) * module.BLOCK <= max(columns, module.BLOCK)
        assert batch * module.parts(batch, columns) < max(4 * module.PROGRAMS, batch + 1)
    for columns in (0, 1, 2, 100, 512, 513, 5000):
        rows, block = module.tile(columns, 4)
        assert rows == 1 or rows * block == module.SHORT
        assert block >= min(columns, module.BLOCK)


class Convolutional(nn.Module):
    """A D with second derivatives, in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, 7, 3)
        self.layers = nn.Sequential(first, nn.Softplus(), second, nn.Tanh(), nn.Flatten(), nn.Linear(63, 1)).double()

    def forward(self, x):
        return self.layers(x).squeeze(1)


@paths
@kinds
@pytest.mark.parametrize("channels_last", [False, True])
def test_weight_gradients_of_a_penalised_network(kind, channels_last, path):
    """WGAN-GP and R1 as training has them: the penalty on a gradient that has a graph."""
    network = Convolutional().to(device(path))
    x = torch.randn(4, 3, 11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device(path))
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x

    def weights(penalty):
        images = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        return torch.autograd.grad(penalty(grad), list(network.parameters())[:-1], allow_unused=True)

    arguments = {"kind": kind, "target": 0.01, "power": 6.0}
    with through(path):
        got = weights(lambda grad: gradient_penalty(grad, **arguments))
    want = weights(lambda grad: gradient_penalty_reference(grad, **arguments))
    assert sum(w is not None and w.abs().max() > 1e-8 for w in want) >= 4
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-13)


@paths
@forms
def test_a_normalised_network_trains_and_refines(form, path):
    """The normalised score's gradient towards weights and towards images, and of the latter towards weights."""
    network = Convolutional().to(device(path))
    x = torch.randn(4, 3, 11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device(path))

    def everything(normalise):
        images = x.detach().requires_grad_()
        score = network(images)
        (grad,) = torch.autograd.grad(score.sum(), images, create_graph=True)
        normalised = normalise(score, grad)
        (to_images,) = torch.autograd.grad(normalised.sum(), images, create_graph=True)
        parameters = list(network.parameters())
        to_weights = torch.autograd.grad(normalised.square().sum(), parameters, retain_graph=True)
        return [to_images.detach(), *to_weights, *torch.autograd.grad(to_images.square().sum(), parameters)]

    def eager(score, grad):
        norm = grad.flatten(1).square().sum(1).sqrt()
        return score / (norm + score.abs()) if form == "gn" else score * norm / (norm**2 + 0.1)

    with through(path):
        got = everything(lambda score, grad: gradient_normalised_score(score, grad, form))
    for g, w in zip(got, everything(eager), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-13)


@paths
def test_a_gradient_that_repeats_one_number(path):
    """D linear: autograd may hand over a gradient without memory of its own."""
    grad = torch.ones(1, 1, device=device(path)).expand(3, 16).requires_grad_()
    with through(path):
        penalty = gradient_penalty(grad, target=1.0)
        (to_grad,) = torch.autograd.grad(penalty, grad)
    assert penalty.item() == pytest.approx(9)
    torch.testing.assert_close(to_grad.cpu(), torch.full((3, 16), 2 * 3 / 4 / 3))


@kinds
def test_on_the_cpu_the_operator_gives_what_goes_past_it(kind):
    grad = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    around = gradient_penalty(grad, kind, power=3.0)
    through_it = torch.ops.fastgan.gradient_penalty(grad, kind, 1.0, 3.0)[0]
    assert around.grad_fn.name() != through_it.grad_fn.name()
    assert torch.equal(around, through_it)
    assert torch.equal(*(torch.autograd.grad(y, grad)[0] for y in (around, through_it)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_operators(dtype):
    images = torch.randn(3, 2, 5, 7).to(dtype).contiguous(memory_format=torch.channels_last)
    grad, other = images.requires_grad_(), torch.randn(3, 2, 5, 7).to(dtype).requires_grad_()
    of_samples = [torch.randn(3, requires_grad=True) for _ in range(2)]
    for kind in KINDS:
        torch.library.opcheck(torch.ops.fastgan.gradient_penalty.default, (grad, kind, 1.0, 3.0))
    torch.library.opcheck(torch.ops.fastgan.gradient_norms.default, (grad,))
    torch.library.opcheck(torch.ops.fastgan.row_dot.default, (grad, other))
    torch.library.opcheck(torch.ops.fastgan.row_scale.default, (grad, *of_samples))
    torch.library.opcheck(torch.ops.fastgan.row_scale.default, (grad, of_samples[0], torch.randn((), requires_grad=True)))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_fake_tensors_pass(kind):
    with FakeTensorMode():
        grad = torch.empty(4, 3, 8, 8, device=kind, dtype=torch.bfloat16).requires_grad_()
        penalty = gradient_penalty(grad)
        scores = gradient_normalised_score(torch.empty(4, device=kind), grad)
        to_grad = torch.ops.fastgan.row_scale(grad, scores, penalty)  # autograd's engine would ask for the device
    assert (penalty.shape, penalty.dtype, penalty.device.type) == ((), torch.float32, kind)
    assert (to_grad.shape, to_grad.dtype) == (grad.shape, torch.bfloat16)
    assert scores.shape == (4,)


def test_second_order_compiles_ahead_of_time():
    """The catalogue's examples are of first order: these are the launches of the second."""
    with recording() as calls:
        grad = torch.empty(64, 3, 64, 64, device="meta").requires_grad_()
        (first,) = torch.autograd.grad(gradient_penalty(grad), grad, create_graph=True)
        torch.autograd.grad(first, grad, torch.empty_like(first))
    named = [noted(call, f"{number} {call.kernel.fn.__name__}") for number, call in enumerate(calls)]
    reports = compile_launches(named, ["sm_90"])
    products = [report for report in reports if report.kernel.endswith("dot_kernel") and report.loads >= 8]
    assert products, "no product of two tensors"
    for report in reports:
        assert (report.spills, report.stack, report.local) == (0, 0, 0), report
        assert 0 < report.registers <= 128, report
        assert report.widest_load == 16, report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "three-sided"}, "kind must be one of two-sided, one-sided, zero-centred, power, max, not 'three-sided'"),
        ({"target": -1.0}, "target must be finite and at least 0, not -1"),
        ({"target": math.nan}, "target must be finite and at least 0, not nan"),
        ({"target": math.inf}, "target must be finite"),
        ({"power": 0.5}, "power must be finite and at least 1, not 0.5"),
        ({"power": math.nan}, "power must be finite"),
        ({"grad": torch.zeros(())}, r"a gradient is a floating-point \(B, ...\) tensor, not torch.float32 \(\)"),
        ({"grad": torch.zeros(2, 3, dtype=torch.int64)}, "a gradient is a floating-point"),
        ({"grad": torch.zeros(2, 3, dtype=torch.complex64)}, "a gradient is a floating-point"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    given = {"grad": torch.ones(2, 3), "kind": "power"}
    gradient_penalty(**given)  # right as they are
    with pytest.raises(ValueError, match=message):
        gradient_penalty(**(given | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "gann"}, "form must be one of gn, gran, not 'gann'"),
        ({"eps": 0.0}, "eps must be finite and above 0, not 0.0"),
        ({"eps": math.nan}, "eps must be finite and above 0"),
        ({"score": torch.zeros(3)}, r"score must be floating-point \(2,\) on cpu, not torch.float32 \(3,\) on cpu"),
        ({"score": torch.zeros(2, 1)}, "score must be floating-point"),
        ({"score": torch.zeros(2, dtype=torch.int64)}, "score must be floating-point"),
        ({"grad": torch.zeros(())}, "a gradient is a floating-point"),
    ],
)
def test_wrong_arguments_of_the_score_are_named(change, message):
    given = {"score": torch.ones(2), "grad": torch.ones(2, 3), "form": "gran"}
    gradient_normalised_score(**given)
    with pytest.raises(ValueError, match=message):
        gradient_normalised_score(**(given | change))


def test_norms_of_what_is_no_gradient_are_refused():
    with pytest.raises(ValueError, match="a gradient is a floating-point"):
        gradient_norms(torch.zeros(2, 3, dtype=torch.int32))
