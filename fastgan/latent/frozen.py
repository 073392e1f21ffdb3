"""Asking a network without changing it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, the modules' parameters take no gradient and their buffers are stand-ins, so nothing of them can move.

    A forward in training mode writes batch statistics and spectral vectors: here it writes to copies that are thrown away. On
    leaving, every buffer is the very tensor that it was and every `requires_grad` has its old value.

    Yields:
        A function that sets the stand-ins back to the true values, so that repeated forwards see the same network.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    owners = {
        (part, name): buffer
        for module in modules
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    }
    true = list(owners.values())
    stand_ins = [buffer.clone() for buffer in true]

    def reset() -> None:
        with torch.no_grad():
            for stand_in, buffer in zip(stand_ins, true, strict=True):
                stand_in.copy_(buffer)

    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for (part, name), stand_in in zip(owners, stand_ins, strict=True):
            part._buffers[name] = stand_in
        yield reset
    finally:
        for (part, name), buffer in owners.items():
            part._buffers[name] = buffer
        for parameter in parameters:
            parameter.requires_grad_(True)
