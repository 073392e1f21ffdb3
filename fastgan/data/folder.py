"""Folders of images: a folder for each class, or all images in one.

    photos/cat/1.jpg  photos/cat/2.png  photos/dog/1.webp        classes cat and dog, in the order of their names
    faces/000001.jpg  faces/000002.jpg                           one class

Only names that end in one of `picture.SUFFIXES` count, in any case; names that start with a dot don't. Images that lie deeper
are refused: almost always the path names the folder above the data set. The fingerprint covers the name and the content of
each image that is shown, so neither a copy nor a new modification time makes another data set of it.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastgan.data import picture
from fastgan.data.encoded import Encoded
from fastgan.data.scan import BAD, GREY, Scan, scan
from fastgan.data.source import AnyPath, DataError, Source

ON_BAD_IMAGE = ("refuse", "skip")

_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev", "unlabeled"}
_NAMED = 3  # files that a sentence names before it counts the rest


class Options(NamedTuple):
    """What sentences about a mistake call the options that mend it."""

    path: str = "data.path"
    skip: str = "data.on_bad_image=skip"


IN_CONFIG = Options()


def open_folder(
    path: AnyPath | None, split: str, *, on_bad_image: str = "refuse", quiet: bool = False, options: Options = IN_CONFIG
) -> Source:
    """Open a folder of images; scans it the first time.

    Args:
        path: the folder.
        split: "train" or "all", which are the same here.
        on_bad_image: what to do about files that do not decode: "refuse", or "skip" them and say so in `Source.notes`.
        quiet: print no progress.
        options: what the user calls the first two.

    Raises:
        DataError: there is no such folder, it holds no images, does not look like a data set, or holds images that do not
            decode and are not to be skipped.
    """
    if path is None:
        raise DataError(f"the source 'folder' needs the path of a folder: set {options.path}")
    if split == "held-out":
        raise DataError(f"{path} has no held-out split: give the folder of the held-out images as the path")
    root = Path(path).expanduser()
    names, notes = _list(root, options)
    found = scan(root, names, quiet)
    bad = found.records["kind"] == BAD
    if bad.any():
        notes.append(_about_bad(root, found, on_bad_image, options))
    return _source(root, found, np.flatnonzero(~bad), notes)


def _source(root: Path, found: Scan, good: np.ndarray, notes: list[str]) -> Source:
    names, records = [found.names[row] for row in good.tolist()], found.records[good]
    if not names:
        raise DataError(f"{root} holds no image that decodes")
    class_of = [name.rpartition("/")[0] for name in names]
    classes = sorted(set(class_of))
    emptied = sorted({name.rpartition("/")[0] for name in found.names} - set(classes))
    if emptied:
        notes.append(f"no image of {some(emptied)} decodes: left out of the classes")
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[name] for name in class_of], dtype=np.int64)
    sizes = np.stack([records["height"], records["width"]], axis=1)
    for array in (labels, sizes):
        array.flags.writeable = False
    grey = bool((records["kind"] == GREY).all())
    files = _Files(root, names, records["size"].copy())
    reader = Encoded(files, files.shown, sizes, records["plain"].astype(bool), grey)
    digest = hashlib.sha256(f"folder of {len(names)} images".encode())
    for name, content in zip(names, records["digest"], strict=True):
        digest.update(os.fsencode(name) + b"\0")
        digest.update(content.tobytes())
    return Source(
        "folder",
        tuple(classes) if classes != [""] else ("all",),
        labels,
        1 if grey else 3,
        reader,
        sizes,
        reader.mistrust,
        tuple(notes),
        digest.hexdigest(),
        names=lambda: names,
    )


class _Files:
    """Reads files below a folder; several threads may at once."""

    def __init__(self, root: Path, names: list[str], sizes: np.ndarray) -> None:
        self._root, self._names, self._sizes = str(root), names, sizes

    def __call__(self, index: int) -> bytes:
        try:
            with open(os.path.join(self._root, self._names[index]), "rb", buffering=0) as file:
                content = file.read()
        except OSError as error:
            raise DataError(f"{self.shown(index)} can't be read any more: {error.strerror}") from None
        if len(content) != self._sizes[index]:
            raise DataError(f"{self.shown(index)} has changed since it was scanned: begin a new run")
        return content

    def shown(self, index: int) -> str:
        return shown(os.path.join(self._root, self._names[index]))


def _list(root: Path, options: Options) -> tuple[list[str], list[str]]:
    """The names of all image files, sorted, and notes about what lies beside them."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"{root} does not exist")
    try:
        files, folders, unread = _entries(root)
        names, empty, nested = list(files), [], []
        for folder in folders:
            inside, deeper, unread_inside = _entries(root / folder)
            unread += [f"{folder}/{name}" for name in unread_inside]
            names += [f"{folder}/{name}" for name in inside]
            below = [f"{folder}/{name}" for name in deeper if _holds_images(root / folder / name)]
            nested += below
            if not inside and not below:
                empty.append(folder)
    except OSError as error:
        raise DataError(f"{shown(error.filename or root)} can't be read: {error.strerror}") from None

    if nested:
        parents = sorted({name.partition("/")[0] for name in nested})
        raise DataError(
            f"{shown(root)} looks like the folder above a data set: images lie two folders down, in {some(nested)}; "
            f"set {options.path} to {' or '.join(shown(root / parent) for parent in parents[:_NAMED])}"
        )
    if not names:
        kinds = f"; {len(unread)} files are of kinds that are not read, such as {shown(unread[0])}" if unread else ""
        raise DataError(f"{shown(root)} holds no images ({', '.join(picture.SUFFIXES)}){kinds}")
    if files and len(files) < len(names):
        raise DataError(
            f"{shown(root)} holds {len(files)} images beside class folders that hold {len(names) - len(files)}: "
            f"move them into a class folder, or set {options.path} to one class"
        )

    notes = []
    if empty and not files:
        notes.append(f"empty class folders are left out: {some(empty)}")
    if unread:
        notes.append(about_unread(unread))
    classes = sorted({name.partition("/")[0] for name in names}) if not files else []
    if classes and all(name.lower() in _SPLIT_NAMES for name in classes):
        notes.append(f"the classes are called {some(classes)}: if these are splits, set {options.path} to one")
    return sorted(names), notes


