"""Checkpoints: one file each, written aside and renamed, checked when read, the newest few kept.

A file is a zip archive as `torch.save` writes it, of tensors and plain values alone, so it loads with `weights_only=True`.
Whenever a process dies, the folder holds whole checkpoints only: a half-written one still has its temporary name.
"""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from fastgan.checked import UserError

FORMAT = 1
_PARTIAL = ".partial"


def save(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as the checkpoint of its round and remove all but the newest `keep`.

    Raises:
        UserError: the disk does not take it; the checkpoints that were there stay.
    """
    path = folder / f"{state['round']:08d}.pt"
    partial = path.with_suffix(_PARTIAL)
    try:
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync(folder)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
        partial.unlink(missing_ok=True)
        raise UserError(f"the checkpoint {path} can't be written: {error}") from None
    for old in listing(folder)[:-keep]:
        old.unlink()
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or of a format that this version does not know.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch writes a checksum for every tensor, but does not look at it when it loads
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} does not match its checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except (
        OSError,
        RuntimeError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"the checkpoint {path} is damaged ({_first_line(error)}){_instead(path)}") from None
    if version != FORMAT:
        raise UserError(f"the checkpoint {path} has format {version}, this version of fastgan reads format {FORMAT}")
    return state


def listing(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    return sorted(folder.glob("*.pt"))


def clear_partial(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for partial in folder.glob(f"*{_PARTIAL}"):
        partial.unlink()


def _instead(path: Path) -> str:
    older = [other for other in listing(path.parent) if other < path]
    return f"; delete it to go on from {older[-1].name}" if older else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:120]


def _sync(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
