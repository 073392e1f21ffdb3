"""Scanning image files: every one is read, hashed and decoded once, and what was found is kept for the next start.

The record of a file holds as long as its name, size and time of change do. All records lie in one file: `.fastgan-scan.npz`
in the scanned folder, or below ~/.cache/fastgan where that folder can't be written. Only new or changed files are read again;
at other starts a set of N files costs N calls of stat.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastgan.data import picture
from fastgan.data.processes import cores
from fastgan.progress import progress

CACHE = ".fastgan-scan.npz"

BAD, GREY, COLOUR = 0, 1, 2
"""What a file is; BAD ones do not decode."""

_VERSION = 1  # of the records: another one is as good as none
_RECORD = np.dtype(
    [
        ("size", "<i8"),
        ("changed", "<i8"),  # nanoseconds
        ("height", "<i4"),
        ("width", "<i4"),
        ("kind", "u1"),
        ("plain", "u1"),  # DALI's decoders show it as it looks
        ("digest", "u1", 32),  # SHA-256 of the file
    ]
)
_ROUND = 1024  # files handed to the threads at once, so that a million of them are no million futures
_QUIET_BELOW = 1000  # files that are scanned without a word: some seconds at most


@dataclass(frozen=True)
class Scan:
    """What is known of each file.

    Attributes:
        names: paths relative to the scanned folder, with "/".
        records: (N,), fields as in `_RECORD`.
        reasons: name of each file that does not decode -> why.
    """

    names: tuple[str, ...]
    records: np.ndarray
    reasons: dict[str, str]


def scan(root: Path, names: Sequence[str], quiet: bool = False) -> Scan:
    """Look at files below `root`, on all cores; those that have not changed since the last scan are not read.

    Args:
        names: paths relative to `root`, with "/".
        quiet: print nothing; otherwise a bar on a terminal, plain lines elsewhere.
    """
    records = np.zeros(len(names), dtype=_RECORD)
    for row, name in enumerate(names):
        # A file that vanished, or may not be looked at, is found bad below.
        with contextlib.suppress(OSError):
            status = os.stat(root / name)
            records["size"][row], records["changed"][row] = status.st_size, status.st_mtime_ns
    known, reasons = _take_known(root, names, records)
    missing = np.flatnonzero(~known).tolist()
    passing: set[str] = set()
    if missing:
        done = 0
        try:
            for row, record, reason, lasting in _inspect_all(root, names, missing, quiet):
                records[row], known[row], done = record, True, done + 1
                if reason is not None:
                    reasons[names[row]] = reason
                if not lasting:
                    passing.add(names[row])
        finally:  # what an interrupted scan has seen need not be seen again
            if done:
                kept = [row for row in np.flatnonzero(known).tolist() if names[row] not in passing]
                _store(root, Scan(tuple(names[row] for row in kept), records[kept], reasons))
    return Scan(tuple(names), records, {name: reasons[name] for name in names if name in reasons})


def _inspect_all(
    root: Path, names: Sequence[str], rows: list[int], quiet: bool
) -> Iterator[tuple[int, np.void, str | None, bool]]:
    """Each row's record, why it is bad, and whether that will stay so while the file does not change."""
    small = len(rows) < _QUIET_BELOW
    with progress("scanning", len(rows), quiet=quiet or small) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about odd metadata
        # Threads, not processes: decoding and hashing let go of Python's lock.
        pool = ThreadPoolExecutor(cores(), thread_name_prefix="fastgan-scan")
        try:
            for start in range(0, len(rows), _ROUND):
                part = rows[start : start + _ROUND]
                for row, found in zip(part, pool.map(lambda row: _inspect(root / names[row]), part), strict=True):
                    yield row, *found
                    advance(1)
        finally:
            pool.shutdown(cancel_futures=True)


def _inspect(path: Path) -> tuple[np.void, str | None, bool]:
    record = np.zeros((), dtype=_RECORD)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except OSError as error:
        return record[()], f"it can't be read: {error.strerror or error}", False
    record["size"], record["changed"] = len(content), status.st_mtime_ns
    record["digest"] = np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
    if not content:
        return record[()], "it is empty", True
    try:
        found = picture.inspect(content)
    except MemoryError:
        return record[()], "there is not memory enough to decode it", False
    except Exception as error:  # Pillow raises some ten types on damage
        return record[()], picture.reason(error), True
    record["height"], record["width"], record["plain"] = found.height, found.width, found.plain
    record["kind"] = GREY if found.grey else COLOUR
    return record[()], None, True


def _take_known(root: Path, names: Sequence[str], records: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """Fill in the records that an earlier scan left, where size and time agree; which ones, and why the bad ones are."""
    stored = _load(root)
    if stored is None:
        return np.zeros(len(names), dtype=bool), {}
    if stored.names == tuple(names):
        places = np.arange(len(names))
    else:
        place_of = {name: place for place, name in enumerate(stored.names)}
        places = np.array([place_of.get(name, -1) for name in names], dtype=np.int64)
    known = places >= 0
    if not len(stored.names):
        return known, {}
    theirs = stored.records[places]  # -1 takes the last, which `known` masks
    known &= (theirs["size"] == records["size"]) & (theirs["changed"] == records["changed"])
    records[known] = theirs[known]
    return known, {names[row]: stored.reasons.get(names[row], "") for row in np.flatnonzero(known & (records["kind"] == BAD))}


def _places(root: Path) -> tuple[Path, Path]:
    """Where a scan may be kept, best first."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgan"
    return root / CACHE, home / f"scan-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.npz"


def _load(root: Path) -> Scan | None:
    for path in _places(root):
        # Whatever is wrong with a cache, the files are there to be scanned again.
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as stored:
            content = json.loads(stored["content"].tobytes())
            records = stored["records"]
            names = tuple(os.fsdecode(name) for name in stored["names"].tobytes().split(b"\0")[:-1])
            if content["version"] == _VERSION and records.dtype == _RECORD and len(names) == len(records):
                return Scan(names, records, content["reasons"])
    return None


def _store(root: Path, found: Scan) -> None:
    content = json.dumps({"version": _VERSION, "reasons": found.reasons}).encode()
    names = b"".join(os.fsencode(name) + b"\0" for name in found.names)
    for path in _places(root):
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial.npz")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            arrays = {"content": np.frombuffer(content, np.uint8), "names": np.frombuffer(names, np.uint8)}
            np.savez(partial, records=found.records, **arrays)
            os.replace(partial, path)
            return
        except OSError:  # the next place; and if there is none, the next start scans again
            with contextlib.suppress(OSError):
                partial.unlink()
