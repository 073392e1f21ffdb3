"""From folders of runs to the page."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

import fastgan
from fastgan.checked import UserError
from fastgan.progress import progress
from fastgan.report.markup import Markup, joined, tag
from fastgan.report.pictures import Album
from fastgan.report.sections import PICTURES_OF_A_RUN, SECTIONS
from fastgan.report.subject import Subject
from fastgan.training.files import make_room_for, replace_text

MOST_BYTES = 5_000_000
"""Of a page."""
MOST_RUNS = 12
"""Side by side."""
_FOR_TEXT = 1_400_000


def write_report(runs: Sequence[str | Path], out: str | Path, quiet: bool = True) -> None:
    """Write one HTML file about runs: settings, curves, samples through time and final ones, nearest real images,
    interpolations, samples before and after refinement, metrics with their settings, cost. It loads nothing from elsewhere.

    What a run does not have (yet) is a sentence on the page: a checkpoint, an evaluation, its data. The runs are read; a run of
    digits keeps the classifier, if it has none yet, in its folder.

    Args:
        runs: their folders, at most `MOST_RUNS`; each once.
        out: the file, ending in .html or .htm; below `MOST_BYTES`.
        quiet: show no progress.

    Raises:
        UserError: no runs or too many, one is named twice, a folder is no run, its configuration or newest checkpoint can't be
            read, `out` can't be written or is named otherwise.
    """
    paths, out = [Path(run) for run in runs], Path(out)
    if not paths:
        raise UserError("a report needs at least one run")
    if len(paths) > MOST_RUNS:
        raise UserError(f"a report shows at most {MOST_RUNS} runs, not {len(paths)}")
    twice = [path for number, path in enumerate(paths) if path.resolve() in {other.resolve() for other in paths[:number]}]
    if twice:
        raise UserError(f"{twice[0]} is named twice")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out} must end in .html")
    subjects = [Subject.of(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    make_room_for(out)
    replace_text(out, page(subjects, quiet))


def page(subjects: Sequence[Subject], quiet: bool = True) -> str:
    """The page as text."""
    album = Album((MOST_BYTES - _FOR_TEXT) // (PICTURES_OF_A_RUN * len(subjects)))
    sections = []
    with progress("report", len(SECTIONS), quiet=quiet, announced=False) as advance:
        for anchor, (title, fill) in SECTIONS.items():
            sections.append(tag("section", tag("h2", title), fill(subjects, album), id=anchor))
            advance(1)
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, (title, _) in SECTIONS.items()]
    names = ", ".join(subject.name for subject in subjects)
    return Template(_part("page.html")).substitute(
        title=joined([f"{names}: report"]),
        heading=joined([names]),
        style=_part("page.css"),
        contents=tag("ul", *links),
        sections=joined(sections),
        version=Markup(fastgan.__version__),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' own names; whole paths where two of them are called the same."""
    names = [path.resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


@cache
def _part(name: str) -> str:
    return (resources.files("fastgan.report") / name).read_text(encoding="utf-8")
