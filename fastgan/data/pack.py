"""Packing a folder or an archive of images into shards (`fastgan.data.shards`).

    which image where    sorted by a hash of its name: every shard is a random sample of the classes, whatever was damaged
    resized              the largest square in the middle, by Lanczos' filter of 3 lobes, as Pillow resizes
    whole                the file as it is, where decoders show it as it looks; else its pixels, upright and opaque, as PNG

Processes decode, resize and encode; this one writes shard after shard, each under another name until it is whole. So what a
kill costs is the shard being written: the next start goes on after those that have a record in the folder `.packing`.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from fastgan.data import archives, picture, shards
from fastgan.data.archives import Place
from fastgan.data.folder import counted, shown, some
from fastgan.data.processes import cores, processes
from fastgan.data.shards import FORMAT, MANIFEST, REPORT, ROW, UNFINISHED, Manifest
from fastgan.data.source import AnyPath, DataError
from fastgan.progress import progress

SHARD_SIZE, QUALITY = 10_000, 95
DAMAGED = ("skip", "skip-archives", "refuse")

_PLAN = "plan.json"
_CHUNK = 16  # images that a process takes at a time
_AHEAD = 4  # chunks a process that are under way or done and not yet written
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}


@dataclass(frozen=True)
class Packed:
    """What `pack` did.

    Attributes:
        manifest: of the set.
        already: whether it was packed before, and nothing was done.
    """

    manifest: Manifest
    already: bool


@dataclass(frozen=True)
class Item:
    """An image as it goes into a shard: an image file, its extension, and what it shows."""

    content: bytes
    extension: str
    height: int
    width: int
    grey: bool


def pack(
    source: AnyPath,
    dest: AnyPath,
    *,
    resolution: int | None = None,
    shard_size: int = SHARD_SIZE,
    workers: int | None = None,
    quality: int | None = None,
    lossless: bool = False,
    damaged: str = "skip",
    quiet: bool = False,
) -> Packed:
    """Pack images into shards; goes on where an earlier call was stopped, and does nothing where one has finished.

    The processes import the script that calls this, so that its own work belongs behind `if __name__ == "__main__"`.

    Args:
        source: a folder of images or class folders, or an archive of such; archives in either count as folders.
        dest: the folder for the set, new or empty or packed from the same images by the same settings.
        resolution: side of the squares that are stored; None keeps the images whole.
        shard_size: images of a shard, those that turn out damaged included.
        workers: processes; None is one a core.
        quality: of JPEGs at a resolution, 1 to 100, with colours at full resolution; None is 95.
        lossless: store PNG in the place of JPEG.
        damaged: "skip" images that do not decode, but refuse archives that can't be read to their end; "skip-archives" takes
            what can be read of those as well; "refuse" to finish on either. `report.json` lists them.
        quiet: print no progress.

    Raises:
        DataError: nothing to pack, something else in `dest`, a setting out of its range, damaged images or archives that
            are not to be skipped, or no room.
        OSError: a folder can't be read, or `dest` not be written.
    """
    if resolution is not None and not 1 <= resolution <= 8192:
        raise DataError(f"the resolution must be from 1 to 8192, but is {resolution}")
    if resolution is None and (quality is not None or lossless):
        raise DataError("quality and lossless are for images that are resized: set a resolution too, or leave them out")
    if lossless and quality is not None:
        raise DataError("quality is JPEG's: leave it out, or lossless")
    if quality is not None and not 1 <= quality <= 100:
        raise DataError(f"the quality must be from 1 to 100, but is {quality}")
    if shard_size < 1 or (workers is not None and workers < 1):
        raise DataError("shard size and workers must be at least 1")
    if damaged not in DAMAGED:
        raise DataError(f"damaged must be one of {', '.join(DAMAGED)}, but is {damaged!r}")
    root, into = Path(source).expanduser(), Path(dest).expanduser()
    encoding = "as found" if resolution is None else "png" if lossless else f"jpeg {quality or QUALITY}"
    settings = {"resolution": resolution, "encoding": encoding, "shard_size": shard_size}
    _check_dest(root, into)
    stamp = archives.stamp(root)
    before = shards.read_manifest(into) if (into / MANIFEST).exists() else None
    if before is not None:
        _check_same(into, before.settings, before.source["stamp"], settings, stamp)
        missing = [name for name in before.files if not (into / name).exists()]
        for shard in before.shards:
            if shard["name"] not in missing:
                shards.check_size(into, shard)
        if not missing:
            if before.damaged and damaged == "refuse":
                _refuse(into)
            _leave_no_work(into)
            return Packed(before, already=True)
        if not quiet:
            print(f"missing in {shown(into)}, and written again: {some(missing)}", flush=True)
    work = into / UNFINISHED
    try:
        work.mkdir(parents=True, exist_ok=True)
        return _pack(root, into, settings, stamp, before, workers or cores(), damaged, quiet)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise DataError(f"{shown(into)} can't be written: {error.strerror}; the same line goes on where it stopped") from None


def write_set(
    items: Iterable[tuple[Item, int]],
    dest: AnyPath,
    classes: Sequence[str],
    *,
    of: str,
    settings: dict[str, Any],
    shard_size: int = SHARD_SIZE,
) -> Manifest:
    """Write images that come one by one, and lie nowhere yet, as a packed set in their order.

    Args:
        items: each image and the number of its class.
        dest: the folder for the set, new or empty.
        classes: their names.
        of: where the images come from, for the manifest.
        settings: "resolution" and "encoding", for the manifest.
        shard_size: images of a shard.

    Raises:
        DataError: something else lies in `dest`, or no image comes.
        OSError: `dest` can't be written.
    """
    into = Path(dest).expanduser()
    check_empty(into)
    (into / UNFINISHED).mkdir(parents=True, exist_ok=True)
    writer: _Writer | None = None
    try:
        for row, (item, label) in enumerate(items):
            if writer is not None and row % shard_size == 0:
                writer.finish()
                writer = None
            writer = writer or _Writer(into, row // shard_size)
            writer.add(row, label, item)
        if writer is None:
            raise DataError("there are no images to write")
        last = writer.number
        writer.finish()
        writer = None
    finally:
        if writer is not None:
            writer.abandon()
    records = [json.loads(_record(into, number).read_bytes()) for number in range(last + 1)]
    rows = np.concatenate([np.array([tuple(row) for row in record["rows"]], dtype=ROW) for record in records])
    counts = np.bincount(rows["label"], minlength=len(classes)).tolist()
    shards.write(into / REPORT, (json.dumps({"source": of, "packed": len(rows), "damaged": [], "notes": []}) + "\n").encode())
    names = [shards.member_name(row) for row in range(len(rows))]
    held = [{"name": name, "images": count} for name, count in zip(classes, counts, strict=True)]
    told = {"settings": {**settings, "shard_size": shard_size}, "source": {"path": of, "stamp": ""}, "damaged": 0, "notes": []}
    return _close(into, records, rows, names, classes=held, **told)


def check_empty(into: Path) -> None:
    """Refuse a place for a set that holds anything: DataError."""
    if into.exists() and not into.is_dir():
        raise DataError(f"{shown(into)} is not a folder")
    if into.is_dir() and any(into.iterdir()):
        raise DataError(f"{shown(into)} holds other files: choose a new folder")


def _pack(
    root: Path,
    into: Path,
    settings: dict[str, Any],
    stamp: str,
    before: Manifest | None,
    workers: int,
    damaged: str,
    quiet: bool,
) -> Packed:
    """Whatever is not yet written; `before` is the manifest of a set of which files are missing."""
    work = into / UNFINISHED
    with _alone(work):
        try:
            if not quiet:
                print(f"looking through {shown(root)}", flush=True)  # an archive's million headers take minutes
            job = _begin(root, work, settings, stamp, damaged)
        except DataError:
            if not (work / _PLAN).exists():  # nothing was begun
                shutil.rmtree(work, ignore_errors=True)
                with contextlib.suppress(OSError):
                    into.rmdir()
            raise
        if before is not None:
            _recover(job, into, before)
        _write_shards(job, into, workers, quiet)
        return Packed(_finish(job, into, root, damaged), already=False)


# ---- where and what


@dataclass
class _Job:
    settings: dict[str, Any]
    stamp: str
    found: archives.Listing
    classes: tuple[str, ...]
    labels: list[int]
    order: np.ndarray  # of all places, as the shards have them

    def shards(self) -> list[np.ndarray]:
        size = self.settings["shard_size"]
        return [self.order[start : start + size] for start in range(0, len(self.order), size)]


def _begin(root: Path, work: Path, settings: dict[str, Any], stamp: str, damaged: str) -> _Job:
    """The plan; what an earlier start left of another one is refused."""
    plan = work / _PLAN
    if plan.exists():
        said = json.loads(plan.read_text(encoding="utf-8"))
        if said.get("format") != FORMAT:
            raise DataError(
                f"{shown(work.parent)} was begun by another version of fastgan: delete it, or choose another folder"
            )
        _check_same(work.parent, said["settings"], said["stamp"], settings, stamp)
    archives.clear(work / "unpacked")
    found = archives.listing(root, work / "unpacked")
    if found.broken and damaged != "skip-archives":
        named = some(f"{name} ({reason})" for name, reason in found.broken)
        raise DataError(
            f"{counted(len(found.broken), 'archive')} can't be read to the end, so that images are missing: {named}; mend or "
            "remove what is broken, or pack what can be read with --damaged skip-archives"
        )
    classes, labels = archives.classes(found.places)
    # A hash of the name, not random numbers: an image's place depends on the names alone.
    keys = [hashlib.blake2b(os.fsencode(place.name), digest_size=16).digest() for place in found.places]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    if not plan.exists():
        shards.write(plan, json.dumps({"format": FORMAT, "settings": settings, "stamp": stamp}).encode())
    return _Job(settings, stamp, found, classes, labels, order)


def _check_dest(root: Path, into: Path) -> None:
    if into.exists() and not into.is_dir():
        raise DataError(f"{shown(into)} is not a folder")
    if root.is_dir() and (into.resolve() == root.resolve() or root.resolve() in into.resolve().parents):
        raise DataError(f"{shown(into)} lies in the folder that is to be packed: choose another one")
    if into.is_dir() and not shards.is_packed(into) and any(into.iterdir()):
        raise DataError(f"{shown(into)} holds other files: choose a new folder")


def _check_same(into: Path, settings: dict[str, Any], stamp: str, asked: dict[str, Any], now: str) -> None:
    """Refuse to mix two settings, or two sets of images, in one folder."""
    theirs, ours = _told(settings), _told(asked)
    other = [f"{one}, not {two}" for one, two in zip(theirs, ours, strict=True) if one != two]
    if other:
        # One of the two has no resolution: no encoding either.
        said = other[0] if (settings.get("resolution") is None) != (asked["resolution"] is None) else "; ".join(other)
        raise DataError(
            f"{shown(into)} was packed with {said}: give the same options, choose another folder, or delete this one"
        )
    if stamp != now:
        raise DataError(
            f"{shown(into)} was packed from other images (names, sizes or times of change differ): choose another folder, or "
            "delete this one"
        )


def _told(settings: dict[str, Any]) -> tuple[str, str, str]:
    """Settings as sentences have them."""
    resolution = settings.get("resolution")
    kept = "whole images" if resolution is None else f"--resolution {resolution}"
    return kept, f"{settings.get('encoding')}", f"--shard-size {settings.get('shard_size')}"


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is packing into {shown(work.parent)}") from None
        except OSError:  # a file system without locks
            pass
        yield


# ---- packing


def _write_shards(job: _Job, into: Path, workers: int, quiet: bool) -> None:
    parts = job.shards()
    todo = [number for number in range(len(parts)) if not _is_written(into, number)]
    done = len(job.order) - sum(len(parts[number]) for number in todo)
    if not todo:
        return
    chunks = (
        (number, part[at : at + _CHUNK]) for number in todo for part in (parts[number],) for at in range(0, len(part), _CHUNK)
    )
    resolution, encoding = job.settings["resolution"], job.settings["encoding"]
    under_way: deque[tuple[int, np.ndarray, Future]] = deque()
    pool = processes(workers)
    writer: _Writer | None = None
    try:
        with progress("packing", len(job.order), done, quiet) as advance:
            while True:
                for number, rows in chunks:
                    places = [job.found.places[row] for row in rows.tolist()]
                    under_way.append((number, rows, pool.submit(_prepare_all, places, resolution, encoding)))
                    if len(under_way) >= _AHEAD * workers:
                        break
                if not under_way:
                    break
                number, rows, future = under_way.popleft()
                if writer is not None and writer.number != number:
                    writer.finish()
                    writer = None
                writer = writer or _Writer(into, number)
                for row, item in zip(rows.tolist(), future.result(), strict=True):
                    writer.add(row, job.labels[row], item)
                advance(len(rows))
            if writer is not None:
                writer.finish()
                writer = None
    except BrokenProcessPool:
        raise DataError(
            "a process that decodes images has died (out of memory?): start again, perhaps with fewer workers"
        ) from None
    finally:
        if writer is not None:
            writer.abandon()
        pool.shutdown(cancel_futures=True)


def _record(into: Path, number: int) -> Path:
    return into / UNFINISHED / f"{number:06d}.json"


def _is_written(into: Path, number: int) -> bool:
    try:
        shards.check_size(into, json.loads(_record(into, number).read_bytes()))
    except (FileNotFoundError, DataError):
        return False
    return True


def _recover(job: _Job, into: Path, before: Manifest) -> None:
    """Records, and index files, out of the shards that a finished set still has."""
    row_of = {place.name: row for row, place in enumerate(job.found.places)}
    reasons: dict[int, str] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads((into / REPORT).read_bytes())["damaged"]
        reasons = {row_of[one["path"]]: one["reason"] for one in said if one["path"] in row_of}
    for number, (shard, part) in enumerate(zip(before.shards, job.shards(), strict=True)):
        path = into / shard["name"]
        if _record(into, number).exists() or not path.exists():
            continue
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                continue  # it is written again
            file.seek(0)
            rows, extensions, labels = _rows_of(file, number)
        stored = {row[-1] for row in rows}
        left_out = [(row, reasons.get(row, "it does not decode")) for row in part.tolist() if row not in stored]
        _write_record(into, number, shard["bytes"], shard["sha256"], rows, extensions, labels, left_out)


def _rows_of(file: BinaryIO, number: int) -> tuple[list[tuple[int, ...]], list[str], list[tuple[int, int]]]:
    """Of a whole shard: rows, extensions of the images, offsets and sizes of the labels."""
    rows, extensions, labels, image = [], [], [], ()
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []
            content = archive.extractfile(member).read()
            name, _, extension = member.name.partition(".")
            if extension == "cls":
                labels.append((member.offset_data, member.size))
                at, length, *shape = image
                rows.append((number, at, length, int(content), *shape, int(name)))
                continue
            extensions.append(extension)
            found = picture.header(content)
            image = (member.offset_data, member.size, found.height, found.width, found.grey, zlib.crc32(content))
    return rows, extensions, labels


def _write_record(
    into: Path,
    number: int,
    size: int,
    sha256: str,
    rows: list[tuple[int, ...]],
    extensions: list[str],
    labels: list[tuple[int, int]],
    damaged: list[tuple[int, str]],
) -> None:
    """A whole shard's index file, and its record, which makes it count."""
    name = f"shard-{number:06d}"
    table = np.array(rows, dtype=ROW)
    lines = shards.index_lines(extensions, table, *zip(*labels, strict=True)) if rows else b"v1.2 0\n"
    shards.write(into / f"{name}.idx", lines)
    record = {
        "name": f"{name}.tar",
        "images": len(rows),
        "bytes": size,
        "sha256": sha256,
        "index_sha256": hashlib.sha256(lines).hexdigest(),
        "rows": table.tolist(),
        "damaged": damaged,
    }
    shards.write(_record(into, number), json.dumps(record).encode())


