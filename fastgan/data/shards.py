"""Packed sets: tar files of images, indexed, that `fastgan.data.pack` writes and streams read by position.

    manifest.json       what the set is: settings, classes and counts, SHA-256 of every shard and index; written last
    shard-000000.tar    WebDataset: 000000017.jpg (or another image file) and 000000017.cls, the class's number as text
    shard-000000.idx    where they lie in it, as DALI's own readers.webdataset takes it
    index.npz           the same for all shards at once, as arrays: what streams read
    report.json         the images that are not in it, and why

The number in a member's name is that of the image in the order of all names; `index.npz` has the name that it came by.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.data.encoded import Encoded
from fastgan.data.folder import counted, shown
from fastgan.data.source import AnyPath, DataError, Source

MANIFEST, INDEX, REPORT, UNFINISHED = "manifest.json", "index.npz", "report.json", ".packing"
FORMAT = "fastgan shards 2"

ROW = np.dtype(
    [
        ("shard", "<i4"),
        ("offset", "<i8"),  # of the image file in the shard
        ("length", "<i8"),
        ("label", "<i4"),
        ("height", "<i4"),
        ("width", "<i4"),
        ("grey", "u1"),
        ("crc", "<u4"),  # CRC-32 of the image file
        ("number", "<i8"),  # in the order of all names, damaged ones included
    ]
)
_OPEN = 256  # shards that are held open at once; the files of larger sets are opened for each read


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        settings: how the set was packed.
        source: "path" and "stamp" of what it was packed from.
        classes: of each "name" and "images", in the order of their numbers.
        shards: of each "name", "images", "bytes", "sha256" and "index_sha256".
        index_sha256: of `index.npz`.
        images: how many there are.
        damaged: how many the report lists.
        notes: sentences for whoever trains on it.
    """

    settings: dict[str, Any]
    source: dict[str, str]
    classes: list[dict[str, Any]]
    shards: list[dict[str, Any]]
    index_sha256: str
    images: int
    damaged: int
    notes: list[str]

    @property
    def summary(self) -> str:
        """What the set holds, in a few words."""
        size = sum(shard["bytes"] for shard in self.shards) / 1e6
        resolution, encoding = self.settings["resolution"], self.settings["encoding"]
        kind = f"{resolution}x{resolution} {encoding}" if resolution else "whole"
        classes = sum(1 for one in self.classes if one["images"])
        held = f"{counted(self.images, 'image')} of {counted(classes, 'class', 'classes')}, {kind}"
        return f"{held}, in {counted(len(self.shards), 'shard')} of {size:,.1f} MB in all"

    @property
    def files(self) -> list[str]:
        """The names of all files beside the manifest."""
        tars = [shard["name"] for shard in self.shards]
        return [*tars, *(Path(name).with_suffix(".idx").name for name in tars), INDEX, REPORT]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the classes and all shards: a copy is the same data, other images or another order are not."""
        said = [[one["name"] for one in self.classes], [one["sha256"] for one in self.shards]]
        return hashlib.sha256(json.dumps([FORMAT, *said]).encode()).hexdigest()


def is_packed(path: Path) -> bool:
    """Whether a packed set, whole or not, lies in this folder."""
    return (path / MANIFEST).is_file() or (path / UNFINISHED).is_dir()


def read_manifest(root: Path) -> Manifest:
    """The manifest of the set in `root`.

    Raises:
        DataError: there is no packed set, it is not finished, or the manifest is damaged or of another version.
    """
    if not root.is_dir():
        raise DataError(f"{shown(root)} is not a folder" if root.exists() else f"{shown(root)} does not exist")
    try:
        said = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (root / UNFINISHED).is_dir():
            raise DataError(f"{shown(root)} is not packed to the end: start the same `fastgan data pack` again") from None
        raise DataError(f"{shown(root)} holds no packed set ({MANIFEST} is missing)") from None
    except OSError as error:
        raise DataError(f"{shown(root / MANIFEST)} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{shown(root / MANIFEST)} is damaged: it is no JSON") from None
    form = said.get("format") if isinstance(said, dict) else None
    if isinstance(form, str) and form != FORMAT and form.startswith("fastgan shards "):
        raise DataError(f"{shown(root)} was packed by another version of fastgan ({form}, not {FORMAT}): pack it again")
    if form != FORMAT:
        raise DataError(f"{shown(root / MANIFEST)} is no manifest of the format {FORMAT!r}")
    wrong = _misfit(said, _FORM, "")
    if wrong:
        raise DataError(f"{shown(root / MANIFEST)} is damaged: {wrong}")
    return Manifest(**{name: said[name] for name in Manifest.__annotations__})


def _misfit(said: Any, form: Any, where: str) -> str | None:
    """What in a manifest is not of its form; None where all is."""
    if isinstance(form, dict):
        if not isinstance(said, dict):
            return f"{where or 'it'} is no group of names"
        below = ((said.get(name), one, f"{where}.{name}".lstrip(".")) for name, one in form.items())
        lacking = [name for name in form if name not in said]
        if lacking:
            return f"{where or 'it'} lacks {lacking[0]!r}"
    elif isinstance(form, list):
        if not isinstance(said, list):
            return f"{where} is no list"
        below = ((one, form[0], f"{where}[{place}]") for place, one in enumerate(said))
    else:
        return None if form(said) else f"{where} is not what it should be"
    return next((wrong for given in below if (wrong := _misfit(*given))), None)


def _is_text(said: Any) -> bool:
    return isinstance(said, str)


def _is_count(said: Any) -> bool:
    return isinstance(said, int) and said >= 0


def _is_shard_name(said: Any) -> bool:
    return isinstance(said, str) and re.fullmatch(r"shard-\d{6,}\.tar", said) is not None


_FORM = {
    "settings": {
        "resolution": lambda said: said is None or _is_count(said),
        "encoding": _is_text,
        "shard_size": lambda said: _is_count(said) and said > 0,
    },
    "source": {"path": _is_text, "stamp": _is_text},
    "classes": [{"name": _is_text, "images": _is_count}],
    "shards": [{"name": _is_shard_name, "images": _is_count, "bytes": _is_count, "sha256": _is_text, "index_sha256": _is_text}],
    "index_sha256": _is_text,
    "images": _is_count,
    "damaged": _is_count,
    "notes": [_is_text],
}


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write it whole or not at all."""
    write(root / MANIFEST, (json.dumps({"format": FORMAT, **vars(manifest)}, indent=1) + "\n").encode())


