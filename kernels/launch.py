"""The one door through which kernels are launched: there a launch can be noted instead, for any GPU, on any machine.

On CUDA tensors a launch runs. Inside `interpreting` operators take it on CPU tensors too, where Triton's interpreter runs it
(TRITON_INTERPRET=1). Inside `recording` nothing runs: the same launchers are walked through with meta tensors, and what each
launch would tell Triton's compiler is kept, to be compiled ahead of time. So what is inspected is what is launched.
"""

import inspect
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8", torch.int8: "i8", torch.bool: "i1",
}  # fmt: skip
_ANNOTATED = {"fp64": "fp64", "fp32": "fp32", "uint64": "u64", "uint32": "u32", "int64": "i64", "int32": "i32"}
_ALIGNMENT = 16


@dataclass(frozen=True)
class Launch:
    """What a launch tells the compiler. Holds plain values alone, so that it travels as JSON."""

    name: str  # who launches it: operation, example, and pass
    kernel: str  # "file.function" below fastgan.kernels; by name, for another process may have to load it uninterpreted
    types: dict[str, str]  # of the arguments that are passed; "name.0", "name.1", ... of one that is a tuple
    constexprs: dict[str, Any]  # the others: known when compiling, None for an absent tensor
    aligned: tuple[str, ...]  # arguments that are multiples of 16
    warps: int


@dataclass(frozen=True)
class Call:
    """A call of `launch`, kept in the place of running it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    warps: int
    constexprs: dict[str, Any]


_interpreting = False
_recorded: list[Call] | None = None


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, warps: int, **constexprs: Any) -> None:
    """Launches `kernel` with `arguments` (tensors, None for absent ones, tuples of both, numbers) in its parameters' order.

    Args:
        grid: one to three numbers of programs; with none to run, nothing is launched.
        warps: of 32 threads, a program.
        constexprs: the parameters known when compiling.
    """
    if any(size == 0 for size in grid):
        return
    if _recorded is not None:
        _recorded.append(Call(kernel, tuple(grid), arguments, warps, constexprs))
        return
    device = next(argument.device for argument in _flat(arguments) if isinstance(argument, Tensor))
    # Without fused multiply-adds a kernel rounds as its reference does; Triton's own default changes with 3.10.
    options = {**constexprs, "num_warps": warps, "enable_fp_fusion": False}
    if device.type != "cuda":
        kernel[tuple(grid)](*arguments, **options)
        return
    with torch.cuda.device(device):  # Triton launches on the current device
        kernel[tuple(grid)](*arguments, **options)


def taken() -> bool:
    """Whether operators shall take their kernels, whatever the device of their tensors."""
    return _interpreting or _recorded is not None


@contextmanager
def interpreting() -> Iterator[None]:
    """Inside, operators take their kernels on CPU tensors too."""
    global _interpreting
    before, _interpreting = _interpreting, True
    try:
        yield
    finally:
        _interpreting = before


@contextmanager
def recording() -> Iterator[list[Call]]:
    """Inside, launches are added to the list in the place of running. Call operators with meta tensors."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def noted(call: Call, name: str) -> Launch:
    """What the call would tell the compiler."""
    function: types.FunctionType = call.kernel.fn
    unspecialised = set(_options(call.kernel).get("do_not_specialize") or ())
    passed, fixed, aligned = {}, dict(call.constexprs), []
    parameters = inspect.signature(function).parameters.values()
    named = []
    for parameter, argument in zip(parameters, call.arguments, strict=False):
        inner = enumerate(argument) if isinstance(argument, tuple) else ()
        named += [(parameter, f"{parameter.name}.{i}", part) for i, part in inner] or [(parameter, parameter.name, argument)]
    for parameter, parameter_name, argument in named:
        if isinstance(argument, Tensor):
            passed[parameter_name] = "*" + _NAMES[argument.dtype]
            if argument.storage_offset() * argument.element_size() % _ALIGNMENT == 0:  # as PyTorch's allocations are
                aligned.append(parameter_name)
        elif argument is None:
            fixed[parameter_name] = None
        elif isinstance(argument, bool):
            passed[parameter_name] = "i1"
        elif (annotated := getattr(parameter.annotation, "name", None)) in _ANNOTATED:
            passed[parameter_name] = _ANNOTATED[annotated]
        elif isinstance(argument, float):
            passed[parameter_name] = "fp32"
        elif argument == 1 and parameter_name not in unspecialised:  # Triton compiles the number in
            fixed[parameter_name] = 1
        else:
            passed[parameter_name] = "i32" if -(2**31) <= argument < 2**31 else "i64"
            if argument % _ALIGNMENT == 0 and parameter_name not in unspecialised:
                aligned.append(parameter_name)
    kernel_name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    return Launch(name, kernel_name, passed, fixed, tuple(aligned), call.warps)


def _flat(arguments: Sequence[Any]) -> Iterator[Any]:
    for argument in arguments:
        yield from argument if isinstance(argument, tuple) else (argument,)


def _options(kernel: Any) -> dict[str, Any]:
    return kernel.kwargs if hasattr(kernel, "kwargs") else vars(kernel)  # of an interpreted kernel, of a compiled one
