"""What the tests of the catalogue share: a way through each path of an operation, and comparison with float64."""

from contextlib import nullcontext

import torch
import triton
from fastgan.kernels.launch import interpreting
from fastgan.kernels.operation import Arguments, Example, Operation, gradients, outputs, widened
from torch import Tensor

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
"""Where kernels run: interpreted here, or on the GPU with TRITON_INTERPRET=0."""

PATHS = ("cpu", "kernel")


def through(path: str):
    """Inside, operators on CPU tensors go this path."""
    return interpreting() if path == "kernel" and DEVICE == "cpu" else nullcontext()


def results(operation: Operation, example: Example, path: str, arguments: Arguments | None = None) -> tuple[list, list]:
    """Outputs and gradients of the fused operation on `path`."""
    given = arguments or operation.arguments(example, DEVICE if path == "kernel" else "cpu", 0)
    with through(path):
        grads = gradients(operation.fused, given, operation.wrt) if operation.wrt else ()
        return [y.detach() for y in outputs(operation.fused(**given))], list(grads)


def wanted(operation: Operation, example: Example, arguments: Arguments | None = None) -> tuple[list, list]:
    """The same of the formula, in float64 on the CPU, from arguments rounded to the example's dtype."""
    given = widened(arguments or operation.arguments(example, "cpu", 0))
    grads = gradients(operation.formula, given, operation.wrt) if operation.wrt else ()
    return [y.detach() for y in outputs(operation.formula(**given))], list(grads)


def assert_agrees(operation: Operation, got: list, want: list) -> None:
    """Values agree with float64 to what rounding to their own dtype explains; absent ones are absent in both."""
    assert len(got) == len(want)
    for place, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g is None) == (w is None), f"number {place} is missing in one"
        if isinstance(g, Tensor):
            rtol, atol = operation.agreement(g.dtype) if g.is_floating_point() else (0, 0)
            torch.testing.assert_close(
                g.cpu().double(),
                w.double(),
                rtol=rtol,
                atol=atol,
                equal_nan=True,
                msg=lambda text, p=place: f"number {p}: {text}",
            )
