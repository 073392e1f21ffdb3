"""Every operation of the catalogue, on the CPU's path and through its kernels, against its formula in float64.

Kernels run through Triton's interpreter on CPU tensors; with TRITON_INTERPRET=0 the same tests run them on the GPU.
"""

import ast
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from operations import DEVICE, PATHS, assert_agrees, reached, results, through, wanted
from torch import Tensor

from fastgan.kernels import catalog
from fastgan.kernels.catalog import OPERATIONS, calls_of
from fastgan.kernels.operation import gradients, in_dtype, outputs, widened
from fastgan.kernels.traffic import EagerTraffic, kernel_traffic

ROOT = Path(catalog.__file__).parent
PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CASES = [
    pytest.param(operation, example, id=f"{operation.name}-{number}-{example.title}")
    for operation in OPERATIONS.values()
    for number, example in enumerate(operation.small)
]
DIFFERENTIABLE = [case for case in CASES if case.values[0].wrt]
EXAMPLES = [
    pytest.param(operation, example, id=f"{operation.name}-{example}")
    for operation in OPERATIONS.values()
    for example in operation.examples
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize(("operation", "example"), CASES)
def test_agrees_with_the_formula_in_float64(operation, example, dtype, path):
    example = in_dtype(example, dtype)
    got, to_got = results(operation, example, path)
    want, to_want = wanted(operation, example)
    assert_agrees(operation, example, path, got, want)
    assert_agrees(operation, example, path, to_got, to_want)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("operation", "example"), DIFFERENTIABLE)
def test_any_layout_of_the_arguments(operation, example, path):
    """Transposed, and with gaps: a view of every other number of a larger tensor."""
    example = in_dtype(example, torch.float32)
    plain = operation.arguments(example, DEVICE if path == "kernel" else "cpu", 0)
    strange = {name: _with_gaps(value) if name in operation.wrt else value for name, value in plain.items()}
    for got, want in zip(results(operation, example, path, strange), wanted(operation, example), strict=True):
        assert_agrees(operation, example, path, got, want)


def _with_gaps(x: object) -> object:
    if not isinstance(x, Tensor):
        return x
    turned = x.transpose(0, -1)
    larger = torch.stack((turned, turned), dim=-1).contiguous()
    return larger[..., 0].transpose(0, -1)


@pytest.mark.parametrize(("operation", "example"), DIFFERENTIABLE)
def test_gradcheck(operation, example):
    given = widened(operation.arguments(example, "cpu", 0))
    names = [name for name in operation.wrt if isinstance(given.get(name), Tensor)]
    reached = zip(names, gradients(operation.fused, given, operation.wrt), strict=True)
    leaves = {name: given.pop(name).detach().requires_grad_() for name, gradient in reached if gradient is not None}
    count = sum(leaf.numel() for leaf in leaves.values())
    if not 0 < count <= 2000:
        pytest.skip("nothing to differentiate, or too much: the comparison with float64 has it")

    def function(*tensors):
        ys = outputs(operation.fused(**given, **dict(zip(leaves, tensors, strict=True))))
        return tuple(y for y in ys if y.requires_grad)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()), fast_mode=count > 300)
    if operation.twice:
        assert torch.autograd.gradgradcheck(function, tuple(leaves.values()), fast_mode=count > 300)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("operation", "example"), DIFFERENTIABLE)
def test_second_order_agrees_with_the_formula(operation, example, path):
    """The gradient of the squared gradients, through the very path that training takes."""
    if not operation.twice:
        pytest.skip("first order only")
    example = in_dtype(example, torch.float64)

    def twice(function, given):
        leaves = {n: given[n].detach().requires_grad_() for n in operation.wrt if isinstance(given.get(n), Tensor)}
        ys = [y for y in outputs(function(**(given | leaves))) if y.requires_grad]
        firsts = torch.autograd.grad(
            [y.double().square().sum() for y in ys], list(leaves.values()), create_graph=True, allow_unused=True
        )
        total = sum(first.square().sum() for first in firsts if first is not None)
        return torch.autograd.grad(total, list(leaves.values()), allow_unused=True)

    with through(path):
        got = twice(operation.fused, operation.arguments(example, DEVICE if path == "kernel" else "cpu", 0))
    want = twice(operation.formula, operation.arguments(example, "cpu", 0))
    assert_agrees(operation, example, path, list(got), list(want))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("operation", "example"), DIFFERENTIABLE)
