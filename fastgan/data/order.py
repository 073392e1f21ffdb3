"""In which order an epoch shows the images of a set: a permutation that the seed and the epoch's number decide.

    images    every order of all images is equally likely; reads go anywhere
    shards    the shards in a random order, cut into windows of `WINDOW`, and all images of a window in a random order: reads
              stay within a few shards at a time, which a disk that has to seek, or a store far away, can read from end to end

Packing has put images into shards at random already (`fastgan.data.pack`), so a window is a random sample of all classes. What
"shards" leaves over is that images of one shard stay within a window of each other, in every epoch.
"""

import numpy as np
import torch

from fastgan.kernels import philox

ORDERS = ("images", "shards")
WINDOW = 8
"""Shards whose images are shown in turns: 80,000 images of shards of the usual size."""


def by_images(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 to count - 1, int64 (count,)."""
    return _shuffled(count, seed, "order", epoch)


def by_shards(shards: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the images, window after window.

    Args:
        shards: integers (N,), the shard of each image, 0 to S - 1.

    Returns:
        int64 (N,).
    """
    windows = windows_of(int(shards.max()) + 1, seed, epoch)
    window_of = np.empty(windows.size, dtype=np.int64)
    window_of[windows] = np.arange(len(windows)) // WINDOW
    shuffled = _shuffled(len(shards), seed, "order", epoch)
    return shuffled[np.argsort(window_of[shards[shuffled]], kind="stable")]


def windows_of(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` shards, int64 (count,): `WINDOW` after `WINDOW` of them are read together."""
    return _shuffled(count, seed, "shards", epoch)


def _shuffled(count: int, seed: int, purpose: str, epoch: int) -> np.ndarray:
    words = philox.bits(seed, purpose, torch.arange(count), 1, step=epoch)[:, 0]
    return torch.argsort(words, stable=True).numpy()
