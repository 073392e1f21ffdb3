"""The real images that samples are judged by, as metrics see them, and their features, kept in a file.

The file's name is a key of everything that features depend on: the data's fingerprint and split, resolution, crop and filter,
the extractor's digest, and how many images' features are kept. It lies in the run's folder, below evaluation/, or, where no run
is judged, below ~/.cache/fastgan/evaluation.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.checked import UserError
from fastgan.data import DataError, Source, Stream, open_source, picture
from fastgan.data.order import by_images
from fastgan.engine import Ranks
from fastgan.evaluation import Extractor, Features, Gathering, quantised
from fastgan.evaluation.features import KEPT, key_of
from fastgan.progress import progress
from fastgan.training.run import Run

SPLITS = ("train", "held-out", "all")
_BATCH = 64

Batch = tuple[Tensor, Tensor]
"""uint8 (B, C, H, W) and their labels, int64 (B,)."""


@dataclass(frozen=True)
class RealImages:
    """The images of a source as a run was shown them, without mirroring and noise.

    Attributes:
        source: where they come from.
        settings: resolution, channels, crop, min_area and filter, as `Stream` takes them.
        split: which of the source's.
    """

    source: Source
    settings: dict[str, Any]
    split: str

    @classmethod
    def of_run(cls, run: Run, split: str) -> "RealImages":
        """Those of a run's data.

        Raises:
            DataError: the data can't be opened, or has no such split.
        """
        data = run.config.data
        names = ("resolution", "channels", "crop", "min_area", "filter")
        source = open_source(data.source, data.path, split, on_bad_image=data.on_bad_image, quiet=True)
        return cls(source, {name: getattr(data, name) for name in names}, split)

    @property
    def about(self) -> dict[str, Any]:
        """Everything that they depend on."""
        what = {"data": self.source.name, "fingerprint": self.source.fingerprint, "split": self.split}
        return {**what, **self.settings, "size": [self.settings["resolution"]] * 2}

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, ranks: Ranks) -> Iterator[Batch]:
        """Batch k of 64 is rank k mod count's; each image comes once, in an order drawn from a fixed seed."""
        stream = Stream(self.source, batch_size=_BATCH, seed=0, shard=ranks.rank, shards=ranks.count, **self.settings)
        with contextlib.closing(stream):
            for first in range(ranks.rank * _BATCH, len(self), ranks.count * _BATCH):
                batch, count = next(stream), min(_BATCH, len(self) - first)
                yield quantised(batch["images"][:count]), batch["labels"][:count]


class FolderImages:
    """The images of a folder, or of a packed set, at their own size or at a stated one.

    At a stated side the shorter side becomes it and the middle is cut out, by torchvision's `Resize` and `CenterCrop`: what
    torch-fidelity does with folders whose images differ (its `samples_resize_and_crop`).

    Args:
        path: of images, or of class folders.
        resolution: that side; None leaves images as they are.

    Raises:
        DataError: there is no such folder, it holds no images, or some that do not decode.
        UserError: images differ in size, and no side is stated.
    """

    def __init__(self, path: Path, resolution: int | None = None, quiet: bool = True) -> None:
        self.source, self.resolution = open_source("folder", path, "all", quiet=quiet), resolution
        sizes = np.unique(self.source.sizes, axis=0)
        if resolution is None and len(sizes) > 1:
            (height, width), (other, wide) = sizes[0], sizes[-1]
            raise UserError(f"images in {path} differ in size, {width}x{height} and {wide}x{other} say: give --resolution")
        self.size = (resolution, resolution) if resolution else tuple(int(side) for side in sizes[0])
        # A folder of more images than are kept is shuffled: the first in the order of names are no fair sample.
        count = len(self.source)
        self._order = by_images(count, 0, 0) if count > KEPT else np.arange(count)

    @property
    def about(self) -> dict[str, Any]:
        """Everything that they depend on."""
        what = {"data": "folder", "fingerprint": self.source.fingerprint, "split": "all"}
        return {**what, "resolution": self.resolution, "size": list(self.size)}

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, ranks: Ranks) -> Iterator[Batch]:
        """Batch k of 64 is rank k mod count's."""
        for first in range(ranks.rank * _BATCH, len(self), ranks.count * _BATCH):
            chosen = self._order[first : first + _BATCH]
            images = torch.stack([self._image(int(index)) for index in chosen])
            yield images, torch.from_numpy(self.source.labels[chosen])

    def _image(self, index: int) -> Tensor:
        from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

        image = picture.to_image(self.source.read(index).tobytes()).convert("RGB" if self.source.channels == 3 else "L")
        if self.resolution is not None:
            image = center_crop(resize(image, self.resolution), self.resolution)
        return pil_to_tensor(image)


