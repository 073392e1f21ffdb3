"""Images that a run's generator is to draw again: a folder's, a file's or the run's own, in their own order.

They come through the stream that training has (`fastgan.data.Stream`), so they are cropped, resized and rounded as the run's
own were; only mirroring and noise are left out, and random crops become the one in the middle.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.checked import UserError, nearest
from fastgan.data import DISTRIBUTIONS, Source, Stream, open_source
from fastgan.data.folder import Options, counted
from fastgan.data.order import by_images
from fastgan.training.run import Run

OWN = ("train", "held-out", "all")
"""Words that ask for a split of the run's own data; a folder of such a name is ./train."""
ARRAYS = (".npz", ".npy")

_OPTIONS = Options("--images", "--on-bad-image skip")
_SEED = 0  # of the stream's order, which `_in_order` undoes
_SHOWN = "the largest square in the middle"


@dataclass(frozen=True)
class Targets:
    """A fixed, numbered set of images at a run's resolution.

    Attributes:
        where: the folder, the file, or one of `OWN`.
        source: what holds them.
        settings: resolution, channels, crop and filter, as `Stream` takes them.
        folder: whose files they are, where each is a file.
    """

    where: str
    source: Source
    settings: dict[str, Any]
    folder: Path | None = None

    @classmethod
    def of(cls, run: Run, where: str | Path, on_bad_image: str = "refuse", quiet: bool = True) -> "Targets":
        """Open images for a run.

        Args:
            where: a folder of images or of class folders, a packed set, an .npz or .npy file, or a word of `OWN` for the run's
                own data.
            on_bad_image: what to do about files of a folder that do not decode: "refuse", or "skip" them.
            quiet: show no progress of a folder's scan.

        Raises:
            UserError: the run draws points, or the images are in colour and the run's are grey.
            DataError: there are no such images, they can't be read, or some do not decode and are not to be skipped.
        """
        data = run.config.data
        if data.source in DISTRIBUTIONS:
            raise UserError(f"the run in {run.path} draws points, not images")
        where = os.fspath(where)
        if where in OWN:
            kind, path, split = data.source, data.path, where
        else:
            kind, path, split = "arrays" if where.lower().endswith(ARRAYS) else "folder", where, "all"
        source = open_source(kind, path, split, on_bad_image=on_bad_image, quiet=quiet, options=_OPTIONS)
        if source.channels > data.channels:
            raise UserError(f"{where} holds images in colour, but the run in {run.path} draws grey ones")
        crop = "stretch" if data.crop == "stretch" else "centre"
        settings = {"resolution": data.resolution, "channels": data.channels, "crop": crop, "filter": data.filter}
        return cls(where, source, settings, Path(path).expanduser() if source.name == "folder" else None)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def own(self) -> bool:
        """Whether they are of the run's own data."""
        return self.where in OWN

    def name(self, number: int) -> str:
        """What a table calls an image: its path below the folder, or its number."""
        if self.source.name != "folder":
            return str(number)
        return self.source.read.shown(number).removeprefix(os.path.join(str(Path(self.where).expanduser()), ""))

    def class_name(self, number: int) -> str:
        """The class folder of an image, or its class in the run's data."""
        return self.source.classes[self.source.labels[number]]

    def kinds(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each class that has images, and which these are, bool (N,); nothing where all are of one class."""
        names = self.source.classes if len(self.source.classes) > 1 else ()
        for label, name in enumerate(names):
            own = self.source.labels == label
            if own.any():
                yield name, own

    def batches(self, size: int, numbers: Sequence[int] | np.ndarray) -> Iterator[Tensor]:
        """The images of these numbers, float32 (B, C, side, side) in [-1, 1] on the CPU, `size` at a time.

        Raises:
            DataError: a file has changed or went away since it was scanned.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        if not len(numbers):
            return
        size = min(size, len(numbers))  # a stream fills its batches with the next epoch's
        stream = Stream(_in_order(self.source, numbers), batch_size=size, seed=_SEED, **self.settings)
        with contextlib.closing(stream):
            for first in range(0, len(numbers), size):
                yield next(stream)["images"][: len(numbers) - first]

    def take(self, numbers: Sequence[int]) -> Tensor:
        """These images in one piece, (N, C, side, side)."""
        side, channels = self.settings["resolution"], self.settings["channels"]
        parts = list(self.batches(64, numbers))
        return torch.cat(parts) if parts else torch.empty(0, channels, side, side)

    def told(self) -> list[str]:
        """What the user should know: how many images there are, how they were resized, what the source found."""
        side, kinds = self.settings["resolution"], len(self.source.classes)
        classes = f" in {counted(kinds, 'class', 'classes')}" if kinds > 1 else ""
        what = f"the run's own ({self.source.name}, {self.where})" if self.own else self.where
        line = f"{counted(len(self), 'image')}{classes} of {what}"
        sizes = self._sizes()
        other = (sizes != side).any(axis=1)
        if other.any():
            few, most = (_size(size) for size in (sizes[other].min(axis=0), sizes[other].max(axis=0)))
            part = "all of it" if self.settings["crop"] == "stretch" else _SHOWN
            which = "all" if other.all() else f"{other.sum()}"
            of = few if few == most else f"{few} to {most}"
            line += f": {which} resized from {of} to {side}x{side} ({part}, {self.settings['filter']})"
        if self.source.channels < self.settings["channels"]:
            line += "; grey ones repeated to three channels"
        return [line, *self.source.notes]

    def _sizes(self) -> np.ndarray:
        """Height and width of each, (N, 2); of pixels those of the first, (1, 2)."""
        return self.source.sizes if self.source.sizes is not None else np.array([self.source.read(0).shape[:2]])


def labels_of(run: Run, targets: Targets, asked: str | None) -> np.ndarray | str | None:
    """The class that each image is to be drawn in.

    Args:
        asked: a class's number for all images; "folders", the class that an image's folder names: by a number where all
            folders are called by numbers, else by the name that the class has in the run's data; "search", each class is
            tried; None, for the run's own data its labels, else "search".

    Returns:
        int64 (N,), "search", or None for a run without classes.

    Raises:
        UserError: the run has no classes, or not this one; a folder names none, or there are no class folders.
    """
    classes = run.config.network.classes
    if not classes:
        if asked is not None:
            raise UserError(f"the run in {run.path} is not class-conditional: it takes no labels")
        return None
    if asked is None:
        asked = "folders" if targets.own else "search"
    if asked == "search":
        return "search"
    if asked == "folders":
        return _of_folders(run, targets)[targets.source.labels]
    try:
        label = int(asked)
    except ValueError:
        raise UserError(f"labels are the number of a class, folders or search, not {asked!r}") from None
    return np.full(len(targets), _checked(run, label))


def _of_folders(run: Run, targets: Targets) -> np.ndarray:
    """The run's class of each class of the targets, int64."""
    names = targets.source.classes
    if targets.own:
        return np.array([_checked(run, label) for label in range(len(names))])
    if names == ("all",):
        raise UserError(f"{targets.where} has no class folders: give a class's number, or search")
    if all(name.isdecimal() for name in names):
        return np.array([_checked(run, int(name), f"class folder {name!r}: ") for name in names])
    data = run.config.data
    known = open_source(data.source, data.path, on_bad_image=data.on_bad_image, quiet=True).classes
    for name in names:
        if name not in known:
            raise UserError(f"class folder {name!r} is no class of the run in {run.path}: {nearest(name, known)}")
    return np.array([_checked(run, known.index(name)) for name in names])


def _checked(run: Run, label: int, whose: str = "") -> int:
    classes = run.config.network.classes
    if not 0 <= label < classes:
        raise UserError(f"{whose}label {label} is out of range: the classes of the run in {run.path} are 0 to {classes - 1}")
    return label


def _in_order(source: Source, numbers: np.ndarray) -> Source:
    """These images as a source whose stream shows them in this order in its first epoch."""
    chosen = np.empty_like(numbers)
    chosen[by_images(len(numbers), _SEED, 0)] = numbers
    labels = source.labels[chosen]
    known = {"labels": labels, "read": lambda index: source.read(int(chosen[index])), "shards": None, "warm": None}
    if source.sizes is not None:
        known |= {"sizes": source.sizes[chosen], "mistrust": lambda index: source.mistrust(int(chosen[index]))}
    return replace(source, **known)


def _size(sides: np.ndarray) -> str:
    return f"{sides[1]}x{sides[0]}"
