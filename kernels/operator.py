"""Operators of `torch.library`, each with a path for the CPU, one that launches kernels, and one for fake tensors."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch

from .launch import taken


def operator(
    name: str, *, cpu: Callable[..., Any], kernels: Callable[..., Any], fake: Callable[..., Any], mutates: Sequence[str] = ()
) -> torch.library.CustomOpDef:
    """Registers fastgan::`name`; the annotations of `cpu` are its schema.

    Autocast passes it by: operators take tensors as they come, and say in their file what they compute in.

    Args:
        cpu: the path for CPU tensors, vectorised torch.
        kernels: the path for CUDA tensors.
        fake: gives empty results of the right shape, dtype and layout.
        mutates: the arguments that are written.

    Returns:
        the operator, to be called and to be given its gradient (`register_autograd`).
    """

    @wraps(cpu)
    def on_cpu(*arguments):
        return kernels(*arguments) if taken() else cpu(*arguments)

    @wraps(cpu)
    def on_fake(*arguments):
        return kernels(*arguments) if taken() else fake(*arguments)

    registered = torch.library.custom_op(f"fastgan::{name}", on_cpu, mutates_args=tuple(mutates), device_types="cpu")
    registered.register_kernel("cuda")(kernels)
    registered.register_fake(on_fake)
    return registered