def write_index(root: Path, rows: np.ndarray, names: list[str]) -> str:
    """Write `index.npz`; its SHA-256.

    Args:
        rows: (N,) of `ROW`, in the order of the shards and within them.
        names: (N,), what each came by.
    """
    buffer = io.BytesIO()
    said = b"".join(os.fsencode(name) + b"\0" for name in names)
    np.savez(buffer, rows=rows, names=np.frombuffer(said, np.uint8))
    write(root / INDEX, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_index(root: Path, manifest: Manifest) -> tuple[np.ndarray, bytes]:
    """The rows, and the names one after the other, each with a zero behind it: a million strings would take seconds.

    Raises:
        DataError: the file is missing, damaged, or of another set than the manifest.
    """
    path = root / INDEX
    try:
        with np.load(path, allow_pickle=False) as stored:
            rows, names = stored["rows"], stored["names"].tobytes()
    except FileNotFoundError:
        raise DataError(f"{shown(path)} is missing: start the same `fastgan data pack` again") from None
    except OSError as error:
        raise DataError(f"{shown(path)} can't be read: {error.strerror or 'it is damaged'}") from None
    except Exception:  # NumPy raises many types on damage
        raise DataError(f"{shown(path)} can't be read: it is damaged") from None
    if rows.dtype != ROW or not len(rows) == names.count(b"\0") == manifest.images:
        raise DataError(f"{shown(path)} does not belong to {MANIFEST}: they say {len(rows)} and {manifest.images} images")
    for name, of in (("shard", manifest.shards), ("label", manifest.classes)):
        if len(rows) and not 0 <= rows[name].min() <= rows[name].max() < len(of):
            raise DataError(f"{shown(path)} does not belong to {MANIFEST}: it has a {name} that the other lacks")
    return rows, names


def open_shards(path: AnyPath | None, split: str) -> Source:
    """Open a packed set. Nothing is scanned: a look at the index, and at the sizes of the shards.

    Args:
        path: the folder that `fastgan data pack` wrote.
        split: "train" or "all", which are the same here.

    Raises:
        DataError: there is no packed set, or not the whole of it, or a shard has another size than it was written with.
    """
    if path is None:
        raise DataError("the source 'shards' needs the path of a packed set: set data.path")
    if split == "held-out":
        raise DataError(f"{path} has no held-out split: pack the held-out images for themselves")
    root = Path(path).expanduser()
    manifest = read_manifest(root)
    for shard in manifest.shards:
        check_size(root, shard)
    rows, names = read_index(root, manifest)
    present = [number for number, one in enumerate(manifest.classes) if one["images"]]
    # Networks that are told classes would draw one of which there is no image: it has no number here.
    labels = np.searchsorted(present, rows["label"]).astype(np.int64)
    sizes = np.stack([rows["height"], rows["width"]], axis=1)
    for array in (labels, sizes):
        array.flags.writeable = False
    grey = bool(rows["grey"].all())
    files = _Files(root, [shard["name"] for shard in manifest.shards], rows, names)
    reader = Encoded(files, files.shown, sizes, np.ones(len(rows), bool), grey, since="packed")
    return Source(
        "shards",
        tuple(manifest.classes[number]["name"] for number in present),
        labels,
        1 if grey else 3,
        reader,
        sizes,
        reader.mistrust,
        tuple(manifest.notes),
        manifest.fingerprint,
        rows["shard"].copy(),
        files.warm,
        lambda: [os.fsdecode(name) for name in names.split(b"\0")[:-1]],
    )


def check_size(root: Path, shard: dict[str, Any]) -> None:
    """Refuse a shard that is missing or has another size than it was written with: DataError."""
    path = root / shard["name"]
    try:
        size = path.stat().st_size
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise DataError(f"{shown(path)} {why}") from None
    if size != shard["bytes"]:
        raise DataError(f"{shown(path)} is damaged: it has {size} bytes in the place of {shard['bytes']}")


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; it outlasts a power cut once a later one does."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def index_lines(extensions: list[str], rows: np.ndarray, labels_at: list[int], label_sizes: list[int]) -> bytes:
    """A shard's index file, version 1.2 of what DALI's `wds2idx` writes: of each component its extension, offset, size, name.

    Args:
        extensions: of each image file.
        rows: of the shard's images, of `ROW`.
        labels_at, label_sizes: offset and size of each .cls file.
    """
    lines = [f"v1.2 {len(rows)}\n"]
    for extension, row, at, size in zip(extensions, rows, labels_at, label_sizes, strict=True):
        name = member_name(row["number"])
        image = f"{extension} {row['offset']} {row['length']} {name}.{extension}"
        lines.append(f"{image} cls {at} {size} {name}.cls\n")
    return "".join(lines).encode()


def member_name(number: int) -> str:
    """A member's name in its shard, without its extension."""
    return f"{number:09d}"


class _Files:
    """Reads images out of shards by position; several threads may at once."""

    def __init__(self, root: Path, names: list[str], rows: np.ndarray, came_by: bytes) -> None:
        self._paths, self._rows, self._came_by = [str(root / name) for name in names], rows, came_by
        self._open: dict[int, int] = {}
        self._keep = len(names) <= _OPEN
        weakref.finalize(self, _close_all, self._open)

    def __call__(self, index: int) -> bytes:
        row = self._rows[index]
        shard, length = int(row["shard"]), int(row["length"])
        try:
            descriptor = self._open[shard] if shard in self._open else self._opened(shard)
            try:
                content = os.pread(descriptor, length, int(row["offset"]))
            finally:
                if not self._keep:
                    os.close(descriptor)
        except OSError as error:
            raise DataError(f"{self.shown(index)} can't be read any more: {error.strerror}") from None
        # No JPEG tells what was spoiled behind its header: it decodes to garbage. 1 microsecond for 5 kB, 9 for 48 kB.
        if len(content) != length or zlib.crc32(content) != row["crc"]:
            raise DataError(f"{self.shown(index)} has changed since it was packed: run `fastgan data verify`")
        return content

    def shown(self, index: int) -> str:
        row = self._rows[index]
        came_by = shown(os.fsdecode(self._came_by.split(b"\0")[index]))
        return f"{shown(self._paths[row['shard']])}: {member_name(row['number'])} (from {came_by})"

    def warm(self, shard: int) -> None:
        """Read a shard from its first byte to its last, for the system's cache; what is wrong with it shows later."""
        with contextlib.suppress(OSError), open(self._paths[shard], "rb", buffering=0) as file:
            block = bytearray(4 << 20)
            while file.readinto(block):
                pass

    def _opened(self, shard: int) -> int:
        descriptor = os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        if not self._keep:
            return descriptor
        kept = self._open.setdefault(shard, descriptor)  # another thread may have been faster
        if kept != descriptor:
            os.close(descriptor)
        return kept


def _close_all(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
