"""What a source of images is: a fixed, numbered set with labels, and a fingerprint of all of it.

Nothing here loads torch or DALI, so a command can refuse a wrong name or file within milliseconds.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike

import numpy as np

from fastgan.checked import UserError

SPLITS = ("train", "held-out", "all")

AnyPath = str | PathLike[str]


class DataError(UserError, ValueError):
    """Data that cannot be used; its message is one sentence for the user."""


@dataclass(frozen=True, eq=False)
class Source:
    """A fixed, numbered set of labelled images, each either pixels or a file that the stream decodes.

    Attributes:
        name: the source's name in `SOURCES`.
        classes: the name of each class; a label indexes it.
        labels: int64 (N,), read-only.
        channels: 1 or 3, the same for all images.
        read: image `index`, 0 to N - 1. Pixels: uint8 (height, width, channels); sizes may differ between images. Where the
            source has `sizes`: uint8 (bytes,), a file that DALI's decoders read as it should look.
        sizes: int32 (N, 2), height and width of each encoded image; None where `read` gives pixels.
        mistrust: of encoded images: `read` gives image `index` in the plainest file format from now on; whether that is new.
        notes: sentences about what was found that the user should read.
        known_fingerprint: where it is known without reading all images.
        shards: int32 (N,), the shard that each image lies in, where the set is packed.
        warm: reads a whole shard into the system's cache.
        names: the path that each image came by, below the folder that was opened or packed, in the order of the images; None
            where they are no files.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    channels: int
    read: Callable[[int], np.ndarray]
    sizes: np.ndarray | None = None
    mistrust: Callable[[int], bool] | None = None
    notes: tuple[str, ...] = ()
    known_fingerprint: str | None = None
    shards: np.ndarray | None = None
    warm: Callable[[int], None] | None = None
    names: Callable[[], list[str]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal. Of pixels: over every image's shape and bytes, in order, and the labels; read once.

        A folder's covers the name and the content of every image (`fastgan.data.folder`).
        """
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256(f"{len(self)} images".encode())
        for index in range(len(self)):
            image = self.read(index)
            digest.update(f"{image.shape}".encode())
            digest.update(np.ascontiguousarray(image))
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def in_memory(name: str, classes: tuple[str, ...], images: np.ndarray, labels: np.ndarray) -> Source:
    """A source over uint8 (N, H, W, C) images in one array."""
    images = np.ascontiguousarray(images)
    labels = np.array(labels, dtype=np.int64)
    for array in (images, labels):
        array.flags.writeable = False  # the fingerprint is computed once, so what it covers must not change
    return Source(name, classes, labels, images.shape[3], images.__getitem__)


def first_line(error: Exception) -> str:
    """An error's message as far as one line goes."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def review(source: Source, batch_size: int, *, conditional: bool = False) -> tuple[str, ...]:
    """What a run should know about its data before it begins: the source's own notes, and what does not fit the run.

    Args:
        batch_size: images that one discriminator step sees.
        conditional: whether the networks take labels.

    Raises:
        DataError: labels are wanted, but there is one class only.
    """
    if conditional and len(source.classes) < 2:
        raise DataError(
            f"the networks are class-conditional, but the source {source.name!r} has one class ({source.classes[0]!r}): "
            "choose an unconditional preset, or sort the images into class folders"
        )
    notes = source.notes
    if len(source) < batch_size:
        notes += (f"there are {len(source)} images, fewer than a batch of {batch_size}: every batch repeats some",)
    return notes
