"""What a run takes on so many GPUs: memory, time, traffic and money, from a round's `Work` and a GPU's data sheet.

A round's time is the longer of what the devices do and what the hosts start, and then, as nothing overlaps in `LocalEngine`,
what the ranks tell each other; unless images come in more slowly. Sums over n ranks go round a ring:

    seconds = 2 (n - 1) / n  bytes / bandwidth  +  2 log2(n) latency

Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009); the second part is a tree's,
as NCCL uses one for little data. Over machines a ring of each adapter shares the work, so that a machine's adapters add up.

What is divided by ZeRO stage, for P parameters of a player in fp32, over n ranks (Rajbhandari et al. 2020, section 5, and what
DeepSpeed holds beside it): see `held`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, log2
from typing import Any

from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.config import Engine as EngineSettings
from fastgan.planning.gpus import GPUS, MACHINE, Gpu, precision_on
from fastgan.planning.work import Work
from fastgan.training.loop import check_batch_norm, zero_stage

EFFICIENCY = 0.5
"""Share of the data sheet's rate that products reach, where none is given: an assumption."""
SHARE_OF_LINK = 0.8
"""What collective operations reach of links and adapters: an assumption."""
LATENCY = 5e-6
"""Seconds of a step of a collective operation, whatever its size: an assumption."""
DECODE_RATE = 10_000.0
"""Images/s that reach a GPU, where none is given: eight threads at two thirds of what one was measured to decode, crop and
resize to 128 px (docs/data.md)."""
RESERVED = 2e9
"""Bytes of a GPU that CUDA, its libraries and NCCL keep: an assumption."""
FRAGMENTED = 0.05
"""Share on top of what tensors hold that the allocator can't use: an assumption."""
BUCKET = 500_000_000
"""Elements of the buffer in which DeepSpeed gathers gradients from stage 1 on (its default, `reduce_bucket_size`)."""
MOST = 2**21 - 1
"""Samples of a micro-batch: no more are tried."""
UNVERIFIED = "not verified on a GPU"


@dataclass(frozen=True)
class Held:
    """Bytes of one GPU that are there whatever the batch."""

    weights: float
    """Both players' fp32 weights; at stage 3 the GPU's share, and all of them while they are used."""
    copies: float
    """ZeRO's rows of fp32 weights that the optimiser steps."""
    moments: float
    """Adam's two, fp32."""
    average: float
    """The averaged network."""
    gradients: float
    """Those that stay, and those of the player with more of them."""
    buffers: float
    """In which gradients are summed over ranks: those that stay, and the larger of those that a turn has."""

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Point:
    """A run on so many GPUs."""

    gpus: int
    batch_size: int
    micro_batch: int
    accumulate: int
    device_seconds: float
    """Of a round: products and memory."""
    memory_seconds: float
    """The part of it in which memory is waited for."""
    host_seconds: float
    """In which a round's operations are started."""
    communication_seconds: float
    gradient_bytes: float
    """All-reduced in a round by each rank: gradients, and where ZeRO divides weights, those."""
    statistics_bytes: float
    """All-reduced in a round by each rank: batch statistics."""
    data_seconds: float
    """In which a round's images are decoded, beside all else."""
    round_seconds: float
    images_per_second: float
    """Real images."""
    days: float
    memory: float
    """Bytes at the fullest moment, with what the GPU keeps to itself."""
    fits: bool
    mfu: float
    """Work in products by the round's time and the data sheet's rate."""
    cost: float | None
    """Of the run, at the price that was given."""

    @property
    def bound(self) -> str:
        """What the round waits for longest."""
        products = self.device_seconds - self.memory_seconds
        host = self.host_seconds if self.host_seconds > self.device_seconds else 0.0
        parts = {
            "data": self.data_seconds if self.data_seconds >= self.round_seconds else 0.0,
            "communication": self.communication_seconds,
            "launches": host,
            "memory": 0.0 if host else self.memory_seconds,
            "products": 0.0 if host else products,
        }
        return max(parts, key=parts.__getitem__)


