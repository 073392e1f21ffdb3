"""Writes the tables of docs/advlatgan.md from docs/results: `python docs/make_advlatgan.py`.

The results are what `python -m bench.advlatgan` measured; nothing is measured here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.experiments import mean_by
from bench.tables import drawn, head, line, number, share, with_tables

PAGE = Path(__file__).parent / "advlatgan.md"
NAMES = {"grid25": "Grid-25", "ring8": "Ring-8"}


def page() -> str:
    """The page with its tables as the results have them."""
    return with_tables(PAGE, TABLES)


def toys(result: Mapping[str, Any]) -> str:
    """Good-sample rates: a row a sampler, beside each other the trainings without and with -qua."""
    lines = [drawn(result), ""]
    rows = result["rows"]
    good, modes = (
        mean_by(rows, ("data", "training", "sampler"), "good"),
        mean_by(rows, ("data", "training", "sampler"), "modes"),
    )
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [f"{NAMES[data]}:", ""]
        lines += head("sampler", "baseline, % good", "modes", "-qua, % good", "modes", "passes a sample: G, D, backward")
        for sampler in dict.fromkeys(row["sampler"] for row in rows):
            cells = [sampler]
            for training in (data, f"{data}-qua"):
                key = data, training, sampler
                cells += [share(good[key]), f"{modes[key][0]:.3g}"] if key in good else ["", ""]
            lines.append(line([*cells, _cost(row for row in rows if row["sampler"] == sampler and row["data"] == data)]))
        lines.append("")
    return "\n".join(lines)


def digits(result: Mapping[str, Any]) -> str:
    """FD-digits and the like by backbone, method and sampling."""
    return _images(result, ("backbone", "method", "sampling"), ("fd", "precision", "recall", "coverage"))


def conditional(result: Mapping[str, Any]) -> str:
    """FD-digits and diversity within classes by method and sampling."""
    of_real = result["rows"][0]["diversity_of_real"]
    table = _images(result, ("method", "sampling"), ("fd", "precision", "recall", "diversity"))
    return f"{table}\nReal digits have a diversity of {of_real:.2f}.\n"


def sweep(result: Mapping[str, Any]) -> str:
    """A table of K by eps for each run."""
    lines = []
    for name, value, shown, what in (
        ("grid25", "good", lambda x: f"{100 * x:.1f}", "Grid-25, % good"),
        ("digits-sngan", "fd", lambda x: f"{x:.2f}", "digits, FD-digits"),
        ("digits-sngan", "precision", lambda x: f"{x:.2f}", "digits, precision"),
        ("digits-sngan", "recall", lambda x: f"{x:.2f}", "digits, recall"),
    ):
        found = {(row["K"], row["eps"]): row[value] for row in result["rows"] if row["preset"] == name}
        if not found:
            continue
        sizes = sorted({eps for _, eps in found if eps is not None})
        lines += [f"{what}; plain {shown(found[0, None])}:", "", *head("K", *(f"eps {eps:g}" for eps in sizes))]
        for count in sorted({count for count, _ in found if count}):
            lines.append(line([str(count), *(shown(found[count, eps]) for eps in sizes)]))
        lines.append("")
    return "\n".join(lines)


def plane(result: Mapping[str, Any]) -> str:
    """D's score, the classifier's confidence and the share that it is not sure of."""
    lines = head("latents", "D's score", "classifier's confidence", "images it is not sure of")
    named = {
        "from the prior": result["before"],
        "refined": result["after"],
        "on straight paths between digits": result["paths"]["plain"],
        "these refined": result["paths"]["refined"],
    }
    for name, found in named.items():
        lines.append(line([name, f"{found['score']:.3f}", f"{found['confidence']:.3f}", f"{100 * found['unsure']:.1f} %"]))
    first, last = result["by_density"][0], result["by_density"][-1]
    lines += [
        "",
        f"From the tenth of refined latents where they lie thinnest to the tenth where they lie thickest D's score goes from "
        f"{first['score']:.3f} to {last['score']:.3f}, the classifier's confidence from {first['confidence']:.3f} to "
        f"{last['confidence']:.3f}.",
    ]
    return "\n".join(lines) + "\n"


def _images(result: Mapping[str, Any], keys: tuple[str, ...], values: tuple[str, ...]) -> str:
    rows = result["rows"]
    titles = {"fd": "FD-digits", "diversity": "diversity within classes"}
    found = {value: mean_by(rows, keys, value) for value in values}
    lines = [
        drawn(result),
        "",
        *head(*keys, *(titles.get(value, value) for value in values), "passes a sample: G, D, backward"),
    ]
    for key in found["fd"]:
        cells = [number(found[value][key]) for value in values]
        lines.append(line([*key, *cells, _cost(row for row in rows if tuple(row[k] for k in keys) == key)]))
    return "\n".join(lines) + "\n"


def _cost(rows: Iterable[Mapping[str, Any]]) -> str:
    costs = [row["cost"] for row in rows]
    return ", ".join(
        f"{sum(cost[name] for cost in costs) / len(costs):.3g}" for name in ("generator", "discriminator", "backward")
    )


TABLES = {"toys": toys, "plane": plane, "digits": digits, "conditional": conditional, "sweep": sweep}

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
