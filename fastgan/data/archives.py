"""Lists the images of a folder or an archive, archives within them included, and reads each where it lies.

    photos/cat/1.jpg  photos/dog.zip (2.jpg, more/3.jpg refused)      classes cat and dog
    ILSVRC2012_img_train.tar (n01440764.tar (n01440764_18.JPEG, ...), ...)

An archive counts as a folder of its name. What a member is called never becomes a path on this machine: bytes are read from
their place in the archive's file. Only archives that are compressed as a whole, or lie compressed in another one, have to be
unpacked first; that goes to files of our own naming.
"""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastgan.data import picture
from fastgan.data.folder import about_unread, shown, some
from fastgan.data.source import DataError, first_line

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
"""What the names of archives end in, in any case. What they are is read off their first bytes."""

_UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DEEPEST = 8  # folders and archives in each other; links may go round in circles, archives may hold themselves


class Place(NamedTuple):
    """Where one image lies.

    Attributes:
        name: its path below the root, through archives.
        folders: the folders, and stems of archives, that it lies in.
        file: its file, or that of the archive.
        offset, length: of its bytes in the file; length -1 is all of it.
        size: of the bytes when inflated, -1 where they are not deflated.
        crc: CRC-32 of the inflated bytes, -1 where none is known.
    """

    name: str
    folders: tuple[str, ...]
    file: str
    offset: int = 0
    length: int = -1
    size: int = -1
    crc: int = -1

    def read(self) -> bytes:
        """The image file.

        Raises:
            DataError: the archive is cut short, or its bytes are not what its author packed.
            OSError: the file can't be read.
        """
        with open(self.file, "rb", buffering=0) as file:
            if self.length < 0:
                return file.read()
            content = _read(file.fileno(), self.offset, self.length)
        if len(content) < self.length:
            raise DataError("the archive ends before it")
        if self.size >= 0:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size + 1)
            except zlib.error as error:
                raise DataError(f"it does not inflate ({first_line(error)})") from None
            if len(content) != self.size:
                raise DataError("it is not as long as its archive says")
        if self.crc >= 0 and zlib.crc32(content) != self.crc:
            raise DataError("its checksum is not the one in its archive")
        return content


@dataclass
class Listing:
    """What was found.

    Attributes:
        places: of all images, in the order of their names.
        broken: (name, reason) of archives that can't be read to their end: whole classes may be missing.
        unreadable: (name, reason) of images in archives that can't be read at all.
        notes: sentences about what was passed over.
    """

    places: list[Place] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_archive(name: str) -> bool:
    """Whether a file of that name is taken for an archive."""
    return name.lower().endswith(ENDINGS)


def stamp(root: Path) -> str:
    """SHA-256 over name, size and time of change of every image file and archive on this machine's own file system.

    Raises:
        DataError: there is nothing to read at `root`.
        OSError: a folder can't be read.
    """
    digest = hashlib.sha256()
    for name, path in _files(root):
        said = b"none"  # a link that leads nowhere
        with contextlib.suppress(OSError):
            status = os.stat(path)
            said = b"%d %d" % (status.st_size, status.st_mtime_ns)
        digest.update(os.fsencode(name) + b"\0" + said + b"\0")
    return digest.hexdigest()


def listing(root: Path, spool: Path) -> Listing:
    """All images below `root`, a folder or an archive.

    Args:
        spool: a folder for archives that have to be unpacked before their members can be read one by one.

    Raises:
        DataError: there is nothing to read at `root`, or no image.
        OSError: a folder can't be read, or `spool` not be written.
    """
    walk = _Walk(spool)
    for name, path in _files(root, walk):
        if not is_archive(name):
            walk.found.places.append(Place(name, tuple(name.split("/")[:-1]), path))
            continue
        walk.found.places += walk.file(name, path, () if path == str(root) else (*name.split("/")[:-1], _stem(name)))
    found = walk.found
    if walk.unread:
        found.notes.append(about_unread(walk.unread))
    if not found.places:
        if bad := found.broken + found.unreadable:
            found.notes.append(f"can't be read: {some(f'{name} ({reason})' for name, reason in bad)}")
        more = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise DataError(f"{shown(root)} holds no images ({', '.join(picture.SUFFIXES)}){more}")
    found.places.sort(key=lambda place: place.name)
    return found


