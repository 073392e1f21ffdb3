"""Writes the tables of docs/scaling.md and its picture from `fastgan.planning`: `python docs/make_scaling.py` (a minute)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastgan.config import override
from fastgan.planning import Plan, draw, estimate, plan
from fastgan.planning.estimate import Point
from fastgan.planning.plan import assumptions
from fastgan.planning.report import at_most
from fastgan.presets import preset

PAGE = Path(__file__).with_name("scaling.md")
PICTURE = Path(__file__).parent / "images" / "scaling.png"
PRESET, GPUS, GPU = "imagenet128-biggan-2048", 64, "h100"
PUBLISHED_DAYS = 15.0
PUBLISHED = ("training.n_dis=1", "training.steps=150000", "training.accumulate=8", "training.precision=fp32")
"""What those days were: BigGAN-PyTorch's README and scripts/launch_BigGAN_bs256x8.sh."""


def sections(found: Plan, published: Plan) -> dict[str, str]:
    """Name of a place in the page -> what stands there."""
    over = [f"{what} at {gpus} GPUs" for what, gpus in found.takes_over().items() if gpus is not None]
    taken = f"\nWhat takes over from computing: {', '.join(over) or 'nothing up to 512'}.\n"
    return {
        "assumptions": "".join(f"- {line}\n" for line in assumptions(found.machine)),
        "strong scaling": _runs(found.strong) + taken,
        "weak scaling": _runs(found.weak),
        "GPUs": _others(found),
        "memory": _memory(found),
        "work": _work(found),
        "published": _published(published),
    }


def page(found: tuple[Plan, Plan] | None = None) -> str:
    """The page with everything that a plan says in its place."""
    text = PAGE.read_text(encoding="utf-8")
    for name, content in sections(*(found or plans())).items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        text = text[: text.index(begin) + len(begin)] + content + text[text.index(end) :]
    return text


def plans() -> tuple[Plan, Plan]:
    """The plan that the page is about, and that of the published run."""
    config = preset(PRESET)
    return plan(config, GPUS, GPU), plan(override(config, PUBLISHED), 8, "v100", numbers=[8])


def efficiency_for(found: Plan, days: float) -> float:
    """Of products, at which the planned run takes so many days."""
    low, high = 0.01, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _at(found, middle).days > days else (low, middle)
    return high


def _at(found: Plan, efficiency: float) -> Point:
    here = found.here
    machine = replace(found.machine, efficiency=efficiency)
    return estimate.point(found.work, machine, found.zero_stage, here.gpus, here.batch_size, here.accumulate)


def _table(*rows: Sequence[str]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([lines[0], "|---" * len(rows[0]) + "|\n", *lines[1:]])


def _runs(runs: list[Point]) -> str:
    names = ["GPUs", "micro-batch", "accumulate", "images/s", "days", "ms a round", "of it collectives"]
    rows = [[*names, "MFU", "of ideal", "GB a GPU", "bound by"]]
    for run in runs:
        ideal = runs[0].images_per_second / runs[0].gpus * run.gpus
        cells = [run.gpus, run.micro_batch, run.accumulate, f"{run.images_per_second:,.0f}", f"{run.days:.2f}"]
        cells += [f"{1e3 * run.round_seconds:,.0f}", f"{1e3 * run.communication_seconds:.1f}", f"{run.mfu:.0%}"]
        rows.append([*map(str, cells), f"{run.images_per_second / ideal:.0%}", f"{run.memory / 1e9:.0f}", run.bound])
    return _table(*rows)


def _others(found: Plan) -> str:
    rows = [["64 of", "images/s", "days", "ms a round", "MFU", "bound by", "largest micro-batch"]]
    for title, run, most in found.others:
        cells = [title, f"{run.images_per_second:,.0f}", f"{run.days:.2f}", f"{1e3 * run.round_seconds:.0f}", f"{run.mfu:.0%}"]
        rows.append([*cells, run.bound, at_most(most)])
    return _table(*rows)


def _memory(found: Plan) -> str:
    held_names = ["weights", "copies", "moments", "average", "gradients", "buffers"]
    peaks = found.work.peaks(found.here.micro_batch, found.here.accumulate)
    names = ["ZeRO stage", *held_names, *(f"{player}'s turn" for player in peaks)]
    rows = [[*names, f"fullest of {found.machine.gpu.memory / 1e9:.0f}", "largest micro-batch"]]
    for stage, held, whole, most in found.memory:
        cells = [f"{getattr(held, name) / 1e9:.2f}" for name in held_names]
        cells += [f"{peak / 1e9:.2f}" for peak in peaks.values()]
        rows.append([str(stage), *cells, f"{whole / 1e9:.1f}", at_most(most)])
    return _table(*rows)


def _work(found: Plan) -> str:
    counts = found.work.flops(found.here.micro_batch, found.here.accumulate)
    parts = list(dict.fromkeys(part for _, part in counts))
    rows = [["TFLOP a round and GPU", *parts]]
    for phase in dict.fromkeys(phase for phase, _ in counts):
        rows.append([phase, *(f"{counts.get((phase, part), 0) / 1e12:.3f}" for part in parts)])
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in found.work.networks.items())
    return f"Parameters: {sizes}. Micro-batch {found.here.micro_batch}.\n\n{_table(*rows)}"


def _published(found: Plan) -> str:
    here, needed = found.here, efficiency_for(found, PUBLISHED_DAYS)
    flops = found.work.total("flops", here.micro_batch, here.accumulate) * found.config.training.steps
    overall = flops / (PUBLISHED_DAYS * 86400) / found.machine.gpu.rates["fp32"]
    return _table(
        ["8 V100, fp32, 150,000 rounds of 2048 = 8 x 8 x 32", "days"],
        ["published (BigGAN-PyTorch's README)", f"{PUBLISHED_DAYS:.0f}"],
        [f"planned, products at {found.machine.efficiency:.0%} of the data sheet's rate", f"{here.days:.1f}"],
        [f"planned, products at {needed:.0%}", f"{PUBLISHED_DAYS:.0f}"],
    ) + (
        f"\nThe run's work, {flops / 1e18:.1f} EFLOP on each GPU, in {PUBLISHED_DAYS:.0f} days is {overall:.0%} of 15.7 "
        f"TFLOP/s, memory and all. At micro-batches of 32 the plan has {here.memory / 1e9:.1f} GB on each GPU, of 16.\n"
    )


if __name__ == "__main__":
    both = plans()
    PAGE.write_text(page(both), encoding="utf-8")
    draw(both[0], PICTURE)
