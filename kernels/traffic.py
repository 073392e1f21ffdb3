"""Bytes that code moves through memory, counted while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class EagerTraffic(TorchDispatchMode):
    """Inside, `bytes` counts what torch's operations read and write: every tensor that one takes is read once, every one that
    it gives is written once.

    Views cost nothing, and what a broadcast tensor repeats is counted once. Operations that sweep twice over their input, like
    a batch norm, count once: the number is a lower bound. Works on meta tensors, so that no shape is too large.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self.bytes += moved(function, args, kwargs, result)
        return result


def moved(function, args: tuple, kwargs: dict, result) -> int:
    """Bytes that one operation reads and writes, as `EagerTraffic` counts them."""
    if is_free(function):
        return 0
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if function in _OVERWRITING:
        given = given[1:]
    return sum(map(touched, given)) + sum(map(touched, written))


def is_free(function) -> bool:
    """Whether an operation touches no memory: a view, or an allocation."""
    return function.is_view or function in _FREE


_aten = torch.ops.aten
_FREE = {
    _aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default, _aten.empty_strided.default,
    _aten.new_empty_strided.default, _aten._unsafe_view.default, _aten.detach.default, _aten.lift_fresh.default,
}  # fmt: skip
_OVERWRITING = {_aten.copy_.default, _aten.fill_.Scalar, _aten.fill_.Tensor, _aten.zero_.default}


def touched(x: Tensor) -> int:
    """Bytes of memory that hold x: a broadcast dimension has one copy."""
    elements = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        elements *= size if stride or not size else 1
    return elements * x.element_size()


class KernelTraffic:
    """Bytes that interpreted kernels loaded and stored. A masked lane moves nothing; what is loaded twice counts twice."""

    def __init__(self) -> None:
        self.loaded = 0
        self.stored = 0

    @property
    def bytes(self) -> int:
        return self.loaded + self.stored


@contextmanager
def kernel_traffic() -> Iterator[KernelTraffic]:
    """Counts the loads and stores of every kernel that Triton's interpreter runs inside (TRITON_INTERPRET=1)."""
    from triton.runtime.interpreter import interpreter_builder as builder

    traffic = KernelTraffic()
    load, store = builder.create_masked_load, builder.create_masked_store

    def counted_load(ptrs, mask, *rest):
        traffic.loaded += int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8
        return load(ptrs, mask, *rest)

    def counted_store(ptrs, value, mask, *rest):
        traffic.stored += int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8
        return store(ptrs, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = counted_load, counted_store
    try:
        yield traffic
    finally:
        del builder.create_masked_load, builder.create_masked_store  # the class's own again
