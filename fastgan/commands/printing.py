"""What commands say when they are done."""

import os
import sys
from shlex import quote

from rich.console import Console

# A pipe or a file has no width: whole rows there.
OUT = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def say_where(run) -> None:
    """Where a run's files lie."""
    from fastgan.training.checkpoint import best

    kept = best(run.folder.checkpoints)
    for what, path in {
        "run": run.path,
        "samples": max(run.folder.samples.glob("*.png")),
        "checkpoint": run.folder.newest_checkpoint(),
        **({"best": kept} if kept else {}),
        "metrics": run.folder.metrics,
        "curves": f"tensorboard --logdir {quote(str(run.folder.tensorboard))}",
    }.items():
        OUT.print(f"{what:<12}{path}", markup=False)


def say_quality(run) -> None:
    """How a run's samples compare with those of the untrained generator, by the metrics that suit its data."""
    from fastgan.training.assess import compare_with_untrained, suitable_metrics

    if not suitable_metrics(run):
        return
    result = compare_with_untrained(run)
    for name, found in result["metrics"].items():
        title, before = found.get("title", name), result["untrained"][name]
        OUT.print(f"{title}: {shown(found, 2)} trained, {shown(before, 2)} untrained", markup=False)
        if "floor" in found:
            judge = f"the judge's held-out accuracy is {found['accuracy']:.1%}"
            OUT.print(f"  real held-out images stand at {found['floor']:.2f}; {judge}", markup=False)


def say_metrics(result: dict) -> None:
    """An evaluation, a line a metric."""
    from fastgan.training.sampling import Cost

    for name, found in result["metrics"].items():
        plain = f" {result['samples']}, {shown(result['plain'][name])} plain" if "plain" in result else ""
        OUT.print(f"{found.get('title', name)}: {shown(found)}{plain}", markup=False)
    if "cost" in result:
        say_cost(Cost(**result["cost"]))
    took = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["seconds"].items())
    OUT.print(f"seconds: {took}; peak memory {result['peak_memory'] / 1e9:.1f} GB", markup=False)


def say_cost(cost) -> None:
    """What samples have cost, where it is more than a pass of G each."""
    if cost.generator > 1 or cost.discriminator:  # plain samples have a pass of G each
        OUT.print(str(cost), markup=False)


def shown(found: dict, digits: int = 3) -> str:
    """A metric's value, for people."""
    return found.get("shown") or f"{found['value']:.{digits}f}"


def speaks(reason: object = None) -> bool:
    """Whether this is the process, of those that share a run, that the user hears: the first, or the only one that knows."""
    if "RANK" not in os.environ and "OMPI_COMM_WORLD_RANK" not in os.environ:
        return True  # and torch need not be loaded
    from fastgan.engine import LoneError, rank_here

    return isinstance(reason, LoneError) or rank_here() == 0
