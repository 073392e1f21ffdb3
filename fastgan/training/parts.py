"""Results that come batch after batch: a file a batch, and joined to one file of any size without all lying in memory."""

import csv
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

_NAMES = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "bool": "BOOL"}  # as safetensors calls them
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a zip file's dates: the same results are the same bytes


class Parts:
    """Numbered parts of a result in a folder, each a dict of arrays with as many rows.

    Args:
        folder: need not be there yet.
        count: how many parts the whole has.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def done(self) -> int:
        """How many parts are there, from the first one on without a gap. Damaged ones are not: each is read."""
        for number in range(self.count):
            try:
                with zipfile.ZipFile(self._path(number)) as part:
                    if part.testzip() is not None:
                        return number
            except Exception:  # OSError, BadZipFile, zlib.error, EOFError, NotImplementedError, ... as the damage has it
                return number
        return self.count

    def write(self, number: int, arrays: Arrays) -> None:
        """Keep a part: whole, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path(number)) as file:
            np.savez(file, **arrays)

    def read(self, number: int, *names: str) -> dict[str, np.ndarray]:
        """These arrays of a part; all where none are named."""
        with np.load(self._path(number), allow_pickle=False) as part:
            return {name: part[name] for name in names or part.files}

    def column(self, name: str) -> Iterator[np.ndarray]:
        """An array's rows, part after part."""
        for number in range(self.count):
            yield self.read(number, name)[name]

    def remove(self) -> None:
        """Take the parts away, if any are there, and what a killed process has left of one."""
        if self.folder.exists():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npz"


@contextmanager
def replacing(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO]:
    """A file that takes the place of `path` when it is whole; if writing fails, what was there stays."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a machine that goes down may keep the new name and not what was written
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_npz(path: Path, parts: Parts, names: Sequence[str]) -> None:
    """Join these arrays of all parts in an .npz, as `numpy.savez` writes it."""
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, shape, dtype in _joined(parts, names):
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EARLIEST), "w", force_zip64=True) as member:
                about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, about)
                for rows in parts.column(name):
                    member.write(np.ascontiguousarray(rows).tobytes())


def write_safetensors(path: Path, parts: Parts, names: Sequence[str]) -> None:
    """Join these arrays of all parts in a file of the safetensors format: the length of a JSON header as 8 bytes, the header,
    padded to a multiple of 8, the arrays' bytes one after another. That package writes from memory alone."""
    header, at = {}, 0
    joined = _joined(parts, names)
    for name, shape, dtype in joined:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype.name], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, _, dtype in joined:
            for rows in parts.column(name):
                file.write(rows.astype(dtype.newbyteorder("<"), order="C").tobytes())


FORMS: dict[str, Callable[[Path, Parts, Sequence[str]], None]] = {"npz": write_npz, "safetensors": write_safetensors}
"""How arrays may be written."""


def arrays_in(path: Path) -> list[str]:
    """The names of the arrays in a file that `FORMS` wrote, in their order."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    with path.open("rb") as file:
        return list(_header(file))


def take(path: Path, name: str, numbers: Sequence[int]) -> np.ndarray | None:
    """These rows of an array in a file that `FORMS` wrote, without reading the others; None if there is no such array."""
    with _SOURCES[path.suffix](path, name) as (file, shape, dtype):
        if file is None:
            return None
        start, width = file.tell(), int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        found = np.empty((len(numbers), *shape[1:]), dtype)
        for row, number in enumerate(numbers):
            file.seek(start + int(number) * width)
            found[row] = np.frombuffer(file.read(width), dtype).reshape(shape[1:])
    return found


_Opened = tuple[IO[bytes] | None, tuple[int, ...], np.dtype]


@contextmanager
def _in_npz(path: Path, name: str) -> Iterator[_Opened]:
    """A file at the first byte of an array's values, the array's shape and type."""
    with zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            yield None, (), np.dtype(bool)
            return
        with archive.open(f"{name}.npy") as member:
            np.lib.format.read_magic(member)
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            yield member, shape, dtype


@contextmanager
def _in_safetensors(path: Path, name: str) -> Iterator[_Opened]:
    with path.open("rb") as file:
        header = _header(file)
        if name not in header:
            yield None, (), np.dtype(bool)
            return
        about = header[name]
        dtype = np.dtype(next(ours for ours, theirs in _NAMES.items() if theirs == about["dtype"])).newbyteorder("<")
        file.seek(about["data_offsets"][0], os.SEEK_CUR)
        yield file, tuple(about["shape"]), dtype


def _header(file: IO[bytes]) -> dict[str, Any]:
    """Of a safetensors file; the arrays' bytes follow."""
    return json.loads(file.read(int.from_bytes(file.read(8), "little")))


_SOURCES = {".npz": _in_npz, ".safetensors": _in_safetensors}


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table with its columns' names in the first line."""
    with replacing(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)


def write_lines(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A JSON object a line."""
    with replacing(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """What `write_lines` wrote."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _joined(parts: Parts, names: Sequence[str]) -> list[tuple[str, tuple[int, ...], np.dtype]]:
    """Name, shape and type of each array when joined."""
    first, last = parts.read(0, *names), parts.read(parts.count - 1, *names)
    rows = {name: (parts.count - 1) * len(first[name]) + len(last[name]) for name in names}
    return [(name, (rows[name], *first[name].shape[1:]), first[name].dtype) for name in names]
