"""The real images of a run, for samplers that calibrate its discriminator."""

import torch
from torch import Tensor

from fastgan.data import DISTRIBUTIONS, DataError, Stream, open_source
from fastgan.training.run import Run

_UNSEEN = 2**40  # ordinals of points that no training reaches
_BATCH = 64


def real_images(run: Run, count: int) -> tuple[Tensor, Tensor | None]:
    """Real images as the run's discriminator was shown them: cropped, flipped and with noise as in training. Held-out ones,
    where the run's data has such; points that it has not seen; else images that it was trained on.

    Args:
        count: how many at most; every image comes once.

    Returns:
        (N, ...) on the CPU, and int64 (N,) labels for a run with classes.

    Raises:
        DataError: the data can't be opened.
    """
    data, classes = run.config.data, run.config.network.classes
    if data.source in DISTRIBUTIONS:
        return DISTRIBUTIONS[data.source].sample(run.config.seed, torch.arange(_UNSEEN, _UNSEEN + count))[0], None
    try:
        source = open_source(data.source, data.path, "held-out", on_bad_image=data.on_bad_image, quiet=True)
    except DataError:  # there is no such split; whatever else is wrong will be said now
        source = open_source(data.source, data.path, on_bad_image=data.on_bad_image, quiet=True)
    names = ("resolution", "channels", "crop", "min_area", "filter", "flip", "noise", "threads")
    stream = Stream(source, batch_size=_BATCH, seed=run.config.seed, **{name: getattr(data, name) for name in names})
    count = min(count, len(source))
    batches = [next(stream) for _ in range(-(-count // _BATCH))]
    stream.close()
    images, labels = (torch.cat([batch[key] for batch in batches])[:count] for key in ("images", "labels"))
    return images, labels if classes else None
