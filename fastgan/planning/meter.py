"""Counting what torch's operations compute, move and keep, one by one, while they run or only seem to."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fastgan.kernels.launch import Call
from fastgan.kernels.traffic import is_free, moved, touched


@dataclass(frozen=True)
class Place:
    """Where in a round an operation stands."""

    phase: str
    """Of the game: D, G, Dreg16, ...; "" outside of all."""
    part: str
    """What is done in it: see `rehearsal.PARTS`."""
    micro: int = -1
    """Which micro-batch of the turn; -1 for what a turn does once."""


NOWHERE = Place("", "other")


@dataclass
class Meter(TorchDispatchMode):
    """Inside, every operation is noted: its work, its bytes, and what memory is taken when it has run.

    Args:
        launches: the list of `fastgan.kernels.launch.recording`, where kernels are not run but noted: their bytes are then
            those of the launches. It is emptied.
    """

    launches: list[Call] | None = None
    place: Place = NOWHERE
    places: list[Place] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    """Of convolutions and matrix products (torch's own formulas); nothing else counts."""
    convolution: list[bool] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    """Read and written: every argument once, every result once (`fastgan.kernels.traffic`)."""
    kernel_bytes: list[int] = field(default_factory=list)
    """Of these, by fastgan's own kernels."""
    started: list[int] = field(default_factory=list)
    """What the operation starts on a device: 0 for views, 1, or a kernel library's launches."""
    live: list[int] = field(default_factory=list)
    """Bytes of all storages that were seen and are still held, once the operation's results are there."""
    shared: list[int] = field(default_factory=list)
    """Bytes that ranks would sum here, were batch statistics theirs together: batch norm's sums."""

    def __post_init__(self) -> None:
        super().__init__()
        self.held = self.at_rest = 0
        """Bytes held now, and when the counting began."""
        self._storages: dict[int, weakref.ref] = {}

    def __hash__(self) -> int:
        return id(self)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        if function.namespace in _ASKED:
            return result
        packet = function._overloadpacket
        calls, ours = [], function.namespace == "fastgan"
        if self.launches:
            calls = list(self.launches)
            self.launches.clear()
        kernel = sum(_touched_by(call) for call in calls)
        counted = not is_free(function)
        self.places.append(self.place)
        self.flops.append(flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0)
        self.convolution.append("convolution" in function._schema.name)
        self.bytes.append(kernel if ours and calls else moved(function, args, kwargs, result) if counted else 0)
        self.kernel_bytes.append(kernel)
        self.started.append(len(calls) if ours and calls else int(counted))
        self.live.append(self.held)
        self.shared.append(_batch_statistics(function, args, result))
        return result

    def see(self, tensor: Tensor) -> None:
        """Count the tensor's memory until nobody holds it."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._storages.get(key)
        if known is not None and known() is storage:
            return

        def gone(_: object) -> None:
            self.held -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, gone)
        self.held += size

    @contextmanager
    def at(self, phase: str | None = None, part: str | None = None, micro: int | None = None) -> Iterator[None]:
        """Inside, operations stand there; what is None stays as it is."""
        before = self.place
        self.move(phase, part, micro)
        try:
            yield
        finally:
            self.place = before

    def move(self, phase: str | None = None, part: str | None = None, micro: int | None = None) -> None:
        """From here on operations stand there."""
        here = self.place
        self.place = Place(
            here.phase if phase is None else phase, here.part if part is None else part, here.micro if micro is None else micro
        )

    def forget(self) -> None:
        """Begin anew; what is held now stays counted."""
        for name in ("places", "flops", "convolution", "bytes", "kernel_bytes", "started", "live", "shared"):
            getattr(self, name).clear()
        if self.launches is not None:
            self.launches.clear()
        self.at_rest = self.held

    def column(self, name: str) -> np.ndarray:
        """One of the lists above as float64."""
        return np.array(getattr(self, name), dtype=np.float64)


_ASKED = {"prim", "profiler"}
"""Namespaces of what reaches a dispatch mode and is no work: a fake tensor's device, a profiler's marks."""


def _touched_by(call: Call) -> int:
    return sum(touched(leaf) for leaf in tree_leaves(call.arguments) if isinstance(leaf, Tensor))


def _batch_statistics(function: torch._ops.OpOverload, args: tuple, result: object) -> int:
    """Count, sum and sum of squares of each channel in float64 forward, two sums in fp32 backward (`networks.across_ranks`)."""
    if function.namespace != "fastgan":
        return 0
    name = function._schema.name.partition("::")[2]
    if name == "batch_norm_act":
        return 3 * 8 * args[0].shape[1]
    if name == "norm_act_backward":
        computed = args[_COMPUTED]
        return 2 * 4 * args[1].shape[1] if computed else 0
    return 0


_COMPUTED = 10
"""Which argument of norm_act_backward says that the statistics were the batch's own."""
