"""What the tests of the catalogue share: a way through each path of an operation, and comparison with float64."""

import inspect
from contextlib import nullcontext

import numpy as np
import torch
import triton
from torch import Tensor

from fastgan.kernels.launch import Call, interpreting
from fastgan.kernels.operation import Arguments, Example, Operation, cotangent, gradients, leaves_of, outputs, widened

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
"""Where kernels run: interpreted here, or on the GPU with TRITON_INTERPRET=0."""

PATHS = ("cpu", "kernel")


def through(path: str):
    """Inside, operators on CPU tensors go this path."""
    return interpreting() if path == "kernel" and DEVICE == "cpu" else nullcontext()


def results(
    operation: Operation, example: Example, path: str, arguments: Arguments | None = None, once: bool = False
) -> tuple[list, list]:
    """Outputs and gradients of the fused operation on `path`: of two passes, the one without a gradient, or `once` of one."""
    given = arguments or operation.arguments(example, DEVICE if path == "kernel" else "cpu", 0)
    with through(path):
        if once and operation.wrt:
            leaves = leaves_of(given, operation.wrt)
            found = outputs(operation.fused(**(given | leaves)))
            some = [y for y in found if y.requires_grad]
            grads = torch.autograd.grad(some, list(leaves.values()), list(map(cotangent, some)), allow_unused=True)
            return [y.detach() for y in found], list(grads)
        grads = gradients(operation.fused, given, operation.wrt) if operation.wrt else ()
        return [y.detach() for y in outputs(operation.fused(**given))], list(grads)


def wanted(operation: Operation, example: Example, arguments: Arguments | None = None) -> tuple[list, list]:
    """The same of the formula, in float64 on the CPU, from arguments rounded to the example's dtype."""
    given = widened(arguments or operation.arguments(example, "cpu", 0))
    grads = gradients(operation.formula, given, operation.wrt) if operation.wrt else ()
    return [y.detach() for y in outputs(operation.formula(**given))], list(grads)


def reached(call: Call) -> list[tuple[Tensor, int, int]]:
    """The bytes that the last program of a recorded call would touch: each tensor, its first and last byte's offset. The
    interpreter walks through the program; a load gives zeros and a store goes nowhere."""
    from triton.runtime import interpreter

    builder, stand_ins, touched = interpreter.interpreter_builder, {}, {}

    def stand_in(argument: object) -> object:
        if isinstance(argument, tuple):
            return tuple(map(stand_in, argument))
        if not isinstance(argument, Tensor):
            return argument
        # Apart by more than any tensor's size, so that an address says whose it is. Never used as one.
        address = (len(stand_ins) + 1) << 44
        stand_ins[address] = argument
        return _Address(address, argument.dtype)

    def note(ptrs, mask) -> None:
        size = ptrs.get_element_ty().primitive_bitwidth // 8
        for at in (ptrs.data[mask.data].min(), ptrs.data[mask.data].max()) if mask.data.any() else ():
            owner = (int(at) + (1 << 43)) >> 44 << 44
            first, last = touched.get(owner, (int(at), int(at)))
            touched[owner] = min(first, int(at)), max(last, int(at) + size - 1)

    def load(ptrs, mask, *rest):
        note(ptrs, mask)
        dtype = ptrs.get_element_ty()
        return interpreter.TensorHandle(np.zeros(ptrs.data.shape, interpreter._get_np_dtype(dtype)), dtype)

    builder.create_masked_load = load
    builder.create_masked_store = lambda ptrs, value, mask, *rest: note(ptrs, mask)
    grid = (*call.grid, 1, 1)[:3]
    function = call.kernel.rewrite()
    scope = interpreter._patch_lang(function)
    try:
        arguments = [stand_in(argument) for argument in call.arguments]
        executor = interpreter.GridExecutor(function, call.kernel.arg_names, grid)
        bound = inspect.getcallargs(function, *arguments, **call.constexprs)
        bound = {n: a if n in executor.constexprs else interpreter._implicit_cvt(a) for n, a in bound.items()}
        builder.set_grid_dim(*grid)
        builder.set_grid_idx(*(size - 1 for size in grid))
        function(**bound)
    finally:
        scope.restore()
        del builder.create_masked_load, builder.create_masked_store
    return [(stand_ins[owner], first - owner, last - owner) for owner, (first, last) in touched.items()]


class _Address:
    """What the interpreter asks of a tensor."""

    def __init__(self, address: int, dtype: torch.dtype) -> None:
        self.address, self.dtype = address, dtype

    def data_ptr(self) -> int:
        return self.address


def assert_agrees(operation: Operation, example: Example, path: str, got: list, want: list) -> None:
    """Values agree with float64 up to what rounding to their own dtype explains; absent ones are absent in both."""
    assert len(got) == len(want)
    for place, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g is None) == (w is None), f"number {place} is missing in one"
        if isinstance(g, Tensor):
            rtol, atol = operation.agreement(g.dtype, example, path == "kernel") if g.is_floating_point() else (0, 0)
            torch.testing.assert_close(
                g.cpu().double(),
                w.double(),
                rtol=rtol,
                atol=atol,
                equal_nan=True,
                msg=lambda text, p=place: f"number {p}: {text}",
            )


def worst(operation: Operation, example: Example, path: str, got: list, want: list) -> float:
    """The largest difference from float64 among floating-point results, in units of what `assert_agrees` allows."""
    shares = [0.0]
    for g, w in zip(got, want, strict=True):
        if isinstance(g, Tensor) and g.is_floating_point() and g.numel():
            rtol, atol = operation.agreement(g.dtype, example, path == "kernel")
            g, w = g.cpu().double(), w.double()
            off = torch.where((g == w) | (g.isnan() & w.isnan()), 0.0, (g - w).abs() / (atol + rtol * w.abs()))
            shares.append(off.max().item())
    return max(shares)
