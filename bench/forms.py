"""Forms of optimisation on Grid-25, at one small budget: `python -m bench.forms`. docs/optimisation.md has the table.

By turns, two time scales, both players at once, three generators, an entropy term: the presets grid25, grid25-ttur and so on,
each trained from each seed into `--runs` (and not again where it is there), and judged by the good-sample rate and the modes of
the averaged generator.
"""

import sys
from pathlib import Path

import tyro

from bench.experiments import RESULTS, Seeds, say, trained, write
from fastgan.checked import UserError
from fastgan.training import evaluate

FORMS = {
    "by turns": "grid25",
    "two time scales": "grid25-ttur",
    "both at once": "grid25-merged",
    "three generators": "grid25-ensemble",
    "entropy": "grid25-entropy",
}


def main(
    seeds: Seeds = (0, 1, 2), rounds: int = 3000, num: int = 5000, runs: Path = Path("runs/forms"), out: Path = RESULTS
) -> None:
    """Good-sample rate and modes of every form.

    Args:
        seeds: Of training.
        rounds: Of each run; the presets' own are four times as many.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of forms.json.
    """
    rows = []
    for form, name in FORMS.items():
        for seed in seeds:
            report = evaluate(trained(name, seed, runs, f"training.steps={rounds}"), num=num)["metrics"]["good-samples"]
            rows.append({"form": form, "seed": seed, "good": report["value"], "modes": report["modes"]})
            say(rows[-1])
    write(out / "forms.json", {"num": num, "seeds": seeds, "rounds": rounds, "rows": rows})


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m bench.forms")
    except UserError as error:
        print(f"bench.forms: {error}", file=sys.stderr)
        sys.exit(2)
