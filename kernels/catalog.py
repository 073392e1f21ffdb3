"""The operations of this library. From this list come the numerical tests, the launches that are compiled ahead of time, the
table of docs/kernels.md, and `python -m bench.kernels`."""

from dataclasses import replace
from functools import cache

from . import consistency, ifgsm, norm_act, philox
from .launch import Launch, recording
from .operation import Example, Operation, gradients

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        consistency.OPERATION,
        ifgsm.OPERATION,
        *norm_act.OPERATIONS,
        *philox.OPERATIONS,
    )
}  # fmt: skip


@cache
def launches() -> tuple[Launch, ...]:
    """Every launch that the examples lead to, each once, named by operation, example and place in it."""
    found = {}
    for operation in OPERATIONS.values():
        for example in operation.examples:
            for number, launch in enumerate(launches_of(operation, example)):
                named = replace(launch, name=f"{operation.name} {example} #{number} {launch.kernel.rpartition('.')[2]}")
                found.setdefault(repr(replace(named, name="")), named)
    return tuple(found.values())


def launches_of(operation: Operation, example: Example) -> list[Launch]:
    """What the operation launches for the example, forward and backward, in order and without names. Nothing runs."""
    with recording() as recorded:
        arguments = operation.arguments(example, "meta", 0)
        if operation.wrt:
            gradients(operation.fused, arguments, operation.wrt)
        else:
            operation.fused(**arguments)
    return recorded
