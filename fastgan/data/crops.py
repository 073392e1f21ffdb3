"""Which part of an image is shown: a rectangle per ordinal, drawn from counter-based numbers.

    centre     the largest square, in the middle
    random     a square whose area is uniform in [min_area, 1] of the largest one's, anywhere in the image
    stretch    all of the image; the resize does not keep its aspect ratio

`random` with min_area = 1 moves the largest square along the longer side alone, as BigGAN's training did. A square crop drawn
after resizing the shorter side to the resolution would be the same, so it is no mode of its own.
"""

import numpy as np
import torch

from fastgan.kernels import philox

CROPS = ("centre", "random", "stretch")


def boxes(crop: str, sizes: np.ndarray, seed: int, ordinals: np.ndarray, min_area: float) -> np.ndarray:
    """The rectangle that each ordinal shows of its image.

    Args:
        crop: one of `CROPS`.
        sizes: integers (B, 2), height and width of each image, at least 1.
        seed: 0 to 2**64 - 1.
        ordinals: int64 (B,).
        min_area: the smallest share of the largest square's area, in (0, 1].

    Returns:
        int32 (B, 4): top, left, height, width, inside the image.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    found = np.zeros((len(sizes), 4), dtype=np.int32)
    if crop == "stretch":
        found[:, 2:] = sizes
        return found
    short = sizes.min(axis=1)
    if crop == "centre":
        found[:, :2] = (sizes - short[:, None]) // 2
        found[:, 2:] = short[:, None]
        return found
    words = philox.bits(seed, "crop", torch.from_numpy(ordinals), 3).numpy()
    area = min_area + (1 - min_area) * (words[:, 0] * 2.0**-32)
    side = np.clip(np.rint(short * np.sqrt(area)), 1, short).astype(np.int64)
    # In whole numbers: each of the places has the same share of the 2**32 words, to one word.
    found[:, :2] = (words[:, 1:] * (sizes - side[:, None] + 1)) >> 32
    found[:, 2:] = side[:, None]
    return found
