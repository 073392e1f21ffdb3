"""What every settings class shares: frozen, typed, checked where it is built, unknown names refused.

`pydantic` does the checking; `explain` turns what it found into the one line that a user reads.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import ConfigDict, Field, ValidationError

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

Settings = TypeVar("Settings")


class UserError(Exception):
    """A mistake of the user's: the command line prints its one line and exits with 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The words to put behind an unknown name: the closest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def explain(error: ValidationError, known: dict[str, Iterable[str]] | None = None) -> str:
    """One line for the first problem that pydantic found: the field's path, what is wrong, what was given.

    Args:
        known: the field names below a dotted path ("" is the root), to suggest one for a name that does not exist.
    """
    first = error.errors()[0]
    *parents, last = (str(part) for part in first["loc"]) if first["loc"] else ("",)
    path = ".".join((*parents, last))
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown field {path!r}: {nearest(last, (known or {}).get('.'.join(parents), ()))}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "value_error":  # our own checks say the whole sentence
        return f"{path}: {message}" if path else message
    return f"{path} should be {message}, not {first['input']!r}"


def built(kind: type[Settings], name: str, settings: Mapping[str, Any] | Iterable[str] = ()) -> Settings:
    """A settings class of what the user has given.

    Args:
        kind: a checked dataclass.
        name: what a line about a mistake calls it.
        settings: its fields by name, or "field=value" texts, whose values are read as YAML.

    Raises:
        UserError: there is no such field, or a value is of the wrong kind or out of range.
    """
    if not isinstance(settings, Mapping):
        settings = dict(_assigned(name, assignment) for assignment in settings)
    try:
        return kind(**settings)
    except ValidationError as error:
        known = [field.name for field in dataclasses.fields(kind)]
        if not known:
            raise UserError(f"{name} takes no settings, but was given {', '.join(settings)}") from None
        raise UserError(f"{name}: {explain(error, {'': known})}") from None


def _assigned(name: str, assignment: str) -> tuple[str, Any]:
    field, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(f"{name}: settings are name=value, not {assignment!r}")
    try:
        return field.strip(), yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{name}: the value {text!r} of {field} can't be read") from None
