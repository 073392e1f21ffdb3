"""Small files written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from fastgan.checked import UserError


def replace_text(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename it there: a reader finds the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write one JSON object."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def make_room_for(path: Path) -> None:
    """See to it that a file can be written at `path`, before the work whose result it is to hold.

    Raises:
        UserError: it can't.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from None
