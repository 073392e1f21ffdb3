"""Writes docs/configuration.md from the configuration's classes: `python docs/make_configuration.py`."""

import dataclasses
from pathlib import Path

from fastgan.config import Config, to_dict
from fastgan.terms import TERMS

PAGE = Path(__file__).with_name("configuration.md")


def page() -> str:
    """The whole page."""
    lines = [
        "# Configuration",
        "",
        "Every field of a run, as `fastgan train --set name=value` takes it; `config.yaml` in the run's folder holds them all.",
        "Written by `python docs/make_configuration.py`.",
        "",
        "| name | default | meaning |",
        "|---|---|---|",
        *_rows(Config, to_dict(Config()), ""),
        "",
        "## Terms",
        "",
        "A term is part of a run once one of its fields is set; `--set terms.r1=null` takes a preset's away.",
        "",
        "| name | default | meaning |",
        "|---|---|---|",
    ]
    for name, term in TERMS.items():
        lines += _rows(term, dataclasses.asdict(term()), f"terms.{name}.")
    return "\n".join(lines) + "\n"


def _rows(settings: type, defaults: dict, path: str) -> list[str]:
    rows = []
    for field in dataclasses.fields(settings):
        name, default = path + field.name, defaults[field.name]
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            rows += _rows(field.type, default, f"{name}.")
        elif field.name != "terms":
            meaning = " ".join((settings.__pydantic_fields__[field.name].description or "").split())
            choices = getattr(field.type, "__args__", ())
            if len(choices) > 1 and all(isinstance(choice, str) for choice in choices):
                meaning = f"{' / '.join(choices)}. {meaning}".strip()
            shown = "" if default in (None, "") else str(default).lower() if isinstance(default, bool) else default
            rows.append(f"| `{name}` | {shown} | {meaning} |")
    return rows


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
