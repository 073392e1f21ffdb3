"""Writes the tables of docs/gaia.md from docs/results: `python docs/make_gaia.py`.

The results are what `python -m bench.gaia` measured; nothing is measured here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.experiments import mean_by
from bench.tables import head, line, number, with_tables

PAGE = Path(__file__).parent / "gaia.md"


def page() -> str:
    """The page with its tables as the results have them."""
    return with_tables(PAGE, TABLES)


def digits(result: Mapping[str, Any]) -> str:
    """Two tables, of reconstructions and of midpoints: a row a method."""
    right, apart, redrawn = 100 * result["accuracy"], result["floor"], _mean(result["redrawn_real"])
    about = (
        f"{result['held_out']} held-out digits, {result['pairs']:,} pairs of them; seeds {_seeds(result)}. The classifier is "
        f"right about {right:.1f} % of the real ones, which lie {apart:.2f} from the training digits; D draws them again with "
        f"an error of {redrawn:.3f}."
    )
    tables = {
        "reconstructions": {"error": "L1 error", "sharpness": "sharpness", "fd": "FD-digits", "redrawn": "D's error"},
        "midpoints": {
            "sharpness_midpoints": "sharpness",
            "fd_midpoints": "FD-digits",
            "confidence_midpoints": "classifier's confidence",
            "redrawn_midpoints": "D's error",
        },
    }
    lines = [about]
    for title, values in tables.items():
        found = {value: mean_by(result["rows"], ("method",), value) for value in values}
        lines += ["", *head(title, *values.values())]
        for (method,) in next(iter(found.values())):
            cells = [(_fine if value.startswith(("error", "redrawn")) else number)(found[value][method,]) for value in values]
            lines.append(line([method, *cells]))
    return "\n".join([*lines, ""])


def structure(result: Mapping[str, Any]) -> str:
    """A row a weight of the structure loss."""
    values = {
        "structure": "rank correlation",
        "error": "L1 error",
        "sharpness": "sharpness",
        "fd_midpoints": "FD-digits, midpoints",
    }
    found = {value: mean_by(result["rows"], ("alpha",), value) for value in values}
    lines = [f"Seeds {_seeds(result)}.", "", *head("alpha", *values.values())]
    for (alpha,) in found["structure"]:
        cells = [(_fine if value in ("structure", "error") else number)(found[value][alpha,]) for value in values]
        lines.append(line([f"{alpha:g}", *cells]))
    return "\n".join([*lines, ""])


def directions(result: Mapping[str, Any]) -> str:
    """A row a method and kind of directions, entanglement being that of the directions that reached what they are for; and what
    the attributes and classifiers are worth."""
    names, correlations = result["names"], result["correlations"]
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    together = ", ".join(f"{names[j]} and {names[i]} {correlations[i][j]:+.2f}" for i, j in pairs)
    right = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, result["accuracies"], strict=True))
    lines = [f"Seeds {_seeds(result)}. Correlations of the attributes: {together}. Classifiers are right about: {right}.", ""]
    lines += head("method", "directions", "reached", "entanglement", "of each seed")
    means = mean_by((row for row in result["rows"] if row["entanglement"] is not None), ("method", "kind"), "entanglement")
    for method, kind in dict.fromkeys((row["method"], row["kind"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["method"], row["kind"]) == (method, kind)]
        reached = f"{sum(row['reached'] for row in rows)} of {len(rows) * len(names)}"
        each = ", ".join("-" if row["entanglement"] is None else f"{row['entanglement']:.2f}" for row in rows)
        mean = number(means[method, kind]) if (method, kind) in means else "-"
        lines.append(line([method, kind, reached, mean, each]))
    return "\n".join([*lines, ""])


def _seeds(result: Mapping[str, Any]) -> str:
    return ", ".join(map(str, result["seeds"]))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _fine(found: tuple[float, float]) -> str:
    """Mean and deviation of small numbers."""
    return f"{found[0]:.4f} ± {found[1]:.4f}"


TABLES = {"gaia-digits": digits, "gaia-structure": structure, "gaia-directions": directions}

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
