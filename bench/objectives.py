"""Every objective on the grid of 25 Gaussians at one small budget: `python -m bench.objectives`, for docs/objectives.md.

Each preset of `fastgan.presets.objectives` is trained from each seed, into `--runs` (one folder a preset and seed), and judged:
the good-sample rate of the averaged generator, and the modes that it covers. Rows are written to docs/results/objectives.json
as they come, and those that are there are not played again; `docs/make_objectives.py` makes the table of them.
"""

import json
import sys
from pathlib import Path

import tyro

from bench.experiments import trained
from fastgan.checked import UserError, nearest
from fastgan.presets.objectives import GRID25_OBJECTIVES
from fastgan.training import evaluate

RESULTS = Path("docs/results/objectives.json")
NAMES = tuple(config.name for config in GRID25_OBJECTIVES)
BOUND = 0.5
"""The share of the recorded good-sample rate and of the modes, the worst seed's, below which an objective counts as broken."""


def measure(name: str, seed: int, runs: Path, num: int = 5000) -> dict[str, float]:
    """Train a preset from a seed and judge `num` samples: the row of the table."""
    run = trained(name, seed, runs)
    report = evaluate(run, num=num)["metrics"]["good-samples"]
    return {"preset": name, "seed": seed, "good": report["value"], "modes": report["modes"], "fair": report["fair"]}


def bounds(rows: list[dict]) -> dict[str, tuple[float, int]]:
    """Preset -> the least good-sample rate and number of modes that it may have, from what was recorded of it."""
    found = {}
    for name in dict.fromkeys(row["preset"] for row in rows):
        own = [row for row in rows if row["preset"] == name]
        found[name] = (BOUND * min(row["good"] for row in own), int(BOUND * min(row["modes"] for row in own)))
    return found


def main(
    names: tuple[str, ...] = NAMES, seeds: tuple[int, ...] = (0, 1), runs: Path = Path("runs/objectives"), out: Path = RESULTS
) -> None:
    """Every objective on Grid-25, at one small budget.

    Args:
        names: Presets.
        seeds: Of training.
        runs: Where runs lie.
        out: The table's file.
    """
    if unknown := next((name for name in names if name not in NAMES), None):
        raise UserError(f"unknown preset {unknown!r}: {nearest(unknown, NAMES)}")
    rows = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for name in names:
        for seed in seeds:
            if any((row["preset"], row["seed"]) == (name, seed) for row in rows):
                continue
            found = measure(name, seed, runs)
            rows.append(found)
            rows.sort(key=lambda row: (NAMES.index(row["preset"]), row["seed"]))
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
            shown = f"{100 * found['good']:6.2f} % good, {found['modes']} modes, {found['fair']} fair"
            print(f"{name:30} {seed} {shown}", flush=True)


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m bench.objectives")
    except UserError as error:
        print(f"bench.objectives: {error}", file=sys.stderr)
        sys.exit(2)
