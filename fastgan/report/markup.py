"""HTML as values: whatever is not markup already is escaped, so that no run's name or file can add any."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_VOID = {"img", "br"}
_MOST_ITEMS = 20  # of a list that is a setting


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *inside: object, **attributes: object) -> Markup:
    """An element. `inside` is escaped unless it is `Markup`; so are attributes, whose names end in _ where Python has the word.
    An attribute that is None or False is left out, one that is True has no value."""
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{shown}>" if name in _VOID else f"<{name}{shown}>{joined(inside)}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """One after the other, escaped unless they are `Markup`; None is left out."""
    return Markup("".join(part if isinstance(part, Markup) else escape(str(part)) for part in parts if part is not None))


def table(rows: Iterable[Sequence[object]], columns: Sequence[object], caption: str) -> Markup:
    """A table that scrolls sideways within itself where the page is narrower; the first cell of each row is its heading."""
    head = [tag("thead", tag("tr", *(tag("th", column, scope="col") for column in columns)))] if columns else []
    body = [tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows]
    whole = tag("table", tag("caption", caption), *head, tag("tbody", *body))
    return tag("div", whole, class_="scrolls", tabindex="0", role="region", aria_label=caption)


def details(summary: object, *inside: object, open_: bool = False) -> Markup:
    """What is unfolded by a click."""
    return tag("details", tag("summary", summary), *inside, open=open_)


def figure(inside: object, caption: object = None, kind: str | None = None) -> Markup:
    """A picture or chart with the sentence below it, if it needs one."""
    return tag("figure", inside, tag("figcaption", caption) if caption is not None else None, class_=kind)


def plain(value: Any, digits: int = 4) -> str:
    """A setting or number as people write it, to so many significant digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 and (digits < 9 or value.is_integer()) else f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        more = f", ... ({len(value)})" if len(value) > _MOST_ITEMS else ""
        return ", ".join(plain(item, digits) for item in value[:_MOST_ITEMS]) + more or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item, digits)}" for key, item in value.items()) or "none"
    return str(value)


def exact(value: Any) -> str:
    """The same, with all digits that tell: of settings."""
    return plain(value, 12)
