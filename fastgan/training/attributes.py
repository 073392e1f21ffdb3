"""Attributes in the codes of an autoencoder's run: their directions, and how entangled these are."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fastgan.data import Source
from fastgan.data.attributes import Attributes, of_classes, read_attributes
from fastgan.engine.local import AUTOCAST
from fastgan.evaluation import AttributeClassifiers, Entanglement, entanglement
from fastgan.latent.directions import directions
from fastgan.training.coding import MOST, Shown, encoded, streamed
from fastgan.training.run import Run

Table = Path | Callable[[Source], Attributes]
"""A CSV file, CelebA's, or a function that gives the attributes of a source's images."""

_BATCH = 64
_WALKS = 256


@dataclass(frozen=True, eq=False)
class Known:
    """Real images of a run with their codes and attributes.

    Attributes:
        names: of the attributes.
        values: (N, A) of the images.
        seen: what classifiers look at of the images, (N, C, h, w), 16x16 at most: no set of images is held at its own size.
        codes: (N, dim), on the run's device.
    """

    names: tuple[str, ...]
    values: Tensor
    seen: Tensor
    codes: Tensor

    def varying(self, asked: Sequence[str] = ()) -> "Known":
        """Without the attributes that are the same in all images, unless they are asked for."""
        there = self.values.amin(0) != self.values.amax(0)
        kept = [number for number, name in enumerate(self.names) if there[number] or name in asked]
        return replace(self, names=tuple(self.names[number] for number in kept), values=self.values[:, kept])

    def directions(self, kind: Literal["means", "least-squares"] = "least-squares") -> Tensor:
        """(A, dim); UserError for an attribute that all images have, or none."""
        return directions(self.codes, self.values, self.names, kind)


def known(run: Run, table: Table | None = None, split: str = "train", most: int = MOST) -> Known:
    """Attributes of a run's images.

    Args:
        run: of an autoencoder.
        table: where they stand; the classes where None.
        split: of the run's data.
        most: images at most.

    Raises:
        DataError: the images or the table can't be read, or do not fit each other.
    """
    read = of_classes if table is None else table if callable(table) else partial(read_attributes, table)
    seen: list[Tensor] = []

    def looked_at(batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for images in batches:
            seen.append(AttributeClassifiers.seen(images))
            yield images

    with streamed(run, split, most) as (source, rows, batches):
        found = read(source).of(rows)
        codes = encoded(run, looked_at(batches))
    return Known(found.names, torch.from_numpy(found.values), torch.cat(seen), codes)


def codes_of(run: Run, shown: Shown) -> Tensor:
    """The averaged generator's codes of images, (N, dim), on the run's device."""
    return encoded(run, shown.images.split(_BATCH))


@torch.no_grad()
def entanglement_of(
    run: Run,
    kind: Literal["means", "least-squares"] = "least-squares",
    table: Table | None = None,
    split: str = "held-out",
    most: int = MOST,
) -> tuple[Entanglement, Tensor]:
    """How entangled a run's directions are, by linear classifiers on the pixels of its training images; walks begin at real
    images of another split, at most 256.

    Args:
        run: of an autoencoder.
        kind: of the directions.
        table: of attributes; the classes where None.
        split: where walks begin; "train" for data without another.
        most: training images behind directions and classifiers, at most.

    Returns:
        The measure, and the classifiers' accuracies on the images where walks begin, (A,).

    Raises:
        UserError: as `known` and `fastgan.latent.directions.directions`.
    """
    train, start = known(run, table, most=most), known(run, table, split, _WALKS)
    judge = AttributeClassifiers(train.seen, train.values)

    generator, dtype = run.ema_generator, AUTOCAST[run.precision]

    def decode(codes: Tensor) -> Tensor:
        with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
            return torch.cat([generator(part).float() for part in codes.split(_BATCH)])

    found = entanglement(decode, start.codes, train.directions(kind).to(start.codes), judge, train.names)
    return found, judge.accuracy(start.seen, start.values)