@dataclass(frozen=True)
class Machine:
    """What a run is planned on, and what is assumed of it."""

    gpu: Gpu
    precision: str
    efficiency: float = EFFICIENCY
    network: float | None = None
    """Bytes/s of a whole machine to others, in one direction; None: the data sheet's."""
    decode_rate: float | None = DECODE_RATE
    """Images/s that reach a GPU; None: as many as are asked for."""
    price: float | None = None
    """Of a GPU for an hour."""

    def bus(self, ranks: int) -> float:
        """Bytes/s that a ring of so many ranks moves."""
        between = self.gpu.network * MACHINE if self.network is None else self.network
        return SHARE_OF_LINK * (self.gpu.link if ranks <= MACHINE else min(self.gpu.link, between))

    def all_reduce(self, size: float, ranks: int, times: float = 1.0) -> float:
        """Seconds in which `size` bytes of each rank are summed, in so many goes."""
        if ranks == 1 or not times:
            return 0.0
        return 2 * (ranks - 1) / ranks * size / self.bus(ranks) + times * 2 * ceil(log2(ranks)) * LATENCY


def stages(config: Config, zero: int) -> dict[str, int]:
    """Player -> its ZeRO stage where `zero` is asked for: a second-order term keeps its player at 2."""
    asked = replace(config, engine=EngineSettings(kind="deepspeed", zero_stage=zero))
    return {player: zero_stage(asked, player) for player in config.players}


def held(work: Work, zero: int, ranks: int) -> Held:
    """What each GPU holds at a ZeRO stage.

        stage   weights         copies    moments   gradients        buffers
        0       4 P             0         8 P       4 P              4 P (n > 1: the gradients, side by side)
        1       4 P             4 P / n   8 P / n   4 P              a bucket, two with overlap_comm
        2       4 P             4 P / n   8 P / n   4 P / n          a bucket, two with overlap_comm
        3       4 P / n + 4 P   4 P / n   8 P / n   4 P / n, stays   a bucket, stays

    That is DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py `setup_buckets`, stage3.py `_setup_for_real_optimizer`): at stages 1
    and 2 a player's buckets and gradients are there in its own turn, so those of the player that has more count; at stage 3
    each player's stay, and both count. A bucket has `reduce_bucket_size` elements of the user's JSON, however few the
    parameters. The second 4 P of stage 3 is what is gathered: all of it at the fullest moment, as weights that are soon asked
    again are kept. The average is whole on every rank. With `engine.offload` copies, moments and the divided gradients are the
    host's; with `offload_param` in the JSON the divided weights too.
    """
    engines = _engines(work, zero, ranks).values()
    return Held(
        weights=sum(engine.weights for engine in engines),
        copies=sum(engine.copies for engine in engines),
        moments=sum(engine.moments for engine in engines),
        average=4.0 * work.averaged,
        gradients=sum(engine.kept_gradients for engine in engines) + max(engine.gradients for engine in engines),
        buffers=sum(engine.kept_buffers for engine in engines) + max(engine.buffers for engine in engines),
    )


@dataclass(frozen=True)
class _Held:
    """Bytes that the engine of one player holds on one GPU."""

    stage: int
    weights: float
    copies: float
    moments: float
    gradients: float
    """In its player's turns."""
    buffers: float
    """In its player's turns."""
    kept_gradients: float
    """In the other's too."""
    kept_buffers: float
    """In the other's too."""


def _engines(work: Work, zero: int, ranks: int) -> dict[str, _Held]:
    """Player -> what its engine holds; see `held`."""
    settings, offloaded = work.deepspeed.get("zero_optimization", {}), work.config.engine.offload == "cpu"
    if not isinstance(settings, dict):
        raise UserError(f"engine.deepspeed_json: zero_optimization must be a section, not {settings!r}")
    elsewhere = isinstance(there := settings.get("offload_param"), dict) and there.get("device", "none") != "none"
    bucket = number_in(settings, "reduce_bucket_size", BUCKET)
    joined = settings.get("contiguous_gradients", True)
    found = {}
    for player, stage in stages(work.config, zero).items():
        size = 4.0 * work.players[player].parameters
        share = size / ranks
        gradients = 0.0 if offloaded and stage >= 2 else share if stage >= 2 else size
        if stage == 3:
            buffers = _bytes_sent(work) * bucket if joined else 0.0
        elif stage and (joined or offloaded):
            buffers = 4.0 * bucket * (2 if settings.get("overlap_comm") else 1)
        else:  # side by side for a moment
            buffers = min(size, 4.0 * bucket) if stage else size if ranks > 1 else 0.0
        found[player] = _Held(
            stage,
            weights=size + share if stage == 3 and not elsewhere else size,
            copies=share if stage and not offloaded else 0.0,
            moments=2 * (size if not stage else 0.0 if offloaded else share),
            gradients=gradients if stage < 3 else 0.0,
            buffers=buffers if stage < 3 else 0.0,
            kept_gradients=gradients if stage == 3 else 0.0,
            kept_buffers=buffers if stage == 3 else 0.0,
        )
    return found


