"""Every operation on shapes, types and memory layouts that nobody thought of, against its formula in float64.

Of each, some calls are large: several programs share them, add up parts, and the last one runs over the end. After the slow
set a table of the calls and of the largest errors is printed, which docs/kernels.md has.
"""

from collections import Counter, defaultdict
from dataclasses import replace
from math import prod

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from operations import DEVICE, assert_agrees, results, wanted, worst
from torch import Tensor

from fastgan.kernels.catalog import OPERATIONS, calls_of
from fastgan.kernels.operation import Example, Operation

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("as made", "turned", "with gaps", "shifted", "repeated")
BLOCKS = (4096, 8192, 16384)
"""Of each operation that adds up parts, one of these is more than a program takes, or than a program of a sample takes."""
MOST = 2**11
"""Numbers of a call that is not large: it takes the interpreter some hundredths of a second."""

PATIENCE = 64
"""Programs of a launch that the interpreter goes through in some seconds."""


class Figures:
    """What the slow set found: calls of each operation, and its largest errors in units of the tolerance."""

    def __init__(self) -> None:
        self.calls, self.shared = Counter(), Counter()
        self.errors = defaultdict(float)

    def called(self, operation: Operation, programs: int) -> None:
        self.calls[operation.name] += 1
        self.shared[operation.name] += programs > 1

    def compared(self, operation: Operation, example: Example, path: str, got: tuple, want: tuple) -> None:
        for kind in range(2):
            at = operation.name, example.dtype, kind
            self.errors[at] = max(self.errors[at], worst(operation, example, path, got[kind], want[kind]))

    def table(self) -> str:
        lines = ["| operation | calls | of several programs | fp64 | fp32 | fp16 | bf16 |", "|---|---|---|---|---|---|---|"]
        for name, calls in self.calls.items():
            kinds = range(2 if OPERATIONS[name].wrt else 1)
            errors = [" / ".join(f"{self.errors[name, dtype, kind]:.2g}" for kind in kinds) for dtype in DTYPES]
            lines.append(f"| {' | '.join([name, str(calls), str(self.shared[name]), *errors])} |")
        return "\n".join(lines)


@pytest.fixture(scope="module")
def figures(request):
    found = Figures()
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{found.table()}\n")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers (all of one sample's, where they are "repeated") in another part and order of memory."""
    if layout == "turned":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "with gaps":
        return torch.stack((x, x), dim=-1)[..., 0]
    if layout == "shifted":  # begins where no allocation does: not at a multiple of 16 bytes
        return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)
    if layout == "repeated" and x.dim() > 1 and len(x):
        return x[:1].expand(x.shape)
    return x


@st.composite
def small_shapes(draw, like: tuple[int, ...]):
    """Up to five samples, sides around powers of two and below ten."""
    shape = [draw(st.integers(0, 5))]
    for _ in like[1:]:
        room = MOST // max(prod(shape), 1)
        sides = [size for size in (16, 17, 32, 33) if size <= room]
        few = st.integers(1, min(9, max(room, 1)))
        shape.append(draw(few | st.sampled_from(sides) if sides else few))
    return tuple(shape)


@st.composite
def large_shapes(draw, like: tuple[int, ...]):
    """Samples of some numbers more than a block, or more samples than one."""
    count = draw(st.sampled_from(BLOCKS)) + draw(st.integers(1, 40))
    if len(like) == 1:
        return (count,)
    if draw(st.integers(0, 4)) == 0:
        return (draw(st.integers(513, 600)), *[1] * (len(like) - 2), draw(st.integers(1, 9)))
    batch = draw(st.integers(1, 2))
    if len(like) == 2:
        return batch, count
    height = draw(st.sampled_from((1, 7, 65, 130)))
    return batch, *[1] * (len(like) - 4), draw(st.integers(1, 3)), height, -(-count // height)


@st.composite
def calls(draw, operation: Operation, large: bool):
    """(example, arguments, programs): an example of the operation's own small ones, at another shape, in another type and
    layout; and how many programs the largest of its launches has."""
    example = draw(st.sampled_from(operation.small))
    shape = draw((large_shapes if large else small_shapes)(example.shape))
    example = replace(example, shape=shape, dtype=draw(st.sampled_from(DTYPES)), channels_last=draw(st.booleans()))
    assume(operation.fits(example))
    programs = max((prod(call.grid) for call in calls_of(operation, example)), default=0)
    assume(1 < programs <= PATIENCE or not large)
    arguments = operation.arguments(example, DEVICE, draw(st.integers(0, 2**16)))
    layouts = {name: draw(st.sampled_from(LAYOUTS)) for name in operation.wrt if isinstance(arguments.get(name), Tensor)}
    if "repeated" in layouts.values():  # then a single sample has to do
        assume(operation.fits(replace(example, shape=(min(shape[0], 1), *shape[1:]))))

    def in_memory(arguments: dict) -> dict:
        return arguments | {name: laid_out(arguments[name], layout) for name, layout in layouts.items()}

    arguments = in_memory(arguments)
    if example.dtype.itemsize == 2:
        arguments = in_memory(operation.clear(arguments))
        assume(_same(operation.clear(arguments), arguments))  # not where samples that are one in memory would have to differ
    return example, arguments, programs


def _same(some: dict, others: dict) -> bool:
    return all(torch.equal(value, others[name]) for name, value in some.items() if isinstance(value, Tensor))


def check(operation: Operation, call: tuple, figures: Figures | None) -> None:
    example, arguments, programs = call
    local = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    for path in ("cpu", "kernel"):
        fresh = {n: v.clone() if isinstance(v, Tensor) and not operation.wrt else v for n, v in arguments.items()}
        given = fresh if path == "kernel" or DEVICE == "cpu" else local
        want = wanted(operation, example, {n: v.clone() if isinstance(v, Tensor) else v for n, v in local.items()})
        got = results(operation, example, path, given, once=True)
        if figures is not None:
            figures.compared(operation, example, path, got, want)
        for some, expected in zip(got, want, strict=True):
            assert_agrees(operation, example, path, some, expected)
    if figures is not None:
        figures.called(operation, programs)


def property_of(operation: Operation, examples: int, large: bool, figures: Figures | None = None):
    options = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # shrinking would keep the interpreter busy for minutes
    )
    options(given(calls(operation, large))(lambda call: check(operation, call, figures)))()


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_a_few_random_calls(name):
    property_of(OPERATIONS[name], 8, large=False)
    property_of(OPERATIONS[name], 1, large=True)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True], ids=["", "large"])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_two_hundred_random_calls(name, large, figures):
    property_of(OPERATIONS[name], 20 if large else 180, large, figures)
