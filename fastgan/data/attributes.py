"""Attributes of images: what a table says of each, or which class it is of.

    a CSV file              file,smiling,age          names first; then a line an image: its file's name, and numbers, or
                            faces/1.jpg,1,0.31        -1/1, true/false, yes/no
    list_attr_celeba.txt    2                         as CelebA's authors distribute it (Liu, Luo, Wang, Tang, "Deep learning
                            Smiling Young             face attributes in the wild", ICCV 2015): a count, the names, and a line
                            000001.jpg -1  1          an image of -1 and 1

A column of two values, true and false or -1 and 1, becomes 0 and 1. Images are found by their path below the source's folder,
or by the bare name where the table gives that and no two images share it. Nothing here loads torch or DALI.
"""

import contextlib
import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastgan.data.folder import counted, shown
from fastgan.data.source import AnyPath, DataError, Source

_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_MOST = 1000
"""Columns of a table: more are no attributes."""
_DIGITS = 18
"""Of a count of images: more are none."""
_LARGEST = 1e100
"""Of numbers: squares of larger ones, and sums of these, are not finite."""


@dataclass(frozen=True, eq=False)
class Attributes:
    """What is known of each image of a set.

    Attributes:
        names: of the attributes, A in all.
        values: float64 (N, A), 0 and 1 where an attribute is there or not.
    """

    names: tuple[str, ...]
    values: np.ndarray

    def of(self, rows: np.ndarray) -> "Attributes":
        """Those of some of the images."""
        return Attributes(self.names, self.values[rows])

    def column(self, name: str) -> int:
        """Where an attribute stands; DataError where there is none of this name."""
        if name not in self.names:
            raise DataError(f"there is no attribute {name!r}; the known ones are {', '.join(map(shown, self.names))}")
        return self.names.index(name)


def of_classes(source: Source) -> Attributes:
    """Every class as an attribute: 1 where an image is of it.

    Raises:
        DataError: the source has one class.
    """
    if len(source.classes) < 2:
        raise DataError(f"the source {source.name!r} has one class, which tells no images apart: give a table of attributes")
    if len(source.classes) > _MOST:
        raise DataError(f"the source {source.name!r} has {len(source.classes)} classes, too many to be attributes")
    return Attributes(source.classes, np.eye(len(source.classes))[source.labels])


def read_attributes(path: AnyPath, source: Source) -> Attributes:
    """The attributes that a table gives the images of a source, in the source's order. Lines about others are passed over.

    Raises:
        DataError: the file can't be read or is no such table, the source's images have no names, or the table lacks some of
            them, or says different things of one.
    """
    path = Path(path).expanduser()
    if source.names is None:
        raise DataError(f"images of the source {source.name!r} have no names: attributes of a table are those of files")
    names, rows = read_table(path)
    return Attributes(names, np.stack([rows[found] for found in _matched(path, rows, source.names())]))


