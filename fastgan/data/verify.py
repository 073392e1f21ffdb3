"""Verifying a packed set (`fastgan.data.shards`) against its own manifest."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.data import picture, shards
from fastgan.data.archives import Place
from fastgan.data.folder import shown, some
from fastgan.data.processes import cores, processes
from fastgan.data.shards import INDEX, MANIFEST, Manifest
from fastgan.data.source import AnyPath, DataError
from fastgan.progress import progress

_CHUNK = 128  # images that a process takes at a time


def verify(dest: AnyPath, *, decode: bool = False, workers: int | None = None, quiet: bool = False) -> Manifest:
    """Read a packed set again and compare it with its manifest: every shard's bytes, the indexes, the counts.

    Args:
        dest: the folder of the set.
        decode: decode every image, too.
        workers: threads that read, and processes that decode; None is one a core.
        quiet: print no progress.

    Returns:
        The manifest, where nothing is wrong.

    Raises:
        DataError: names what is wrong, a shard that has changed above all.
    """
    if workers is not None and workers < 1:
        raise DataError(f"workers must be at least 1, but is {workers}")
    root, workers = Path(dest).expanduser(), workers or cores()
    manifest = shards.read_manifest(root)
    wrong = []
    known = {shard["name"] for shard in manifest.shards}
    others = sorted(path.name for path in root.glob("shard-*.tar") if path.name not in known)
    if others:
        wrong.append(f"{some(others)}: not in {MANIFEST}")
    wrong_index = _wrong_file(root / INDEX, manifest.index_sha256)
    wrong += wrong_index or _wrong_counts(manifest, shards.read_index(root, manifest)[0])
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fastgan-verify")
    with progress("verifying", manifest.images, quiet=quiet) as advance:
        try:
            checks = [pool.submit(_wrong_shard, root, shard) for shard in manifest.shards]
            for shard, check in zip(manifest.shards, checks, strict=True):
                wrong += check.result()
                advance(shard["images"])
        finally:
            pool.shutdown(cancel_futures=True)
    if decode and not wrong:
        wrong += _wrong_images(root, manifest, workers, quiet)
    if wrong:
        raise DataError(f"{shown(root)} is damaged: {'; '.join(wrong[:3])}" + f" and {len(wrong) - 3} more" * (len(wrong) > 3))
    return manifest


def _wrong_shard(root: Path, shard: dict[str, Any]) -> list[str]:
    try:
        shards.check_size(root, shard)
    except DataError as error:
        return [str(error)]
    index = Path(shard["name"]).with_suffix(".idx").name
    return _wrong_file(root / shard["name"], shard["sha256"]) + _wrong_file(root / index, shard["index_sha256"])


def _wrong_counts(manifest: Manifest, rows: np.ndarray) -> list[str]:
    """What index and manifest contradict each other in."""
    wrong = []
    in_shard = np.bincount(rows["shard"], minlength=len(manifest.shards)).tolist()
    for shard, count in zip(manifest.shards, in_shard, strict=False):
        if count != shard["images"]:
            wrong.append(f"{shard['name']} has {count} images in {INDEX} and {shard['images']} in {MANIFEST}")
    in_class = np.bincount(rows["label"], minlength=len(manifest.classes)).tolist()
    if in_class != [one["images"] for one in manifest.classes]:
        wrong.append(f"{INDEX} and {MANIFEST} count the images of the classes differently")
    return wrong


def _wrong_images(root: Path, manifest: Manifest, workers: int, quiet: bool) -> list[str]:
    rows = shards.read_index(root, manifest)[0]
    paths = [str(root / shard["name"]) for shard in manifest.shards]
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    wrong: list[str] = []
    pool = processes(workers)
    try:
        with progress("decoding", len(rows), quiet=quiet) as advance:
            for chunk, found in zip(chunks, pool.map(_undecodable, [paths] * len(chunks), chunks), strict=True):
                wrong += found
                advance(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)
    return wrong


def _undecodable(paths: list[str], rows: np.ndarray) -> list[str]:
    wrong = []
    for row in rows:
        path, name = paths[row["shard"]], shards.member_name(row["number"])
        try:
            found = picture.inspect(Place(name, (), path, int(row["offset"]), int(row["length"])).read())
        except Exception as error:  # Pillow's, of many types
            wrong.append(f"{shown(path)}: {name} does not decode ({picture.reason(error)})")
            continue
        if (found.height, found.width) != (row["height"], row["width"]):
            wrong.append(f"{shown(path)}: {name} is {found.height}x{found.width}, not {row['height']}x{row['width']}")
    return wrong


def _wrong_file(path: Path, sha256: str) -> list[str]:
    try:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return [f"{shown(path)} is missing"]
    except OSError as error:
        return [f"{shown(path)} can't be read: {error.strerror}"]
    return [] if same else [f"{shown(path)} has changed since it was packed (SHA-256)"]