def classes(places: Iterable[Place]) -> tuple[tuple[str, ...], list[int]]:
    """The names of the classes, sorted, and each image's number among them.

    Images lie in one folder each below a common one, whose own depth does not matter; all in one folder are one class, of
    that folder's name, or "all" where they lie in the root.

    Raises:
        DataError: some lie deeper than others, so that it can't be told which folders are classes.
    """
    places = list(places)
    folders = sorted({place.folders for place in places})
    if len(folders) == 1:
        return ((folders[0][-1] if folders[0] else "all"),), [0] * len(places)
    depth = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(folders[0], folders[-1], strict=False)))
    deep = ["/".join(one) for one in folders if len(one) > depth + 1]
    if len(folders[0]) == depth:  # the shortest sorts first
        raise DataError(f"there are images beside the class folders {some('/'.join(one) for one in folders[1:])}: move them")
    if deep:
        raise DataError(
            f"images lie two folders down, in {some(deep)}, and it can't be told which folders are classes: pack one of the "
            f"folders {some(sorted({'/'.join(one[: depth + 1]) for one in folders}))}"
        )
    names = tuple(one[depth] for one in folders)
    number = {name: label for label, name in enumerate(names)}
    return names, [number[place.folders[depth]] for place in places]


class _Walk:
    """What a walk through archives gathers."""

    def __init__(self, spool: Path) -> None:
        self.found, self._spool, self._spooled = Listing(), spool, 0
        self.unread: list[str] = []

    def file(self, name: str, path: str, folders: tuple[str, ...]) -> list[Place]:
        try:
            with open(path, "rb", buffering=0) as file:
                return self._archive(name, _Window(file, 0, os.fstat(file.fileno()).st_size), folders)
        except OSError as error:
            self.found.broken.append((name, f"it can't be read: {error.strerror or error}"))
            return []

    def _archive(self, name: str, window: "_Window", folders: tuple[str, ...]) -> list[Place]:
        """The images in an archive; `folders` are those that it stands for."""
        if len(folders) > _DEEPEST:
            self.found.broken.append((name, f"it lies deeper than {_DEEPEST} folders and archives"))
            return []
        start = window.at(0, 6)
        places: list[Place] = []
        try:
            if start[:2] == b"PK":
                self._zip(name, window, folders, places)
            elif unpack := next((open_ for magic, open_ in _UNPACKERS.items() if start.startswith(magic)), None):
                with unpack(window) as stream, self._unpacked(name, stream) as file:
                    self._tar(name, _Window(file, 0, os.fstat(file.fileno()).st_size), folders, places)
            else:
                self._tar(name, window, folders, places)
        except (tarfile.TarError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
            self.found.broken.append((name, first_line(error)))
        if not places:
            self.found.notes.append(f"{name} holds no images")
        # `tar cf cat.tar cat` repeats the name within.
        level = len(folders)
        if level and places and all(place.folders[level : level + 1] == folders[-1:] for place in places):
            places = [place._replace(folders=place.folders[:level] + place.folders[level + 1 :]) for place in places]
        return places

    def _tar(self, name: str, window: "_Window", folders: tuple[str, ...], places: list[Place]) -> None:
        links = 0
        with tarfile.open(fileobj=io.BufferedReader(window, 4096), mode="r:") as archive:
            latest: dict[str, list[Place]] = {}  # of two members of one name the later one counts, as if unpacked
            try:
                while (member := archive.next()) is not None:
                    archive.members = []  # a million of them would fill the memory
                    parts = _parts(member.name)
                    if not parts or not (is_archive(parts[-1]) or _is_image(parts[-1])):
                        if parts and _is_unread(parts[-1]):
                            self.unread.append(f"{name}/{'/'.join(parts)}")
                        continue
                    inner = f"{name}/{'/'.join(parts)}"
                    if not member.isreg() or member.issparse():
                        links += member.issym() or member.islnk()
                        continue
                    within = (*folders, *parts[:-1]) if parts[1:] else folders  # one tuple for a million images
                    if is_archive(parts[-1]):
                        part = window.part(member.offset_data, member.size)
                        latest[inner] = self._archive(inner, part, (*within, _stem(parts[-1])))
                    else:
                        offset = window.start + member.offset_data
                        latest[inner] = [Place(inner, within, window.path, offset, member.size)]
                end = window.at(archive.offset, 512)
                if end.strip(b"\0"):
                    raise tarfile.TarError(f"the header at byte {archive.offset} is damaged: what follows can't be found")
                if not end:
                    raise tarfile.TarError("it has no end mark: it may be cut short")
            finally:
                places += [place for found in latest.values() for place in found]
        if links:
            self.found.notes.append(f"{links} links in {name} are left out")

    def _zip(self, name: str, window: "_Window", folders: tuple[str, ...], places: list[Place]) -> None:
        with zipfile.ZipFile(io.BufferedReader(window)) as archive:
            for member in {member.filename: member for member in archive.infolist()}.values():
                parts = _parts(member.filename.replace("\\", "/"))
                if member.is_dir() or not parts or not (is_archive(parts[-1]) or _is_image(parts[-1])):
                    if parts and not member.is_dir() and _is_unread(parts[-1]):
                        self.unread.append(f"{name}/{'/'.join(parts)}")
                    continue
                inner, within = f"{name}/{'/'.join(parts)}", (*folders, *parts[:-1])
                if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    why = "it is encrypted" if member.flag_bits & 1 else f"method {member.compress_type} of ZIP is not read"
                    (self.found.broken if is_archive(parts[-1]) else self.found.unreadable).append((inner, why))
                    continue
                header = window.at(member.header_offset, 30)
                # The local header may be longer than the one in the directory: appendix 4.3.7 of the ZIP specification.
                offset = member.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
                stored = member.compress_type == zipfile.ZIP_STORED
                if not is_archive(parts[-1]):
                    size = -1 if stored else member.file_size
                    at = (window.path, window.start + offset, member.compress_size)
                    places.append(Place(inner, within, *at, size, member.CRC))
                elif stored:
                    part = window.part(offset, member.compress_size)
                    places += self._archive(inner, part, (*within, _stem(parts[-1])))
                else:
                    with archive.open(member) as stream, self._unpacked(inner, stream) as file:
                        whole = _Window(file, 0, os.fstat(file.fileno()).st_size)
                        places += self._archive(inner, whole, (*within, _stem(parts[-1])))

    def _unpacked(self, name: str, stream: io.BufferedIOBase) -> BinaryIO:
        """A file of the spool with what comes out of `stream`, as far as it does."""
        self._spool.mkdir(parents=True, exist_ok=True)
        path = self._spool / f"unpacked-{self._spooled}"
        self._spooled += 1
        with path.open("wb") as file:
            while True:
                try:
                    block = stream.read1(1 << 18)  # what `read` had gathered would be lost with the error
                except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
                    self.found.broken.append((name, first_line(error)))
                    break
                if not block:
                    break
                file.write(block)
        return open(path, "rb", buffering=0)


class _Window(io.RawIOBase):
    """A part of a file, as a file: archives in archives are read where they lie."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self.start, self.length, self._place = file, start, length, 0
        self.path = os.path.abspath(file.name)

    def part(self, offset: int, length: int) -> "_Window":
        return _Window(self._file, self.start + offset, max(0, min(length, self.length - offset)))

    def at(self, offset: int, length: int) -> bytes:
        return _read(self._file.fileno(), self.start + offset, max(0, min(length, self.length - offset)))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.length}[whence])
        return self._place

    def readinto(self, buffer) -> int:
        content = self.at(self._place, len(buffer))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes, or those up to the file's end; one call may give 2 GiB at most."""
    blocks = []
    while length > 0 and (block := os.pread(descriptor, min(length, 1 << 30), offset)):
        blocks.append(block)
        offset, length = offset + len(block), length - len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _files(root: Path, walk: _Walk | None = None) -> list[tuple[str, str]]:
    """(name below the root, path) of every image file and archive, sorted; notes about the rest go to `walk`."""
    if not root.exists():
        raise DataError(f"{shown(root)} does not exist")
    if not root.is_dir():
        if not is_archive(root.name):
            raise DataError(f"{shown(root)} is neither a folder nor an archive ({', '.join(ENDINGS)})")
        return [(root.name, str(root))]
    files: list[tuple[str, str]] = []
    empty: list[str] = []

    def enter(folder: str, parts: tuple[str, ...]) -> bool:
        if len(parts) > _DEEPEST:
            raise DataError(f"{shown(folder)} lies deeper than {_DEEPEST} folders: is it in a circle of links?")
        any_here = False
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _parts(entry.name):
                    continue
                if _is_folder(entry):
                    any_here |= enter(entry.path, (*parts, entry.name))
                elif is_archive(entry.name) or _is_image(entry.name):
                    files.append(("/".join((*parts, entry.name)), entry.path))
                    any_here = True
                elif walk is not None and _is_unread(entry.name):
                    walk.unread.append("/".join((*parts, entry.name)))
        if not any_here and parts:
            empty.append("/".join(parts))
        return any_here

    enter(str(root), ())
    if walk is not None and empty:
        walk.found.notes.append(f"folders without images are left out: {some(sorted(empty))}")
    return sorted(files)


def _parts(name: str) -> list[str]:
    """The components of a member's name; none where one is hidden, or an archiver's own."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return [] if any(part.startswith(".") or part == "__MACOSX" for part in parts) else parts


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in picture.SUFFIXES


def _is_unread(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in picture.UNREAD


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stem(name: str) -> str:
    """An archive's name without its ending."""
    name = name.rpartition("/")[2]
    return name[: -max(len(ending) for ending in ENDINGS if name.lower().endswith(ending))]


def clear(spool: Path) -> None:
    """Remove what was unpacked."""
    shutil.rmtree(spool, ignore_errors=True)
