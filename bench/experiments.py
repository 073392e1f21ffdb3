"""What experiments share: runs that are trained where they are missing, means over their seeds, results as JSON files."""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.presets import preset
from fastgan.training import load_run
from fastgan.training.run import Run

OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

Seeds = tuple[int, ...]
RESULTS = Path("docs/results")
METRICS = ("fd-digits", "prdc-digits", "diversity-digits")


def trained(name: str, seed: int, runs: Path, *settings: str, data: Path | None = None) -> Run:
    """The run of this preset and seed, trained to its end where it is not.

    Args:
        runs: Where runs lie, one folder for each preset, settings and seed.
        settings: "name=value", part of the folder's name.
        data: `data.path`.

    Raises:
        UserError: the run that lies there is of another configuration, or training was interrupted.
    """
    folder = runs / "-".join([name, *(setting.replace("=", "") for setting in settings), str(seed)])
    config = override(preset(name), [f"seed={seed}", *settings, *([f"data.path={data}"] if data else [])])
    try:
        run = load_run(folder)
    except UserError:  # there is none yet
        run = None
    # A run's own precision and threads are what its machine had.
    if run is not None and replace(run.config, description=config.description, training=config.training) != config:
        raise UserError(f"the run in {folder} is of another configuration: move it away, or give another --runs")
    if run is None or run.round < config.training.steps:
        fastgan.train(config, folder, resume=run is not None)
        run = load_run(folder)
        if run.round < config.training.steps:
            raise UserError(
                f"training was interrupted at round {run.round} of {config.training.steps}; the same command goes on"
            )
    return run


def mean_by(rows: Iterable[Mapping[str, Any]], keys: Iterable[str], value: str) -> dict[tuple, tuple[float, float]]:
    """Mean and (with more than one) standard deviation of `value` over the rows that agree in `keys`."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row[value])
    return {
        group: (statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0) for group, found in groups.items()
    }


def judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """A row's numbers from what `evaluate` says of `METRICS`."""
    metrics = found["metrics"]
    manifold = {name: metrics["prdc-digits"][name] for name in ("precision", "recall", "density", "coverage")}
    diversity = metrics["diversity-digits"]
    return {
        "fd": metrics["fd-digits"]["value"],
        "confidence": metrics["fd-digits"]["confidence"],
        **manifold,
        "diversity": diversity["value"],
        "diversity_of_real": diversity["real"],
        "cost": found["cost"],
    }


def say(row: Mapping[str, Any]) -> None:
    """A row as one line."""
    shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items() if key != "cost")
    OUT.print("  ".join(shown), markup=False)


def write(path: Path, result: Mapping[str, Any]) -> None:
    """A result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main(module: str, description: str, commands: Mapping[str, Callable]) -> None:
    """The command line: one command an experiment."""
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog=f"python -m {module}", description=description)
    except UserError as error:
        print(f"{module}: {error}", file=sys.stderr)
        sys.exit(2)
