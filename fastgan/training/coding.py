"""Runs of autoencoders: the codes of their images, and what they draw."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.data import Source, Stream, open_source
from fastgan.data.order import by_images
from fastgan.engine.local import AUTOCAST
from fastgan.latent import Mixtures, Prior
from fastgan.training.run import Run

MOST = 4096
"""Training images whose codes stand for the whole set."""
_BATCH = 64


def prior_of(run: Run) -> Prior | Mixtures:
    """What a run's latents are drawn from: its prior, or, of autoencoders, mixtures of pairs of its training images' codes, as
    the game mixes them.

    Raises:
        DataError: the training images can't be opened.
    """
    if not run.codes_images:
        return Prior.of(run.config.latent)
    with training_images(run, MOST) as batches:
        codes = encoded(run, batches)
    return Mixtures(codes, run.config.gaia.mix_mean, run.config.gaia.mix_deviation)


@torch.no_grad()
def encoded(run: Run, batches: Iterable[Tensor]) -> Tensor:
    """The averaged generator's codes of images that come by batches (B, C, H, W): (N, dim) float32, on the run's device."""
    generator, dtype = run.ema_generator, AUTOCAST[run.precision]  # a generator of codes is made anew at every access
    with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
        return torch.cat([generator.encode(images.to(run.device)).float() for images in batches])


@contextlib.contextmanager
def training_images(run: Run, most: int) -> Iterator[Iterator[Tensor]]:
    """So many of a run's training images at most, in an order that the run's seed sets, by batches (B, C, H, W) in [-1, 1];
    neither mirrored nor with noise."""
    with streamed(run, "train", most) as (_, _, batches):
        yield batches


class Shown(NamedTuple):
    """Real images, and which they are."""

    source: Source
    rows: np.ndarray
    """int64 (N,), each one's number in the source."""
    images: Tensor
    """(N, C, H, W) in [-1, 1], on the CPU."""

    @property
    def labels(self) -> Tensor:
        """int64 (N,), their classes."""
        return torch.from_numpy(self.source.labels[self.rows])


def images_of(
    run: Run, split: str = "train", most: int | None = None, path: Path | None = None, seed: int | None = None
) -> Shown:
    """Real images at a run's size, neither mirrored nor with noise, in an order that a seed sets.

    Args:
        split: of the run's data.
        most: how many at most.
        path: a folder of images, or a packed set, in the place of the run's data.
        seed: of the order; the run's where None.

    Raises:
        DataError: the images can't be opened, or the data has no such split.
    """
    with streamed(run, split, most, path, seed) as (source, rows, batches):
        return Shown(source, rows, torch.cat(list(batches)))


@contextlib.contextmanager
def streamed(
    run: Run, split: str = "train", most: int | None = None, path: Path | None = None, seed: int | None = None
) -> Iterator[tuple[Source, np.ndarray, Iterator[Tensor]]]:
    """What `images_of` gives, the images by batches: the source, their numbers in it, and an iterator."""
    source = _source(run, split) if path is None else open_source("folder", path, "all", quiet=True)
    count = len(source) if most is None else min(most, len(source))
    seed = run.config.seed if seed is None else seed
    with _batches(run, source, count, seed) as batches:
        yield source, by_images(len(source), seed, 0)[:count], batches


def _source(run: Run, split: str) -> Source:
    data = run.config.data
    return open_source(data.source, data.path, split, on_bad_image=data.on_bad_image, quiet=True)


@contextlib.contextmanager
def _batches(run: Run, source: Source, most: int, seed: int) -> Iterator[Iterator[Tensor]]:
    names = ("resolution", "channels", "crop", "min_area", "filter", "threads")
    settings = {name: getattr(run.config.data, name) for name in names}
    count = min(most, len(source))
    stream = Stream(source, batch_size=min(_BATCH, count), seed=seed, **settings)
    with contextlib.closing(stream):
        yield (next(stream)["images"][: count - first] for first in range(0, count, _BATCH))


@torch.no_grad()
def drawings(generator: nn.Module, discriminator: nn.Module | None, images: Tensor) -> dict[str, Tensor]:
    """What autoencoders make of real images (B, C, H, W), by title, (B, C, H, W) each: x, D(x), G(x), D(G(x)), and G and D of
    the mixture of each image's code with the next one's, in equal shares. Without D, what does not need it."""
    code = generator.encode(images)
    mixture = [(part + part.roll(-1, 0)) / 2 for part in code]
    mixture = type(code)(*mixture) if hasattr(code, "_fields") else tuple(mixture)
    generated = {"G(x)": generator.decode(code), "G(mixture)": generator.decode(mixture)}
    if discriminator is None:
        return {"x": images, **generated}
    redrawn = {f"D({title})": discriminator(drawn) for title, drawn in {"x": images, **generated}.items()}
    titles = ("x", "D(x)", "G(x)", "D(G(x))", "G(mixture)", "D(G(mixture))")
    return {title: ({"x": images} | generated | redrawn)[title] for title in titles}