def read_table(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names of a table's attributes, and what it says of each file: float64 (A,) by its name.

    Raises:
        DataError: the file can't be read, or is no such table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise DataError(f"{shown(path)} {why}") from None
    except UnicodeDecodeError:
        raise DataError(f"{shown(path)} can't be read: it is no text in UTF-8") from None
    names, lines = _celeba(path, text) or _csv(path, text)
    _check_names(path, names)
    rows: dict[str, np.ndarray] = {}
    for number, (file, *cells) in lines:
        where = f"{shown(path)}, line {number}"
        if len(cells) != len(names):
            raise DataError(f"{where}: {counted(len(cells), 'value')} for {counted(len(names), 'attribute')}")
        key, row = _normal(file), _numbers(where, names, cells)
        if key in rows and not np.array_equal(rows[key], row):
            raise DataError(f"{where}: {shown(file)} stands there a second time, with other values")
        rows[key] = row
    if not rows:
        raise DataError(f"{shown(path)} is a table of no images")
    return names, dict(zip(rows, _as_shares(np.stack(list(rows.values()))), strict=True))


_Lines = list[tuple[int, list[str]]]


def _celeba(path: Path, text: str) -> tuple[tuple[str, ...], _Lines] | None:
    """Names, and the number and cells of each line; None for another format."""
    count, *lines = text.splitlines()[:2] or [""]
    if not count.strip().isdecimal() or len(count.strip()) > _DIGITS:
        return None
    names = tuple(" ".join(lines).split())
    rest = [(number, line.split()) for number, line in enumerate(text.splitlines()[2:], 3) if line.strip()]
    if names and len(rest) < int(count):
        raise DataError(f"{shown(path)} announces {counted(int(count), 'image')} and has lines of {len(rest)}: it is not whole")
    return names, rest


def _csv(path: Path, text: str) -> tuple[tuple[str, ...], _Lines]:
    reader = csv.reader(text.splitlines(), strict=True, skipinitialspace=True)
    try:
        lines = [(reader.line_num, cells) for line in reader if any(cells := [cell.strip() for cell in line])]
    except csv.Error as error:
        raise DataError(f"{shown(path)} can't be read as CSV: {error}") from None
    if not lines:
        return (), []
    first = lines[0][1]
    if len(first) == 1 and any(sign in first[0] for sign in ";\t|"):
        raise DataError(f"{shown(path)}: columns are to be divided by commas, and the first line has none")
    return tuple(first[1:]), lines[1:]


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not names:
        raise DataError(f"{shown(path)} names no attributes: its first line is to be the names, the file's first")
    if len(names) > _MOST:
        raise DataError(f"{shown(path)} names {len(names)} attributes, more than {_MOST}")
    for name in names:
        if not name or names.count(name) > 1:
            raise DataError(
                f"{shown(path)}: an attribute {'has no name' if not name else f'{shown(name)!r} stands there twice'}"
            )


def _numbers(where: str, names: Sequence[str], cells: list[str]) -> np.ndarray:
    with contextlib.suppress(ValueError):  # one by one CelebA's eight million cells take 3 s
        if (np.abs(row := np.array(cells, dtype=np.float64)) <= _LARGEST).all():
            return row
    return np.array([_number(where, *pair) for pair in zip(names, cells, strict=True)])


def _number(where: str, name: str, cell: str) -> float:
    try:
        value = _WORDS[cell.lower()] if cell.lower() in _WORDS else float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {shown(name)} is no number, but {shown(cell)!r}")
    if abs(value) > _LARGEST:
        raise DataError(f"{where}: {shown(name)} is beyond {_LARGEST:g}: {shown(cell)}")
    return value


def _as_shares(values: np.ndarray) -> np.ndarray:
    """(N, A) with columns of -1 and 1 alone as 0 and 1."""
    signs = (np.abs(values) == 1).all(0) & (values == -1).any(0)
    return np.where(signs, (values + 1) / 2, values)


def _normal(name: str) -> str:
    """A path as sources write theirs."""
    return os.path.normpath(name.replace("\\", "/"))


def _matched(path: Path, rows: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
    """Which of the table's files each image is."""
    sharing: dict[str, int] = {}
    for name in names:
        bare = name.rpartition("/")[2]
        sharing[bare] = sharing.get(bare, 0) + 1
    found: list[str] = []
    missing, ambiguous = [], []
    for name in names:
        bare = name.rpartition("/")[2]
        if name in rows:
            found.append(name)
        elif bare in rows and sharing[bare] == 1:
            found.append(bare)
        else:
            (ambiguous if bare in rows else missing).append(name)
    if missing:
        raise DataError(f"{shown(path)} says nothing of {len(missing)} of {len(names)} images, {shown(missing[0])} first")
    if ambiguous:
        raise DataError(
            f"{shown(path)} has the bare names of {len(ambiguous)} of {len(names)} images that share theirs with others, "
            f"{shown(ambiguous[0])} first: give their folders too"
        )
    return found
