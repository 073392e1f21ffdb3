"""Writes the table of docs/optimisation.md from docs/results: `python docs/make_optimisation.py`.

The results are what `python -m bench.forms` measured; nothing is measured here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.experiments import mean_by
from bench.tables import drawn, head, line, share, with_tables

PAGE = Path(__file__).parent / "optimisation.md"


def page() -> str:
    """The page with its table as the results have it."""
    return with_tables(PAGE, {"forms": forms})


def forms(result: Mapping[str, Any]) -> str:
    """A row a form."""
    good, modes = (mean_by(result["rows"], ("form",), value) for value in ("good", "modes"))
    lines = [f"{drawn(result)} {result['rounds']:,} rounds of 256.", "", *head("form", "good samples, %", "modes of 25")]
    lines += [line([form, share(good[form,]), f"{modes[form,][0]:.1f}"]) for (form,) in good]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