def _entries(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of image files, of folders, and of images of kinds that are not read. Links count as what they lead to."""
    files, folders, unread = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name, suffix = entry.name, os.path.splitext(entry.name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in picture.SUFFIXES and not entry.is_dir():
                files.append(name)
            elif suffix in picture.UNREAD and not entry.is_dir():
                unread.append(name)
            elif entry.is_dir() and name != "__MACOSX":
                folders.append(name)
    return files, sorted(folders), sorted(unread)


def _holds_images(folder: Path) -> bool:
    """Whether there is an image in `folder`, or one folder further down."""
    files, folders, _ = _entries(folder)
    return bool(files) or any(_entries(folder / name)[0] for name in folders)


def _about_bad(root: Path, found: Scan, on_bad_image: str, options: Options) -> str:
    """The note about images that are skipped."""
    reasons = [f"{shown(name)} ({reason})" for name, reason in found.reasons.items()]
    count = f"{len(reasons)} of {len(found.names)} images do not decode"
    if on_bad_image == "refuse":
        raise DataError(f"{shown(root)}: {count}: {some(reasons)}; mend or remove them, or leave them out with {options.skip}")
    return f"{count} and are skipped: {some(reasons)}"


def about_unread(names: list[str]) -> str:
    """The note about images of kinds that are not read."""
    are = "files are of kinds that are" if len(names) > 1 else "file is of a kind that is"
    return f"{len(names)} {are} not read, and left out: {some(names)}"


def some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = [shown(name) for name in names]
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def counted(count: int, word: str, words: str | None = None) -> str:
    """The count and what is counted, in its singular or plural."""
    return f"{count} {word if count == 1 else words or word + 's'}"


def shown(path: AnyPath) -> str:
    """A path as a terminal can show it on one line, whatever its bytes are."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")
