"""Every operation on shapes, types and memory layouts that nobody thought of, against its formula in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operations import DEVICE, assert_agrees, results, wanted
from torch import Tensor

from fastgan.kernels.catalog import OPERATIONS
from fastgan.kernels.operation import Operation

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("as made", "turned", "with gaps", "shifted", "repeated")


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
def calls(draw, operation: Operation):
    """(example, arguments): an example of the operation's own small ones, at another shape, in another type and layout."""
    example = draw(st.sampled_from(operation.small))
    sizes = st.integers(1, 9) | st.sampled_from((16, 17, 32, 33))
    shape = (draw(st.integers(0, 5)), *(draw(sizes) for _ in example.shape[1:]))
    example = replace(example, shape=shape, dtype=draw(st.sampled_from(DTYPES)), channels_last=draw(st.booleans()))
    arguments = operation.arguments(example, DEVICE, draw(st.integers(0, 2**16)))
    layouts = {name: draw(st.sampled_from(LAYOUTS)) for name in operation.wrt if isinstance(arguments.get(name), Tensor)}
    return example, arguments | {name: laid_out(arguments[name], layout) for name, layout in layouts.items()}, layouts


def check(operation: Operation, call) -> None:
    example, arguments, _ = call
    local = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    for path in ("cpu", "kernel"):
        fresh = {n: v.clone() if isinstance(v, Tensor) and not operation.wrt else v for n, v in arguments.items()}
        given = fresh if path == "kernel" or DEVICE == "cpu" else local
        want = wanted(operation, example, {n: v.clone() if isinstance(v, Tensor) else v for n, v in local.items()})
        for got, expected in zip(results(operation, example, path, given), want, strict=True):
            assert_agrees(operation, got, expected)


def property_of(operation: Operation, examples: int):
    options = settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    options(given(calls(operation))(lambda call: check(operation, call)))()


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_a_few_random_calls(name):
    property_of(OPERATIONS[name], 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_two_hundred_random_calls(name):
    property_of(OPERATIONS[name], 200)
