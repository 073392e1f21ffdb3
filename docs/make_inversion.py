"""Writes the tables of docs/inversion.md from docs/results: `python docs/make_inversion.py`.

The results are what `python -m bench.inversions` measured; nothing is measured here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.tables import head, line, with_tables

PAGE = Path(__file__).parent / "inversion.md"


def page() -> str:
    """The page with its tables as the results have them."""
    return with_tables(PAGE, TABLES)


def recovered(result: Mapping[str, Any]) -> str:
    """One sentence."""
    found = f"{100 * result['share']:.1f} % of {result['num']} came below {result['threshold']:g}"
    return f"{found} (median {result['median']:.2g}, largest {result['largest']:.2g}): {_how(result)}.\n"


def runs(result: Mapping[str, Any]) -> str:
    """A row a generator: errors over all, of thin and bold digits, of the digits that it draws worst."""
    lines = [f"{result['rows'][0]['count']} held-out digits; {_how(result)}; seed {result['seed']}.", ""]
    lines += head("generator", "mean", "median", "thin", "bold", "worst digits", "its own training digits")
    for row in result["rows"]:
        worst = sorted(row["by_class"].items(), key=lambda item: item[1], reverse=True)[:3]
        cells = [f"{row[name]:.4f}" for name in ("mean", "median", "thin", "bold")]
        own = f"{row['of_its_own']:.4f}" if "of_its_own" in row else ""
        lines.append(line([row["generator"], *cells, ", ".join(f"{digit} ({value:.4f})" for digit, value in worst), own]))
    return "\n".join(lines) + "\n"


def anomaly(result: Mapping[str, Any]) -> str:
    """A row a digit: AUROC of the score, of its parts, of the mean squared error."""
    parts = ("score", "residual", "features", "error")
    titles = "score", "pixels", "features", "mean squared error"
    lines = [f"w = {result['weight']:g}; {_how(result)}; seed {result['seed']}.", ""]
    lines += head("withheld", *(f"AUROC, {title}" for title in titles), "held-out digits of it")
    for row in result["rows"]:
        lines.append(line([str(row["digit"]), *(f"{row[part]:.3f}" for part in parts), str(row["count"])]))
    lines.append(line(["mean", *(f"{result['mean'][part]:.3f}" for part in parts), ""]))
    return "\n".join(lines) + "\n"


def _how(result: Mapping[str, Any]) -> str:
    of = result["settings"]
    starts = f"{of['starts']} start" + "s" * (of["starts"] > 1)
    return f"{of['optimiser']}, {of['steps']} iterations, {starts}" + f", beta {of['prior_weight']:g}" * (
        of["prior_weight"] > 0
    )


TABLES = {"inversion-recovered": recovered, "inversion-runs": runs, "inversion-anomaly": anomaly}

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