def path_of(images: RealImages | FolderImages, extractor: Extractor, cache: Path) -> Path:
    """Where `features_of` keeps what this extractor finds in these images."""
    return cache / f"real-{extractor.name}-{key_of(**_about(images, extractor))}.npz"


def _about(images: RealImages | FolderImages, extractor: Extractor) -> dict[str, Any]:
    return {**images.about, "features": extractor.name, "extractor": extractor.digest, "kept": KEPT}


def features_of(
    images: RealImages | FolderImages, extractors: Iterable[Extractor], cache: Path | None, ranks: Ranks, quiet: bool = True
) -> dict[str, Features]:
    """Features by extractor's name, on the first rank; read from `cache` where they lie there, else kept there.

    Args:
        cache: a folder; None keeps nothing.
        ranks: the processes that share the work: all must call.
    """
    extractors = list(extractors)
    abouts = {one.name: _about(images, one) for one in extractors}
    keys = {name: key_of(**about) for name, about in abouts.items()}
    paths = {one.name: path_of(images, one, cache) for one in extractors} if cache is not None else {}
    found: dict[str, Features] = {}
    if ranks.first:
        for name, path in paths.items():
            with contextlib.suppress(OSError, ValueError):  # a damaged file is replaced, never trusted
                found[name] = Features.load(path, keys[name])
    known = ranks.told(set(found))
    missing = [one for one in extractors if one.name not in known]
    if not missing:
        return found
    gatherings = {one.name: Gathering(len(images)) for one in missing} if ranks.first else {}

    def look(batch: Batch) -> tuple[dict[str, tuple[Tensor, Tensor | None]], Tensor]:
        with ranks.alone():
            return {one.name: looked(one, batch[0]) for one in missing}, batch[1]

    with progress("real images", len(images), quiet=quiet or not ranks.first, announced=False) as advance:
        for seen, labels in ranks.in_turn(map(look, images.batches(ranks)), -(-len(images) // _BATCH)):
            for name, (features, logits) in seen.items():
                gatherings[name].add(features, logits, labels)
            advance(len(labels))
    for name, gathering in gatherings.items():
        found[name] = gathering.finish(**abouts[name])
        if name in paths:
            with contextlib.suppress(OSError):  # where nothing can be kept it is computed anew each time
                found[name].save(paths[name], keys[name])
    return found


def load_statistics(path: Path, extractor: Extractor, size: tuple[int, int] | None = None) -> Features:
    """What an earlier evaluation has kept of its real images.

    Args:
        size: of the images that are judged by them; not compared where None.

    Raises:
        UserError: the file can't be read, is none of these, or is of other features or another resolution.
    """
    try:
        found = Features.load(path)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    of = found.about.get("features")
    if found.about.get("extractor") != extractor.digest:
        raise UserError(f"{path} holds statistics of {of} features of other weights than these of {extractor.name}")
    height, width = found.about["size"]
    if size is not None and tuple(size) != (height, width):
        raise UserError(f"{path} is of images of {width}x{height} pixels, not {size[1]}x{size[0]}")
    return found


def whole(images: RealImages, most: int = KEPT) -> Batch:
    """All images, or the first `most` of them, and their labels, in one piece."""
    parts = list(islice(images.batches(Ranks()), -(-most // _BATCH)))
    return torch.cat([part[0] for part in parts])[:most], torch.cat([part[1] for part in parts])[:most]


def has_split(run: Run, split: str) -> bool:
    """Whether a run's data has it; whatever else is wrong with the data is said when it is opened."""
    try:
        open_source(run.config.data.source, run.config.data.path, split, on_bad_image="skip", quiet=True)
    except DataError:
        return False
    return True


def looked(extractor: Extractor, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features and logits.

    Raises:
        UserError: the images are none that this extractor can look at.
    """
    try:
        return extractor(images)
    except ValueError as error:
        raise UserError(f"{extractor.name} features can't be had of these images: {error}") from None


def user_cache() -> Path:
    """Where statistics of folders are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgan"
