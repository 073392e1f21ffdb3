"""Asking a network without changing it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, the modules' parameters take no gradient and their buffers are stand-ins, so nothing of them can move.

    A forward in training mode writes batch statistics and spectral vectors: here it writes to copies that are thrown away. On
    leaving, every buffer is the very tensor that it was, buffers that a forward has made are gone, and every
    `requires_grad` has its old value. Plain attributes are not watched: torch's older `spectral_norm` leaves its last
    normalised weight in one. TorchScript's modules keep their buffers, which can't be exchanged: have them in evaluation mode.

    Yields:
        A function that sets the stand-ins back to the true values, so that repeated forwards see the same network.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad and not p.is_inference()]
    parts = {part: None for module in modules for part in module.modules() if not isinstance(part, ScriptModule)}  # in order
    true = [(part, dict(part._buffers), set(part._non_persistent_buffers_set)) for part in parts]
    originals = {id(b): b for _, buffers, _ in true for b in buffers.values() if b is not None}  # a shared one is copied once
    stand_ins = {key: buffer.clone() for key, buffer in originals.items()}

    def place(tensors: dict[int, Tensor]) -> None:
        for part, buffers, local in true:
            part._buffers.clear()  # what a forward has registered goes too
            part._buffers.update((name, b if b is None else tensors[id(b)]) for name, b in buffers.items())
            part._non_persistent_buffers_set = set(local)

    def reset() -> None:
        place(stand_ins)
        if stand_ins:
            with torch.no_grad():
                torch._foreach_copy_(list(stand_ins.values()), list(originals.values()))

    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        place(stand_ins)
        yield reset
    finally:
        place(originals)
        for parameter in parameters:
            parameter.requires_grad_(True)