def test_only_what_is_asked_for_gets_a_gradient(operation, example, path):
    example = in_dtype(example, torch.float64)
    present = [name for name in operation.wrt if isinstance(operation.arguments(example, "cpu", 0).get(name), Tensor)]
    whole = dict(zip(present, wanted(operation, example)[1], strict=True))
    for name in present:
        if whole[name] is None:
            continue
        given = operation.arguments(example, DEVICE if path == "kernel" else "cpu", 0)
        with through(path):
            (alone,) = gradients(operation.fused, given, (name,))
        assert_agrees(operation, example, path, [alone], [whole[name]])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("operation", "example"), CASES)
def test_the_same_bits_every_time(operation, example, path):
    example = in_dtype(example, torch.float32)
    first, second = (results(operation, example, path) for _ in range(2))
    for a, b in zip(first[0] + first[1], second[0] + second[1], strict=True):
        assert a is None or torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


@pytest.mark.parametrize(("operation", "example"), DIFFERENTIABLE)
def test_autocast_changes_nothing(operation, example):
    example = in_dtype(example, torch.float32)
    plain = results(operation, example, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        under = results(operation, example, "cpu")
    for a, b in zip(plain[0] + plain[1], under[0] + under[1], strict=True):
        assert a is None or (a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)))


@pytest.mark.parametrize(("operation", "example"), CASES)
def test_meta_tensors_give_the_shapes_types_and_layouts(operation, example):
    example = in_dtype(example, torch.bfloat16)
    real, real_grads = results(operation, example, "cpu")
    meta = operation.arguments(example, "meta", 0)
    shapes = outputs(operation.fused(**meta))
    grads = gradients(operation.fused, meta, operation.wrt) if operation.wrt else ()
    for a, b in zip([*real, *real_grads], [*shapes, *grads], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert a.stride() == b.stride() or not a.numel()


@pytest.mark.parametrize(("operation", "example"), EXAMPLES)
def test_kernels_move_little_more_than_they_must(operation, example):
    """Loads and stores of the interpreted kernels, forward and backward, at a shape a tenth as large or smaller."""
    if DEVICE == "cuda":
        pytest.skip("counts what the interpreter does")
    example = operation.shrunk(example)
    given = operation.arguments(example, "cpu", 0)
    forward, backward = operation.minimum(example)
    with kernel_traffic() as traffic:
        results(operation, example, "kernel", given)
    # `results` goes forward twice where there is a gradient.
    least = 2 * forward + backward if operation.wrt else forward
    assert traffic.bytes <= 1.1 * least
    assert traffic.bytes >= 0.4 * least, (
        "the stated minimum is far from one"
    )  # a frozen sample or a cut-out pixel moves nothing


@pytest.mark.parametrize("name", sorted(name for name, operation in OPERATIONS.items() if operation.share is not None))
def test_kernels_move_at_most_their_share_of_eager_bytes(name):
    operation = OPERATIONS[name]
    for example in operation.examples:
        given = operation.arguments(example, "meta", 0)
        with EagerTraffic() as eager:
            gradients(operation.eager, given, operation.wrt) if operation.wrt else operation.eager(**given)
        assert sum(operation.minimum(example)) <= operation.share * eager.bytes, example


@pytest.mark.parametrize(("operation", "example"), EXAMPLES)
def test_launches_can_be_recorded(operation, example):
    assert calls_of(operation, example)


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_offsets_past_two_to_the_31(name):
    """The last program of every launch, at a shape of more than 2**31 elements, touches each tensor within bounds, large ones
    past that place. Nothing is allocated: addresses are looked at, not used."""
    if DEVICE == "cuda":
        pytest.skip("looks at what the interpreter would touch")
    operation = OPERATIONS[name]
    example = operation.examples[0]
    batch = (2**31 + 2**22) // max(prod(example.shape[1:]), 1) + 3
    large = False
    for call in calls_of(operation, replace(example, shape=(batch, *example.shape[1:]))):
        for tensor, first, last in reached(call):
            assert first >= 0, call.kernel
            assert last < tensor.numel() * tensor.element_size(), call.kernel
            large |= last >= 2**31 * tensor.element_size()
    assert large


def test_names_are_unique():
    names = [launch.name for launch in catalog.launches()]
    assert len(set(names)) == len(names)
    assert all(len({str(e) for e in operation.examples}) == len(operation.examples) for operation in OPERATIONS.values())


def test_offsets_have_64_bits_and_reductions_no_atomics():
    """A program's number is widened where it is asked for; sums never depend on who comes first."""
    for path in ROOT.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wide = {
            id(node.func.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node).endswith(".to(tl.int64)")
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tl.program_id", "tl.num_programs"):
                assert id(node) in wide, f"{path.name}, line {node.lineno}"
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("atomic")), f"{path.name}, line {node.lineno}"