def _bytes_sent(work: Work) -> int:
    """Of an element of a gradient between ranks."""
    return 2 if work.deepspeed.get("communication_data_type") in ("bf16", "fp16") else 4


def number_in(settings: Mapping[str, Any], name: str, default: float) -> float:
    """The number of this name in the `zero_optimization` of a DeepSpeed configuration.

    Raises:
        UserError: it is none, or not above 0.
    """
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"engine.deepspeed_json: zero_optimization.{name} must be a number above 0, not {value!r}")
    return value


def memory(work: Work, zero: int, ranks: int, micro_batch: int, accumulate: int) -> float:
    """Bytes of one GPU at the fullest moment of a round, with what is reserved and fragmented."""
    here = held(work, zero, ranks)
    whole = held(work, 0, 1)
    engines = _engines(work, zero, ranks)
    rest = work.at_rest - whole.weights - whole.moments - whole.average  # buffers
    rest += here.weights + here.copies + here.moments + here.average
    rest += sum(engine.kept_gradients + engine.kept_buffers for engine in engines.values())
    fullest = 0.0
    for player, peak in work.peaks(micro_batch, accumulate).items():
        engine, gradients = engines[player], 4.0 * work.players[player].parameters
        if engine.stage >= 2 and accumulate > 1:  # all of them were there when the rehearsal's fullest moment came
            peak += engine.gradients - gradients
        stepping = engine.gradients + engine.buffers
        fullest = max(fullest, stepping, peak + (engine.buffers if engine.stage else 0.0))
    return (rest + fullest) * (1 + FRAGMENTED) + RESERVED


def largest_micro_batch(work: Work, gpu: Gpu, zero: int, ranks: int, accumulate: int = 2) -> int:
    """The most samples that fit in a micro-batch; 0 where none does, `MOST` where as many do."""
    fits, step = 0, (MOST + 1) // 2
    while step:
        if memory(work, zero, ranks, fits + step, accumulate) <= gpu.memory:
            fits += step
        step //= 2
    return fits


