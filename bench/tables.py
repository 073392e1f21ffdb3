"""Markdown tables of results, and their places in a page."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.experiments import RESULTS

Tables = Mapping[str, Callable[[Mapping[str, Any]], str]]


def with_tables(path: Path, tables: Tables, results: Path | None = None) -> str:
    """The page with its tables as the results have them: each stands between `<!-- NAME -->` and `<!-- end of NAME -->`, and is
    made of NAME.json where that is there."""
    text, results = path.read_text(encoding="utf-8"), results or path.parent / RESULTS.name
    for name, table in tables.items():
        found = results / f"{name}.json"
        if found.exists():
            begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{table(json.loads(found.read_text(encoding='utf-8')))}\n{end}{rest.split(end)[1]}"
    return text


def head(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [line(cells), "|" + "---|" * len(cells)]


def line(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def drawn(result: Mapping[str, Any]) -> str:
    """How many samples of which seeds stand behind a table."""
    return f"{result['num']:,} samples; seeds {', '.join(map(str, result['seeds']))}."


def share(found: tuple[float, float]) -> str:
    """Mean and deviation of a share, in percent."""
    return f"{100 * found[0]:.1f} ± {100 * found[1]:.1f}"


def number(found: tuple[float, float]) -> str:
    """Mean and deviation."""
    return f"{found[0]:.2f} ± {found[1]:.2f}"
