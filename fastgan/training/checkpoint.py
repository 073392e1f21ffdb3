"""Checkpoints: one file each, written aside and renamed, checked when read, the newest few kept, and the best one.

A file holds tensors and plain values alone, so it loads with `weights_only=True`, and a digest over all of them.
Whenever a process dies, the folder holds whole checkpoints only: a half-written one still has its temporary name.
"""

import hashlib
import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.checked import UserError

FORMAT = 1
KEYS = {"round", "images", "stage", "game", "engines", "average", "stream", "tally", "guard", "config", "environment"}
"""What a checkpoint has."""
_BEST = "best-"
_PARTIAL = ".partial"
_DAMAGE = (OSError, RuntimeError, AttributeError, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError)
"""What reading a broken file has been seen to raise."""


def save(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as the checkpoint of its round and remove all but the newest `keep`.

    Raises:
        UserError: the disk does not take it; the checkpoints that were there stay.
    """
    path = _write(folder / f"{state['round']:08d}.pt", state)
    for old in listing(folder)[:-keep]:
        old.unlink()
    return path


def save_best(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` as the best checkpoint. Earlier ones stay until `prune_best`.

    Raises:
        UserError: as `save`.
    """
    return _write(folder / f"{_BEST}{state['round']:08d}.pt", state)


def best(folder: Path) -> Path | None:
    """The best checkpoint, if there is one: of several the latest, which was better than those before it."""
    return max(_bests(folder), default=None)


def prune_best(folder: Path, oldest: int) -> None:
    """Remove best checkpoints, but those that are the best so far at the round `oldest` or became it later."""
    bests = _bests(folder)
    for path, following in pairwise(bests):
        if _round(following) <= oldest:
            path.unlink()


def _write(path: Path, state: dict[str, Any]) -> Path:
    partial = path.with_suffix(_PARTIAL)
    try:
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT, "digest": _digest(state), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
        partial.unlink(missing_ok=True)
        raise UserError(f"the checkpoint {path} can't be written: {error}") from None
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or of a format that this version does not know.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, digest = state.pop("format"), state.pop("digest")
        if version == FORMAT and digest != _digest(state):  # torch does not look at the archive's own checksums
            raise ValueError("its content is not what was saved")
        if version == FORMAT and not state.keys() >= KEYS:
            raise KeyError(f"it lacks {', '.join(sorted(KEYS - state.keys()))}")
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except _DAMAGE as error:
        raise UserError(f"the checkpoint {path} is damaged ({_first_line(error)}){_instead(path)}") from None
    if version != FORMAT:
        raise UserError(f"the checkpoint {path} has format {version}, this version of fastgan reads format {FORMAT}")
    return state


def listing(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    return sorted(folder.glob("[0-9]" * 8 + ".pt"))


def drop_after(folder: Path, round_number: int) -> None:
    """Remove the checkpoints of later rounds, the best ones too."""
    for path in (*listing(folder), *_bests(folder)):
        if _round(path) > round_number:
            path.unlink()


def clear_partial(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for partial in folder.glob(f"*{_PARTIAL}"):
        partial.unlink()


def _bests(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_BEST}{'[0-9]' * 8}.pt"))


def _round(path: Path) -> int:
    return int(path.stem.removeprefix(_BEST))


def _instead(path: Path) -> str:
    older = [other for other in listing(path.parent) if other < path]
    return f"; delete it to go on from {older[-1].name}" if older else ""


def _digest(state: Any) -> str:
    """SHA-256 over every tensor and value, in order."""
    found = hashlib.sha256()

    def take(node: Any) -> None:
        if isinstance(node, Tensor):
            found.update(f"{node.dtype}{tuple(node.shape)}".encode())
            found.update(node.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(node, dict):
            for key, value in node.items():
                found.update(repr(key).encode())
                take(value)
        elif isinstance(node, list | tuple):
            found.update(str(len(node)).encode())
            for value in node:
                take(value)
        else:
            found.update(repr(node).encode())

    take(state)
    return found.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:120]


def _sync(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
