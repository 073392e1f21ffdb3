"""Real images: where they come from (`sources`), and how they reach the discriminator (`stream`, a DALI pipeline).

`Stream` is imported on first use, so that `fastgan.data.sources` can check names and files without loading torch.
"""

from typing import TYPE_CHECKING

from fastgan.data.source import DataError, Source, review
from fastgan.data.sources import SOURCES, open_source

if TYPE_CHECKING:
    from fastgan.data.stream import Batch, Stream

__all__ = ["SOURCES", "Batch", "DataError", "Source", "Stream", "open_source", "review"]


def __getattr__(name: str) -> object:
    if name in ("Batch", "Stream"):
        from fastgan.data import stream

        return getattr(stream, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
