"""Real data: where images come from (`sources`), how they reach the discriminator (`stream`, a DALI pipeline), and points in
the plane in their place (`points`).

What needs torch is imported on first use, so that `fastgan.data.sources` can check names and files without it.
"""

import importlib
from typing import TYPE_CHECKING

from fastgan.data.source import DataError, Source, review
from fastgan.data.sources import SOURCES, open_source

if TYPE_CHECKING:
    from fastgan.data.points import DISTRIBUTIONS, Distribution, PointStream
    from fastgan.data.stream import Batch, Stream

__all__ = [
    "DISTRIBUTIONS",
    "SOURCES",
    "Batch",
    "DataError",
    "Distribution",
    "PointStream",
    "Source",
    "Stream",
    "open_source",
    "review",
]

_HOMES = dict.fromkeys(("Batch", "Stream"), "stream") | dict.fromkeys(
    ("DISTRIBUTIONS", "Distribution", "PointStream"), "points"
)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fastgan.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
