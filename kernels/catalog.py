"""The operations of this library. From this list come the numerical tests, the launches that are compiled ahead of time, the
table of docs/kernels.md, and `python -m bench.kernels`."""

from dataclasses import replace
from functools import cache

from . import (
    augment,
    consistency,
    gradient_penalty,
    ifgsm,
    image_error,
    interpolate,
    latent_step,
    mode_seeking,
    norm_act,
    philox,
    sample_norm,
    scores,
)
from .launch import Call, Launch, noted, recording
from .operation import Example, Operation, training_pass

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        augment.OPERATION,
        consistency.OPERATION,
        *gradient_penalty.OPERATIONS,
        ifgsm.OPERATION,
        image_error.OPERATION,
        *interpolate.OPERATIONS,
        latent_step.OPERATION,
        mode_seeking.OPERATION,
        *norm_act.OPERATIONS,
        *philox.OPERATIONS,
        *sample_norm.OPERATIONS,
        *scores.OPERATIONS,
    )
}  # fmt: skip


@cache
def launches() -> tuple[Launch, ...]:
    """Every launch that the examples lead to, each once, named by operation, example and place in it."""
    found = {}
    for operation in OPERATIONS.values():
        for example in operation.examples:
            for number, call in enumerate(calls_of(operation, example)):
                launch = noted(call, f"{operation.name} {example} #{number} {call.kernel.fn.__name__}")
                found.setdefault(repr(replace(launch, name="")), launch)
    return tuple(found.values())


def calls_of(operation: Operation, example: Example) -> list[Call]:
    """What the operation launches for the example, forward and backward, in order. Nothing runs."""
    with recording() as recorded:
        training_pass(operation.fused, operation.arguments(example, "meta", 0), operation.wrt)()
    return recorded