def accumulation(work: Work, machine: Machine, zero: int, ranks: int, batch_size: int, wanted: int) -> int:
    """The fewest micro-batches, `wanted` or a multiple, into which a batch has to be cut to fit; the most there are if none
    does."""
    share = batch_size // ranks
    known = [cut for cut in range(wanted, share + 1, wanted) if share % cut == 0]
    if work.config.coupled:
        known = known[:1]
    for cut in known:
        if memory(work, zero, ranks, share // cut, cut) <= machine.gpu.memory:
            return cut
    return known[-1]


def point(work: Work, machine: Machine, zero: int, ranks: int, batch_size: int, accumulate: int) -> Point:
    """The run with `batch_size` samples a turn over `ranks` GPUs.

    Raises:
        UserError: so many ranks can't share the batch statistics.
    """
    micro, training = batch_size // (ranks * accumulate), work.config.training
    norm_ranks = check_batch_norm(work.config, work.game, ranks)
    options = machine.gpu, machine.precision, machine.efficiency, micro, accumulate
    device, host = work.device_seconds(*options), work.host_seconds(accumulate)
    gradient_bytes, seconds = _exchanged(work, machine, zero, ranks, accumulate)
    statistics = work.total("shared", micro, accumulate) if norm_ranks > 1 else 0.0
    seconds += machine.all_reduce(statistics, norm_ranks, work.reductions(accumulate))
    seconds += machine.all_reduce(0.0, ranks, 2)  # the log's statistics, and whether somebody wants to stop
    images = batch_size * work.batches
    data = 0.0 if machine.decode_rate is None else images / (machine.decode_rate * ranks)
    whole = max(max(device, host) + seconds, data)
    days = whole * training.steps / 86400
    need = memory(work, zero, ranks, micro, accumulate)
    flops = work.total("flops", micro, accumulate)
    return Point(
        gpus=ranks,
        batch_size=batch_size,
        micro_batch=micro,
        accumulate=accumulate,
        device_seconds=device,
        memory_seconds=work.memory_seconds(*options),
        host_seconds=host,
        communication_seconds=seconds,
        gradient_bytes=gradient_bytes,
        statistics_bytes=statistics,
        data_seconds=data,
        round_seconds=whole,
        images_per_second=images / whole,
        days=days,
        memory=need,
        fits=need <= machine.gpu.memory,
        mfu=flops / whole / machine.gpu.rate(machine.precision, True),
        cost=None if machine.price is None else days * 24 * ranks * machine.price,
    )


def _exchanged(work: Work, machine: Machine, zero: int, ranks: int, accumulate: int) -> tuple[float, float]:
    """Bytes of gradients and weights that a round sums or gathers, and their time. All are counted as an all-reduce's: to
    scatter a sum, or to gather, is half of one.

    At stages 0 and 1 gradients go once a turn; at 2 they are scattered after every micro-batch, and weights are gathered once a
    turn; at 3 weights are gathered for each micro-batch's forward and backward and those of its refinement steps, and for the
    spectral norms. That is the most: DeepSpeed keeps weights where it recognises the order of the layers (docs/scaling.md).
    """
    size = seconds = 0.0
    by_stage = stages(work.config, zero)
    for player, owner in work.players.items():
        gradients, stage = 4.0 * owner.parameters, by_stage[player]
        halves = {0: 2.0, 1: 2.0, 2: accumulate + 1.0, 3: accumulate + 1.0}[stage]
        gathered = sum(4.0 * other.parameters for name, other in work.players.items() if by_stage[name] == 3)
        passes = 1 + (work.config.latent.refine_steps if player == "discriminator" else 0)
        moved = owner.turns * (halves / 2 * gradients + accumulate * passes * gathered)
        size += moved
        goes = owner.turns * (1 if stage < 2 else accumulate)
        seconds += machine.all_reduce(moved, ranks, goes)
    return (size, seconds) if ranks > 1 else (0.0, 0.0)


def counts(gpus: int, most: int = 512) -> list[int]:
    """1, 2, 4, ... up to `most`, and `gpus`."""
    return sorted({2**power for power in range(int(log2(most)) + 1)} | {gpus})


def strong(work: Work, machine: Machine, zero: int, gpus: Sequence[int]) -> list[Point]:
    """The configured batch over more and more GPUs: those numbers that can share it."""
    training, found = work.config.training, []
    for ranks in gpus:
        if training.batch_size % (ranks * training.accumulate) == 0 and _shared(work, ranks):
            cut = accumulation(work, machine, zero, ranks, training.batch_size, training.accumulate)
            found.append(point(work, machine, zero, ranks, training.batch_size, cut))
    return found


def weak(work: Work, machine: Machine, zero: int, gpus: Sequence[int], here: Point) -> list[Point]:
    """More and more GPUs with the batch of each as `here`: another run at every number."""
    share = here.batch_size // here.gpus
    return [point(work, machine, zero, ranks, share * ranks, here.accumulate) for ranks in gpus if _shared(work, ranks)]


def _shared(work: Work, ranks: int) -> bool:
    """Whether so many ranks can share a batch."""
    try:
        check_batch_norm(work.config, work.game, ranks)
    except UserError:
        return False
    return ranks == 1 or not work.config.coupled_over_ranks


def default_decode_rate(config: Config) -> float | None:
    """`DECODE_RATE` for images that lie in files; None for points, which are drawn, and sets that are held in memory."""
    return DECODE_RATE if config.data.source in ("folder", "shards") else None


def machines(machine: Machine, asked: str, names: Sequence[str] = ("a100", "h100", "h200", "b200")) -> list[Machine]:
    """The same assumptions on other GPUs that multiply in the precision; network and price are their own or unknown."""
    found = []
    for name in names:
        try:
            same = precision_on(GPUS[name], asked) == machine.precision
        except UserError:
            same = False
        if same:
            found.append(replace(machine, gpu=GPUS[name], price=machine.price if GPUS[name] is machine.gpu else None))
    return found
