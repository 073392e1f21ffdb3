"""The bill of a run that is not started."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.planning import estimate
from fastgan.planning.estimate import Held, Machine, Point
from fastgan.planning.gpus import MACHINE, find, precision_on
from fastgan.planning.work import DISPATCH, SHARE_OF_BANDWIDTH, Work
from fastgan.training.loop import check_batch_norm, check_shares


@dataclass(frozen=True)
class Plan:
    """What `plan` found."""

    config: Config
    work: Work
    machine: Machine
    zero_stage: int
    here: Point
    """On the GPUs that were asked for."""
    others: list[tuple[str, Point, int]]
    """As many of each GPU that multiplies in the precision: its title, the run on it, its largest micro-batch."""
    memory: list[tuple[int, Held, float, int]]
    """At each ZeRO stage: the stage, what rests, bytes at the fullest moment, the largest micro-batch that fits."""
    strong: list[Point]
    """The run's batch over more and more GPUs."""
    weak: list[Point]
    """The batch of each GPU as it is here, over more and more of them."""
    notes: list[str]

    def takes_over(self) -> dict[str, int | None]:
        """The fewest GPUs, of those in the table, at which the run's batch waits longer for "launches" (operations are started
        more slowly than they run), for "communication" than for all that a GPU does itself, or for "data"; None: at none."""
        late = {
            "launches": lambda p: p.host_seconds > p.device_seconds,
            "communication": lambda p: p.communication_seconds > max(p.device_seconds, p.host_seconds),
            "data": lambda p: p.data_seconds >= p.round_seconds,
        }
        return {name: next((p.gpus for p in self.strong if is_late(p)), None) for name, is_late in late.items()}

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, in bytes, seconds and FLOP."""
        work, here = self.work, self.here
        micro, cut = here.micro_batch, here.accumulate
        flops: dict[str, dict[str, float]] = {}
        for (phase, part), count in work.flops(micro, cut).items():
            flops.setdefault(phase, {})[part] = count
        return {
            "preset": self.config.name,
            "note": estimate.UNVERIFIED,
            "gpu": self.machine.gpu.title,
            "precision": self.machine.precision,
            "zero_stage": self.zero_stage,
            "parameters": work.networks,
            "flops_by_phase": flops,
            "flops": work.total("flops", micro, cut),
            "bytes": work.total("bytes", micro, cut),
            "kernel_bytes": work.total("kernel_bytes", micro, cut),
            "operations": work.started(cut),
            "activation_bytes": work.peaks(micro, cut),
            "run": _plain(here),
            "gpus": [{"gpu": title, "largest_micro_batch": most, **_plain(run)} for title, run, most in self.others],
            "memory": [
                {"zero_stage": stage, "held": asdict(held), "bytes": whole, "largest_micro_batch": most}
                for stage, held, whole, most in self.memory
            ],
            "strong_scaling": [_plain(run) for run in self.strong],
            "weak_scaling": [_plain(run) for run in self.weak],
            "takes_over": self.takes_over(),
            "assumptions": assumptions(self.machine),
            "notes": self.notes,
        }


def plan(
    config: Config,
    gpus: int,
    gpu: str,
    *,
    zero_stage: int | None = None,
    efficiency: float = estimate.EFFICIENCY,
    interconnect: float | None = None,
    decode_rate: float | None = None,
    price: float | None = None,
    numbers: Sequence[int] | None = None,
) -> Plan:
    """What the run would take. Networks and round are the run's own, without memory: nothing is computed, no data is opened.

    Args:
        config: of the run; `training.device` is taken for CUDA.
        gpus: how many, at least 1.
        gpu: a name of `gpus.GPUS`.
        zero_stage: of DeepSpeed, 0 to 3; the configuration's where None.
        efficiency: share of the data sheet's rate that products reach, in (0, 1].
        interconnect: GB/s of a machine of eight to the others, in one direction; the data sheet's where None.
        decode_rate: images/s that the data reaches a GPU with; `estimate.default_decode_rate` where None.
        price: of one GPU for an hour, in any currency.
        numbers: of GPUs in the scaling tables; 1, 2, 4, ... 512 and `gpus` where None.

    Raises:
        UserError: a name, number or combination that can't be, in one line.
    """
    if gpus < 1:
        raise UserError(f"--gpus must be at least 1, not {gpus}")
    if not 0 < efficiency <= 1:
        raise UserError(f"--efficiency must be above 0 and at most 1, not {efficiency:g}")
    for name, value in (("interconnect", interconnect), ("decode-rate", decode_rate)):
        if value is not None and not (value > 0 and isfinite(value)):
            raise UserError(f"--{name} must be above 0, not {value:g}")
    if price is not None and not (price >= 0 and isfinite(price)):
        raise UserError(f"--price must be at least 0, not {price:g}")
    stage = config.engine.zero_stage if zero_stage is None else zero_stage
    if not 0 <= stage <= 3:
        raise UserError(f"--zero-stage must be 0, 1, 2 or 3, not {stage}")
    chosen = find(gpu)
    precision = precision_on(chosen, config.training.precision)
    check_shares(config, gpus)

    work = Work(config, "fp32" if precision == "fp32" else "bf16")
    check_batch_norm(config, work.game, gpus)
    network = None if interconnect is None else interconnect * 1e9
    decoded = estimate.default_decode_rate(config) if decode_rate is None else decode_rate
    machine = Machine(chosen, precision, efficiency, network, decoded, price)
    training = config.training

    def run(machine: Machine) -> Point:
        cut = estimate.accumulation(work, machine, stage, gpus, training.batch_size, training.accumulate)
        return estimate.point(work, machine, stage, gpus, training.batch_size, cut)

    here = run(machine)
    numbers = estimate.counts(gpus) if numbers is None else numbers
    return Plan(
        config=config,
        work=work,
        machine=machine,
        zero_stage=stage,
        here=here,
        others=[
            (m.gpu.title, run(m), estimate.largest_micro_batch(work, m.gpu, stage, gpus, here.accumulate))
            for m in estimate.machines(machine, training.precision)
        ],
        memory=[
            (
                zero,
                estimate.held(work, zero, gpus),
                estimate.memory(work, zero, gpus, here.micro_batch, here.accumulate),
                estimate.largest_micro_batch(work, chosen, zero, gpus, here.accumulate),
            )
            for zero in range(4)
        ],
        strong=estimate.strong(work, machine, stage, numbers),
        weak=estimate.weak(work, machine, stage, numbers, here),
        notes=_notes(config, work, here, stage),
    )


def assumptions(machine: Machine) -> list[str]:
    """What is not counted but taken for granted, a line each."""
    between = machine.gpu.network * MACHINE if machine.network is None else machine.network
    return [
        f"products reach {machine.efficiency:.0%} of the data sheet's rate, other operations {SHARE_OF_BANDWIDTH:.0%} of the "
        "memory's bandwidth; one operation runs after another",
        f"starting an operation takes {1e6 * DISPATCH:.0f} microseconds; no CUDA graphs, no torch.compile",
        f"{MACHINE} GPUs a machine; links of {machine.gpu.link / 1e9:g} GB/s inside and {between / 1e9:g} GB/s from machine to "
        f"machine, of which {estimate.SHARE_OF_LINK:.0%} are reached; {1e6 * estimate.LATENCY:.0f} microseconds a step; "
        "nothing is sent while something is computed",
        "points are drawn and images come from memory as fast as they are asked for"
        if machine.decode_rate is None
        else f"{machine.decode_rate:,.0f} images/s are decoded for each GPU",
        f"{estimate.RESERVED / 1e9:g} GB of a GPU are kept by CUDA and its libraries, {estimate.FRAGMENTED:.0%} of what "
        "tensors hold is lost between them",
    ]


def _notes(config: Config, work: Work, here: Point, stage: int) -> list[str]:
    notes = []
    asked = config.training.accumulate
    if not here.fits:
        notes.append(f"it does not fit: {here.memory / 1e9:.1f} GB at micro-batches of {here.micro_batch}")
    elif here.accumulate != asked:
        notes.append(f"it fits with training.accumulate={here.accumulate}, not with {asked}: planned so")
    for player, lowered in estimate.stages(config, stage).items():
        if lowered != stage:
            notes.append(f"the {player} has a second-order term, which ZeRO-3 can't step: it is planned at stage {lowered}")
    return notes


def _plain(run: Point) -> dict[str, Any]:
    return asdict(run) | {"bound": run.bound}