class _Writer:
    """One shard on its way: the tar file under another name, its index and its record."""

    def __init__(self, into: Path, number: int) -> None:
        self.number, self._into, self._name = number, into, f"shard-{number:06d}"
        self._partial = into / f"{self._name}.tar.partial"
        self._file = _Hashed(self._partial.open("wb"))
        self._rows: list[tuple[int, ...]] = []
        self._extensions: list[str] = []
        self._labels: list[tuple[int, int]] = []
        self._damaged: list[tuple[int, str]] = []

    def add(self, row: int, label: int, item: Item | str) -> None:
        """An image, or why it is damaged."""
        if isinstance(item, str):
            self._damaged.append((row, item))
            return
        name, text = shards.member_name(row), b"%d" % label
        at = self._member(f"{name}.{item.extension}", item.content)
        self._labels.append((self._member(f"{name}.cls", text), len(text)))
        self._extensions.append(item.extension)
        crc = zlib.crc32(item.content)
        self._rows.append((self.number, at, len(item.content), label, item.height, item.width, item.grey, crc, row))

    def _member(self, name: str, content: bytes) -> int:
        """Append a file; where its bytes begin."""
        header = tarfile.TarInfo(name)
        header.size = len(content)
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        at = self._file.length
        self._file.write(content + bytes(-len(content) % 512))
        return at

    def finish(self) -> None:
        """Rename the shard; the record comes last, and makes it count."""
        self._file.write(bytes(1024))
        self._file.close()
        os.replace(self._partial, self._into / f"{self._name}.tar")
        told = self._rows, self._extensions, self._labels, self._damaged
        _write_record(self._into, self.number, self._file.length, self._file.hexdigest(), *told)

    def abandon(self) -> None:
        """Remove what was written. On a full disk closing fails too, but closes."""
        with contextlib.suppress(OSError):
            self._file.abandon()
        with contextlib.suppress(OSError):
            self._partial.unlink(missing_ok=True)


