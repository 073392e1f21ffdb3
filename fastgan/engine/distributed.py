"""The processes that share a run: who this one is, and what they agree on.

A launcher (`deepspeed`, torchrun, mpirun) starts one process a device and tells each its number in the environment. Whoever is
started without one is alone: nothing is set up, and every method below is free.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from fastgan.checked import UserError

LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # deepspeed, torchrun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # mpirun
)
"""Variables that say a process's number, how many there are, and its number on its machine; the first whole row counts."""

Value = TypeVar("Value")


class LoneError(UserError):
    """A mistake that one rank has found while the others wait for it in a collective operation: they can't be told."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share a run, seen from one of them. What a method says of all ranks, all must call, in one order."""

    rank: int = 0
    count: int = 1
    host: "distributed.ProcessGroup | None" = None
    """Over gloo, for what lies in the host's memory: nobody waits for a device."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.count == 1:
            return flag
        votes = torch.tensor(int(flag))
        distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self.host)
        return bool(votes)

    def told(self, value: Value) -> Value:
        """The first rank's value, on every rank."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.host)
        return values[0]

    def gathered(self, value: Value) -> list[Value] | None:
        """Every rank's value, in order, on the first rank; None on the others. Tensors on the CPU."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.first else None
        distributed.gather_object(value, values, dst=0, group=self.host)
        return values

    def in_turn(self, own: Iterator[Value], number: int) -> Iterator[Value]:
        """What the ranks have made of `number` pieces of work, piece k by rank k mod count, in order: on the first rank. On the
        others there is nothing to see, but they must run through it to the end.

        Args:
            own: this rank's pieces; among several ranks, tensors on the CPU.
        """
        if self.count == 1:
            yield from own
            return
        for first in range(0, number, self.count):
            pieces = self.gathered((next(own),) if first + self.rank < number else ())
            if self.first:
                yield from (piece for each in pieces for piece in each)
        next(own, None)  # to its end, with all that it does there

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What any rank finds wrong inside stops all of them behind it, with the words of the lowest such rank.

        No collective operation may stand inside: a rank that has failed does not come to it.

        Raises:
            UserError: a rank raised it, or an OSError.
        """
        if self.count == 1:
            yield
            return
        wrong = None
        try:
            yield
        except UserError as error:
            wrong = str(error)
        except OSError as error:
            wrong = f"{error.filename or 'the system'}: {error.strerror or error}"
        found: list[str | None] = [None] * self.count
        distributed.all_gather_object(found, wrong, group=self.host)
        for rank, text in enumerate(found):
            if text is not None:
                raise UserError(text if rank == 0 else f"rank {rank}: {text}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What this rank finds wrong inside ends it with words of its own; the launcher ends the others.

        Raises:
            LoneError: this rank raised a UserError, and there are others.
        """
        try:
            yield
        except UserError as error:
            if self.count == 1 or isinstance(error, LoneError):
                raise
            raise LoneError(f"rank {self.rank}: {error}") from None

    def neighbours(self, size: int) -> "distributed.ProcessGroup | None":
        """The group of this rank and its neighbours, `size` in all, which divides the count; None for all ranks. For tensors on
        the run's device."""
        if size == self.count:
            return None
        groups = [distributed.new_group(range(first, first + size)) for first in range(0, self.count, size)]
        return groups[self.rank // size]

    def mean(self, x: Tensor) -> Tensor:
        """The mean of x over the ranks, with the gradient of the identity: of a loss computed from it, the mean of the ranks'
        gradients is the whole batch's."""
        if self.count == 1:
            return x
        whole = x.detach().clone()
        distributed.all_reduce(whole)
        return x + (whole / self.count - x.detach())

    def gather(self, x: Tensor) -> Tensor:
        """The rows of x, (B, ...), of all ranks in their order, (count * B, ...). Of a loss computed from it, the same on every
        rank, the mean of the ranks' gradients is the whole batch's: each rank's rows get `count` times their gradient."""
        return x if self.count == 1 else _Gather.apply(x, self.rank, self.count)

    def pool(self, x: Tensor) -> Tensor:
        """The rows of x, (B, ...), of all ranks in their order, (count * B, ...), where each rank makes of them a loss of its
        own: a rank's rows get the sum of the gradients that all ranks have for them."""
        return x if self.count == 1 else _Pool.apply(x, self.rank, self.count)

    @torch.no_grad()
    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in one all-reduce; they share a device and a type."""
        if self.count == 1 or not tensors:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(whole)
        parts = whole.div_(self.count).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, count: int) -> Tensor:
        ctx.rank, ctx.count = rank, count
        whole = x.new_empty(count * len(x), *x.shape[1:])
        distributed.all_gather_into_tensor(whole, x.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.count * gradient.chunk(ctx.count)[ctx.rank], None, None


class _Pool(_Gather):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(whole)
        return whole.chunk(ctx.count)[ctx.rank], None, None


ALONE = Ranks()


def rank_here() -> int:
    """This process's number as its launcher gives it, 0 where there is none."""
    return _numbers()[0]


def join(device: torch.device, even_alone: bool = False) -> Ranks:
    """Meet the other processes of this run, over NCCL on CUDA and gloo on the CPU, and choose this one's CUDA device.

    The group is left when the process ends; called again it is the same.

    Args:
        device: what the run computes on.
        even_alone: make a group of one, too, for libraries that ask for one.

    Raises:
        UserError: the launcher's numbers make no sense, a rank has no device of its own, or the others can't be reached.
    """
    rank, count, local = _numbers()
    if device.type == "cuda" and count > 1:
        if local >= torch.cuda.device_count():
            raise UserError(
                f"rank {rank} is process {local} of its machine, which has {torch.cuda.device_count()} CUDA devices"
            )
        torch.cuda.set_device(local)
    if count == 1 and not even_alone:
        return ALONE
    os.environ["LOCAL_RANK"] = str(local)  # DeepSpeed asks for it, whoever was the launcher
    if not distributed.is_initialized():
        where = {"init_method": _meeting_place()} if count > 1 else {"store": distributed.HashStore()}
        try:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=count, **where)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"rank {rank} of {count} can't reach the others: {str(error).splitlines()[0]}") from None
        atexit.register(_leave)
    return Ranks(rank, count, _host_group())


def _numbers() -> tuple[int, int, int]:
    for names in LAUNCHERS:
        if all(name in os.environ for name in names[:2]):
            try:
                rank, count, local = (int(os.environ.get(name, "0")) for name in names)
            except ValueError:
                raise UserError(f"{', '.join(names)} in the environment should be whole numbers") from None
            if not 0 <= rank < count:
                raise UserError(f"{names[0]} is {rank} and {names[1]} is {count} in the environment: there is no such rank")
            return rank, count, local
    return 0, 1, 0


def _meeting_place() -> str:
    """Where the ranks meet: MASTER_ADDR and MASTER_PORT, which mpirun does not set; on one machine none need be named."""
    if "MASTER_ADDR" in os.environ:
        return f"tcp://{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '29500')}"
    if os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == os.environ.get("OMPI_COMM_WORLD_SIZE"):
        return f"tcp://127.0.0.1:{os.environ.get('MASTER_PORT', '29500')}"
    raise UserError("ranks on several machines need MASTER_ADDR, the host name of rank 0, in the environment")


_HOST: list[distributed.ProcessGroup] = []


def _host_group() -> distributed.ProcessGroup:
    if not _HOST:
        _HOST.append(distributed.new_group(backend="gloo"))
    return _HOST[0]


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
