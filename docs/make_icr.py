"""Writes the tables of docs/icr.md from docs/results: `python docs/make_icr.py`.

The results are what `python -m bench.icr` measured; nothing is measured here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.experiments import mean_by
from bench.tables import drawn, head, line, number, with_tables

PAGE = Path(__file__).parent / "icr.md"


def page() -> str:
    """The page with its tables as the results have them."""
    return with_tables(PAGE, TABLES)


VALUES = "fd", "precision", "recall", "coverage"


def digits(result: Mapping[str, Any]) -> str:
    """A row a method."""
    return "\n".join([drawn(result), "", *head("method", "FD-digits", *VALUES[1:], "GFLOP a round"), *_methods(result), ""])


def _methods(result: Mapping[str, Any]) -> list[str]:
    """A row a method: distance, precision, recall, coverage, and what a round costs beside the baseline's."""
    found = {value: mean_by(result["rows"], ("method",), value) for value in VALUES}
    shown = number if len(result["seeds"]) > 1 else lambda of: f"{of[0]:.2f}"
    costs = result["costs"]
    baseline = next(iter(costs.values()))
    lines = []
    for method, cost in costs.items():
        counted = f"{cost['gflop']:.1f} ({cost['gflop'] / baseline['gflop']:.2f}x)"
        lines.append(line([method, *(shown(found[value][method,]) for value in VALUES), counted]))
    return lines


def artefacts(result: Mapping[str, Any]) -> str:
    """A row a method: the share of its images that the detector flags, and what a cutout gains them with D where that was
    measured; and what the detector is worth."""
    rows, detector = result["rows"], result["detector"]
    gains = ["a cutout's gain, of each seed"] if all("gain" in row for row in rows) else []
    lines = [drawn(result), "", *head("method", "flagged, %", "of each seed", *gains)]
    for (method,), found in mean_by(rows, ("method",), "flagged").items():
        of_method = [row for row in rows if row["method"] == method]
        seeds = ", ".join(f"{100 * row['flagged']:.1f}" for row in of_method)
        gained = [", ".join(f"{row['gain']:.2f}" for row in of_method)] if gains else []
        lines.append(line([method, f"{100 * found[0]:.1f}", seeds, *gained]))
    generated = mean_by([row for row in rows if "found" in row], ("method",), "found")["baseline",]
    return "\n".join(
        [
            *lines,
            "",
            f"The detector (windows of {detector['window']} pixels, threshold {detector['threshold']:.3f}) flags "
            f"{100 * detector['false_positives']:.1f} % of the {detector['held_out']} real digits that were held out, "
            f"{100 * detector['true_positives']:.1f} % of them once each has a cutout of {detector['cutout']} pixels, and "
            f"{100 * generated[0]:.1f} % of the baseline's images with such cutouts.",
            "",
        ]
    )


def sweep(result: Mapping[str, Any]) -> str:
    """A row a weight of the generator's half."""
    values = ("fd", "precision", "recall", "coverage", "diversity", "apart")
    found = {value: mean_by(result["rows"], ("l_gen",), value) for value in values}
    titles = "FD-digits", "precision", "recall", "coverage", "diversity within digits", "distance of two images"
    size = f"{result['rounds']:,} rounds at {result['resolution']} pixels"
    lines = [f"{drawn(result)} {size}, l_dis {result['l_dis']:g}, noise {result['noise']:g}.", "", *head("l_gen", *titles)]
    for (weight,) in found["fd"]:
        name = "no zCR" if weight is None else f"{weight:g}"
        lines.append(line([name, *(number(found[value][weight,]) for value in values)]))
    of_real = result["rows"][0]["diversity_of_real"], result["apart_of_real"]
    return "\n".join([*lines, "", f"Real digits: diversity {of_real[0]:.2f}, distance {of_real[1]:.2f}.", ""])


def emoji(result: Mapping[str, Any]) -> str:
    """A row a method, below those of real images and of an untrained generator."""
    bounds = [line([name, *(f"{row[value]:.2f}" for value in VALUES), ""]) for name, row in result["bounds"].items()]
    titles = head("method", "FD-random", *VALUES[1:], "GFLOP a round")
    return "\n".join([f"{drawn(result)} {result['rounds']:,} rounds.", "", *titles, *bounds, *_methods(result), ""])


TABLES = {
    "icr-digits": digits,
    "icr-artefacts": artefacts,
    "icr-artefacts-strong": artefacts,
    "icr-artefacts-large": artefacts,
    "icr-artefacts-covering": artefacts,
    "icr-artefacts-white": artefacts,
    "icr-sweep-unnormalised": sweep,
    "icr-sweep": sweep,
    "icr-emoji64": emoji,
}

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