class _Hashed:
    """A file being written from its start to its end, and its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self.length = file, hashlib.sha256(), 0
        self.hexdigest = self._digest.hexdigest

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.length += len(content)

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abandon(self) -> None:
        self._file.close()


def _finish(job: _Job, into: Path, root: Path, damaged: str) -> Manifest:
    """Index, report and manifest out of the shards' records."""
    records = [json.loads(_record(into, number).read_bytes()) for number in range(len(job.shards()))]
    rows = np.concatenate([np.array([tuple(row) for row in record["rows"]], dtype=ROW) for record in records])
    places = job.found.places
    bad = [{"path": places[row].name, "reason": reason} for record in records for row, reason in record["damaged"]]
    bad += [{"path": name, "reason": reason} for name, reason in job.found.broken + job.found.unreadable]
    bad.sort(key=lambda one: one["path"])
    counts = np.bincount(rows["label"], minlength=len(job.classes)).tolist()
    classes = [{"name": name, "images": count} for name, count in zip(job.classes, counts, strict=True)]
    notes = list(job.found.notes)
    if job.found.broken:
        notes.append(
            f"only what could be read is packed of archives that are broken: {some(name for name, _ in job.found.broken)}"
        )
    emptied = [one["name"] for one in classes if not one["images"]]
    if emptied:
        notes.append(f"no image of {some(emptied)} decodes: left out of the classes")
    report = {"source": os.fspath(root), "packed": len(rows), "damaged": bad, "notes": notes}
    shards.write(into / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    if bad and damaged == "refuse":
        _refuse(into)
    if not len(rows):
        what = "the one image" if len(places) == 1 else f"none of the {len(places)} images"
        says = "does not decode" if len(places) == 1 else "decodes"
        raise DataError(f"{what} in {shown(root)} {says}: {shown(into / REPORT)} says why")
    names, source = [places[number].name for number in rows["number"].tolist()], {"path": os.fspath(root), "stamp": job.stamp}
    told = {"settings": job.settings, "source": source, "classes": classes, "damaged": len(bad), "notes": notes}
    return _close(into, records, rows, names, **told)


def _close(into: Path, records: list[dict[str, Any]], rows: np.ndarray, names: list[str], **told: Any) -> Manifest:
    """The index and, last, the manifest."""
    manifest = Manifest(
        shards=[{name: record[name] for name in ("name", "images", "bytes", "sha256", "index_sha256")} for record in records],
        index_sha256=shards.write_index(into, rows, names),
        images=len(rows),
        **told,
    )
    shards.write_manifest(into, manifest)
    _leave_no_work(into)
    return manifest


def _leave_no_work(into: Path) -> None:
    shutil.rmtree(into / UNFINISHED, ignore_errors=True)
    for path in into.glob("*.partial"):
        path.unlink(missing_ok=True)


def _refuse(into: Path) -> None:
    bad = json.loads((into / REPORT).read_text(encoding="utf-8"))["damaged"]
    named = some(f"{one['path']} ({one['reason']})" for one in bad)
    raise DataError(
        f"{counted(len(bad), 'damaged image')}: {named}; {shown(into / REPORT)} lists them; --damaged skip leaves them out"
    )


# ---- in the processes that decode


def _prepare_all(places: list[Place], resolution: int | None, encoding: str) -> list[Item | str]:
    return [_prepare(place, resolution, encoding) for place in places]


def _prepare(place: Place, resolution: int | None, encoding: str) -> Item | str:
    """An image as it is stored, or why there is none."""
    try:
        content = place.read()
    except OSError as error:
        return f"it can't be read: {error.strerror or error}"
    except DataError as error:
        return str(error)
    if not content:
        return "it is empty"
    try:
        return prepare(content, resolution, encoding)
    except MemoryError:
        return "there is not memory enough to decode it"
    except Exception as error:  # Pillow raises some ten types on damage
        return picture.reason(error)


def prepare(content: bytes, resolution: int | None, encoding: str) -> Item:
    """An image file as it is stored.

    Args:
        content: the file.
        resolution: side of the square, or None to keep all of it.
        encoding: "as found", "png" or "jpeg QUALITY".

    Raises:
        Exception: it does not decode (`picture.inspect`).
    """
    if resolution is None:
        found = picture.inspect(content)
        if found.plain and picture.header_size(content) == (found.height, found.width):
            extension = _EXTENSIONS[Image.open(io.BytesIO(content), formats=picture.FORMATS).format]
            return Item(content, extension, found.height, found.width, found.grey)
        image, encoding = picture.to_image(content), "png"
    else:
        image = picture.to_image(content)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2  # as `crops` has it
        # Cut first: resized with a box, pixels beyond the square would take part in its edges.
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if encoding == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=int(encoding.split()[1]), subsampling=0)
    return Item(buffer.getvalue(), "png" if encoding == "png" else "jpg", image.height, image.width, image.mode == "L")
