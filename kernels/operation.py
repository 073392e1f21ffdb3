"""What the catalogue knows of an operation: how it is called, what it is checked and measured against, and on what."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Example:
    """One way to call an operation."""

    title: str  # what the reader knows it by: "BigGAN 128x128"
    shape: tuple[int, ...]  # of the operation's main tensor
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)  # what else `Operation.arguments` is to know

    def __str__(self) -> str:
        dtype = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[self.dtype]
        return " ".join([self.title, dtype, *(["channels-last"] if self.channels_last else [])])

    def tensor(self, device: str, seed: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers, drawn in float64 so that every dtype gets the same; channels last where the example is and
        `shape` has four dimensions. Empty on "meta"."""
        shape, dtype = shape or self.shape, dtype or self.dtype
        if device == "meta":
            x = torch.empty(shape, dtype=dtype, device=device)
        else:
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).to(device)
        last = self.channels_last and len(shape) == 4
        return x.contiguous(memory_format=torch.channels_last) if last else x


@dataclass(frozen=True)
class Operation:
    """One operation of the library."""

    name: str
    summary: str  # one line for docs/kernels.md
    arguments: Callable[[Example, str, int], Arguments]
    """(example, device, seed) -> keyword arguments of the three below. Tensors of `wrt` need not require grad yet."""
    fused: Callable[..., Outputs]
    """The operation."""
    eager: Callable[..., Outputs]
    """The code that people write for it, differentiable by autograd: what it is measured against."""
    minimum: Callable[[Example], tuple[int, int]]
    """Bytes that the kernels must move: forward, and backward (0 where there is none)."""
    wrt: tuple[str, ...]
    """The arguments that get gradients."""
    examples: tuple[Example, ...]
    """As training calls it. The first of every list is what the CPU is timed on."""
    small: tuple[Example, ...]
    """Odd, empty and tiny ones that reach every branch, in float64: what it is tested on."""
    reference: Callable[..., Outputs] | None = None
    """The formula as it stands, where `eager` is another thing or is not finite everywhere; differentiable, any dtype."""
    twice: bool = True
    """Whether second derivatives exist and are tested."""
    fits: Callable[[Example], bool] = lambda example: True
    """Whether `arguments` can make an example of this shape: random ones are asked."""
    clear: Callable[[Arguments], Arguments] = lambda arguments: arguments
    """The same arguments with what lies within rounding of a kink moved off it: there half precision has either slope."""
    share: float | None = None
    """The most that the kernels may move, forward and backward, as a part of what eager code moves; None: nothing promised."""
    tolerance: Mapping[torch.dtype, tuple[float, float]] = field(default_factory=dict)
    """dtype -> (relative, absolute) agreement with float64 where it isn't TOLERANCE's, with a reason beside it."""
    slack: Callable[[Example], float] = lambda example: 1.0
    """Factor of the absolute tolerance of the CPU's path in half precision, at least 1: where it adds up numbers that it
    rounded before, as eager code does, their errors grow with the root of the count. Kernels round what they store."""

    @property
    def formula(self) -> Callable[..., Outputs]:
        return self.reference or self.eager

    def shrunk(self, example: Example) -> Example:
        """The example at a shape that the interpreter can walk through: at most 2 samples, 64 channels or columns and 16 pixels
        a side."""
        batch, *rest = example.shape
        limits = [64, 16, 16] if len(rest) == 3 else [4096] * len(rest)
        return replace(example, shape=(min(batch, 2), *map(min, rest, limits)))

    def agreement(self, dtype: torch.dtype, example: Example, kernel: bool) -> tuple[float, float]:
        """(relative, absolute) difference from float64 that rounding explains in a result of this type, of the kernels or of
        the CPU's path."""
        relative, absolute = self.tolerance.get(dtype, TOLERANCE[dtype])
        return relative, absolute * (self.slack(example) if dtype.itemsize == 2 and not kernel else 1.0)


# Half precision rounds its inputs exactly alike in both; what it stores is rounded once, and Triton's interpreter truncates
# bfloat16 in the place of rounding: a whole unit in the last place, 2**-7.
TOLERANCE = {
    torch.float64: (1e-10, 1e-12),
    torch.float32: (1e-5, 1e-6),
    torch.float16: (2**-10, 2**-14),
    torch.bfloat16: (2**-7, 2**-10),
}


def outputs(result: Outputs) -> tuple[Tensor, ...]:
    """What an operation returned, as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def gradients(
    function: Callable[..., Outputs], arguments: Arguments, wrt: tuple[str, ...], seed: int = 1
) -> tuple[Tensor | None, ...]:
    """Gradients of the outputs, each weighted with fixed random numbers, towards those arguments in `wrt` that are tensors;
    None for one that the outputs don't depend on."""
    leaves = leaves_of(arguments, wrt)
    given = [y for y in outputs(function(**(arguments | leaves))) if y.requires_grad]
    return torch.autograd.grad(given, list(leaves.values()), [cotangent(y, seed) for y in given], allow_unused=True)


def training_pass(function: Callable[..., Outputs], arguments: Arguments, wrt: tuple[str, ...]) -> Callable[[], None]:
    """What a training step does with the function, to be timed or counted: forward, and backward where there is `wrt`. All that
    it needs beside the arguments was made before."""
    leaves = leaves_of(arguments, wrt)
    if not leaves:
        return lambda: (function(**arguments), None)[1]
    upstream = [cotangent(y) for y in outputs(function(**(arguments | leaves))) if y.requires_grad]

    def run() -> None:
        given = [y for y in outputs(function(**(arguments | leaves))) if y.requires_grad]
        torch.autograd.grad(given, list(leaves.values()), upstream, allow_unused=True)

    return run


def leaves_of(arguments: Arguments, wrt: tuple[str, ...]) -> dict[str, Tensor]:
    """Those arguments in `wrt` that are tensors, as leaves that require a gradient."""
    return {name: arguments[name].detach().requires_grad_() for name in wrt if isinstance(arguments.get(name), Tensor)}


def cotangent(y: Tensor, seed: int = 1) -> Tensor:
    """Fixed random numbers of y's shape, dtype and layout: the same ones in every dtype, so with bfloat16's eight bits."""
    if y.device.type == "meta":
        return torch.empty_like(y)
    numbers = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(y).copy_(numbers.bfloat16())


def widened(arguments: Arguments) -> Arguments:
    """The same arguments with every floating-point tensor in float64."""
    return {name: _wide(value) for name, value in arguments.items()}


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return tuple(map(_wide, value)) if isinstance(value, tuple) else value


def in_dtype(example: Example, dtype: torch.dtype) -> Example:
    """The example in another dtype."""
    return replace(example, dtype=dtype)
