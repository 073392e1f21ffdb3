"""Crops of any size to a batch of images in [-1, 1], on the CPU, while DALI decodes the next ones.

Torch resizes bytes as Pillow does, with weights of 16 bits: 290x290x3 to 128x128 takes it 0.06 ms, where DALI's operator takes
0.30 and its decoder 0.40. It is called beside the pipeline and not in it, which `fn.python_function` could: DALI never runs two
CPU operators at a time, so decoding would wait for it (measured on two cores: 3270 images/s instead of 3460).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.data.workers import Workers

_Batch = tuple[Tensor, Tensor, Tensor]
_Begun = tuple[Callable[[], object], _Batch]

_MODES = {"cubic": "bicubic", "lanczos": "lanczos", "linear": "bilinear"}
_HALF = np.float32(127.5)
_SCALE = np.float32(1) / _HALF  # DALI multiplies by it too: the same floats come of the same levels


def has(filter: str) -> bool:
    """Whether the installed torch resizes bytes by this filter of `stream.FILTERS`; lanczos is younger than the others."""
    try:
        resized(np.zeros((2, 2, 3), np.uint8), 1, filter)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def resized(image: np.ndarray, resolution: int, filter: str) -> np.ndarray:
    """An image as a square, by antialiased interpolation: first along its rows, then along its columns, each rounded to bytes.

    Args:
        image: uint8 (height, width, channels), each at least 1. What lies beyond its edges is left out of the mean.
        resolution: at least 1, above or below the image's sides.
        filter: one that torch `has`: "cubic" (a = -1/2), "lanczos" (3 lobes) or "linear".

    Returns:
        uint8 (resolution, resolution, channels).
    """
    # A batch of one before it is permuted: otherwise torch does not see that the memory is channels-last, and copies it.
    batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    # With AVX2 torch resizes an image of bytes in the thread that asks. (Elsewhere it may split it over its own.)
    shown = F.interpolate(batch, (resolution, resolution), mode=_MODES[filter], antialias=True)
    return shown[0].permute(1, 2, 0).numpy()


def scaled(image: np.ndarray, mirror: bool, out: np.ndarray) -> None:
    """Write uint8 (height, width, channels) to the float32 `out` of that shape in [-1, 1], mirrored left to right if asked to.

    By numpy, which stays in the thread that calls it: torch would split an image of 32,768 numbers over threads of its own.
    """
    if mirror:
        for channel in range(image.shape[2]):  # a row of numbers each, where all at once would be rows of three
            out[:, :, channel] = image[:, ::-1, channel]
    else:
        out[:] = image
    out -= _HALF
    out *= _SCALE


class Resizing:
    """A DALI pipeline of crops, followed by threads that make images of them; two batches are under way all the time.

    A thread of its own runs the pipeline, which asks for files in the thread that runs it: with readers about, that one waits
    for Python's lock, 7 ms a batch of 64 where a network that takes 2,000 images/s has 32.

    Args:
        pipeline: its `run()` gives crops uint8 (height, width, channels), mirror flags int32, labels int64, ordinals int64.
        resolution: side of the images.
        filter: one that torch `has`.
        threads: how many resize, at least 1.
    """

    def __init__(self, pipeline: Any, *, resolution: int, filter: str, threads: int) -> None:
        self._work = pipeline, Workers(threads, "fastgan-resize"), resolution, filter
        self._runner = Workers(1, "fastgan-pipeline")
        self._ahead = deque(self._next() for _ in range(2))

    def run(self) -> _Batch:
        """Images float32 (B, resolution, resolution, channels) in [-1, 1], labels and ordinals int64 (B,) of the next batch.

        Raises:
            whatever the pipeline raises.
        """
        finish, batch = self._ahead.popleft()()[0]
        finish()
        self._ahead.append(self._next())
        return batch

    def _next(self) -> Callable[[], list[_Begun]]:
        return self._runner.begin(_begin, [self._work])

    def close(self) -> None:
        """Let go of the pipeline, once the batch that it is running has come."""
        self._runner.close(wait=True)
        self._ahead.clear()
        self._work = None

    def __del__(self) -> None:
        self.close()


def _begin(work: tuple[Any, Workers, int, str]) -> _Begun:
    """A batch whose images are being made, and what waits until they are."""
    pipeline, workers, resolution, filter = work
    crops, *rest = pipeline.run()
    mirror, labels, ordinals = (torch.from_dlpack(values.as_tensor()) for values in rest)
    flips = mirror.tolist()
    images = torch.empty(len(crops), resolution, resolution, crops.at(0).shape[2])
    pixels = images.numpy()

    def make(place: int) -> None:
        scaled(resized(crops.at(place), resolution, filter), flips[place], pixels[place])

    return workers.begin(make, range(len(crops))), (images, labels, ordinals)
