"""Features of a set of images, and the file that keeps those of a real one.

Features are held in float32, all statistics of them in float64. A set of more than `KEPT` images keeps the features of its
first ones, which is what neighbours, subsets and bins are made of, and the mean and covariance of all of them.
"""

import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.evaluation.frechet import FeatureStatistics, Gaussian

KEPT = 50_000
"""Images whose features are kept, the number that published FIDs are computed from."""

_CHUNK = 4096  # rows that a covariance takes at once: each update costs some passes over (F, F) numbers
_WIDEST = 4096  # features whose covariance is worth its memory and its place in a file
_FORM = "fastgan real statistics 1"


@dataclass(frozen=True)
class Features:
    """What an extractor has found in a set of images, on the CPU.

    Attributes:
        features: float32 (N, F) of the images that are kept.
        count: images in all, at least N.
        logits: float32 (N, C), where the extractor classifies.
        labels: int64 (N,), where the images have classes.
        known: mean and covariance of all `count` images; None where they are to be computed from `features`.
        about: what the set is and what the features depend on.
    """

    features: Tensor
    count: int
    logits: Tensor | None = None
    labels: Tensor | None = None
    known: Gaussian | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean and covariance in float64. Raises ValueError for fewer than two images."""
        return self.known or gaussian(self.features)

    def save(self, path: Path, key: str) -> None:
        """Write them beside `path` and rename: a reader finds the old file or the new one, whenever this process dies."""
        arrays = {"features": self.features.numpy()}
        arrays |= {name: value.numpy() for name in ("logits", "labels") if (value := getattr(self, name)) is not None}
        if self.features.shape[1] <= _WIDEST:
            arrays |= self.gaussian._asdict()
        said = {"form": _FORM, "key": key, "count": self.count, "about": self.about}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with partial.open("wb") as file:
                np.savez(file, said=np.frombuffer(json.dumps(said).encode(), np.uint8), **arrays)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, key: str | None = None) -> "Features":
        """Read what `save` wrote.

        Args:
            key: the one that it must have been saved under; any where None.

        Raises:
            OSError: the file can't be read (FileNotFoundError: there is none).
            ValueError: it is no such file, it is damaged, or it was saved under another key.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                said = json.loads(stored["said"].tobytes())
                if said["form"] != _FORM:
                    raise ValueError(f"it is of the form {said['form']!r}")
                arrays = {name: stored[name] for name in stored.files if name != "said"}
            known = Gaussian(arrays.pop("mean"), arrays.pop("covariance")) if "mean" in arrays else None
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            found = cls(count=said["count"], known=known, about=said["about"], **tensors)
        except OSError:
            raise
        except Exception as error:  # a damaged file fails anywhere in zip, numpy's header or JSON
            raise ValueError(f"{path} holds no real statistics, or is damaged: {error}") from error
        if key is not None and said["key"] != key:
            raise ValueError(f"{path} was saved under another key")
        return found


class Gathering:
    """Collects features batch by batch.

    Args:
        expected: how many images will come.
        kept: of how many the features are kept.
    """

    def __init__(self, expected: int, kept: int = KEPT) -> None:
        self._rows, self._seen = min(expected, kept), 0
        self._kept: dict[str, Tensor] = {}
        self._waiting: list[Tensor] = []
        self._statistics = FeatureStatistics() if expected > kept else None

    def add(self, features: Tensor, logits: Tensor | None = None, labels: Tensor | None = None) -> None:
        """A batch: (B, F), (B, C) and (B,); what the first one lacks none may have."""
        if features.shape[1] > _WIDEST:
            self._statistics = None
        first, fits = self._seen, max(0, min(len(features), self._rows - self._seen))
        for name, batch in (("features", features), ("logits", logits), ("labels", labels)):
            if batch is not None:
                if name not in self._kept:  # all rows at once: a list of batches would be held twice when it is joined
                    self._kept[name] = batch.new_empty(self._rows, *batch.shape[1:], device="cpu")
                self._kept[name][first : first + fits] = batch[:fits]
        self._seen += len(features)
        if self._statistics is not None:
            self._waiting.append(features.cpu())
            if sum(map(len, self._waiting)) >= _CHUNK:
                self._count()

    def finish(self, **about: Any) -> Features:
        """All that came. Raises ValueError where nothing did."""
        if not self._seen:
            raise ValueError("there are no images to judge")
        if self._waiting:
            self._count()
        kept = {name: values[: self._seen] for name, values in self._kept.items()}
        known = self._statistics.gaussian() if self._statistics is not None else None
        return Features(count=self._seen, known=known, about=about, **kept)

    def _count(self) -> None:
        self._statistics.update(torch.cat(self._waiting))
        self._waiting.clear()


def gaussian(features: Tensor) -> Gaussian:
    """Mean and covariance of (N, F), N at least 2, in float64, without a float64 copy of all of them.

    Raises:
        ValueError: too few, or too many features for a covariance.
    """
    if features.shape[1] > _WIDEST:
        raise ValueError(f"a distance of Gaussians takes at most {_WIDEST:,} features, not {features.shape[1]:,}")
    statistics = FeatureStatistics()
    for chunk in features.split(_CHUNK):
        statistics.update(chunk)
    return statistics.gaussian()


def key_of(**parts: Any) -> str:
    """A name for everything that statistics depend on: 24 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
