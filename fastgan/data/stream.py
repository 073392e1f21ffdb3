"""The stream of real images: one DALI pipeline for CPU and GPU, in an order of our own.

    ordinal k = 0, 1, 2, ...  counts the images that the run draws, over all shards and for ever
    image(k)  = order(k // N)[k mod N],   order(e) = argsort of one random word an image, drawn for epoch e
    flip(k), noise(k)                     drawn for the ordinal k
    at step t shard s hands out ordinals  start + (t * shards + s) * batch_size + 0 ... batch_size - 1

All random numbers are counter-based (`kernels.philox`), so what ordinal k shows depends on the seed and on k alone: neither
on the number of shards, nor on the batch size, nor on a resume, and the whole state is a count. DALI draws nothing: its
readers' own shuffling repeats images after the first epoch, and its generators are counted per pipeline, not per image.

Batches run over the ends of epochs; no image is dropped or shown twice in an epoch.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.data.sources import DataError, Source
from fastgan.kernels import philox

Batch = dict[str, Tensor]


class Stream:
    """An endless iterator of batches of real images.

    `next(stream)` gives a dict of
        images: float32 (batch_size, channels, resolution, resolution) in [-1, 1 + noise], channels-last in memory;
        labels: int64 (batch_size,), indices into `source.classes`;
        indices: int64 (batch_size,), the ordinals of these images.
    A batch stays valid for as long as it is held: no buffer is used again under it.

    Images are resized with the cubic filter (a = -1/2, edges repeated; with antialiasing when they shrink) and rounded to
    the 256 grey levels, as a data set stored at that size would be, before they are scaled to [-1, 1]; noise of 1/128
    therefore fills the step from one level to the next. The aspect ratio is not kept.

    Resizing anew each epoch is cheap: digits to 32x32x3 in batches of 64 came at 60,000 images/s on one DALI thread of two
    cores, with noise at 18,000 (three quarters of that time are the noise's), where an SNGAN step there trains on some 100.

    Args:
        source: the images. Grey images are repeated to three channels where `channels` is 3.
        resolution: side of the images in pixels, at least 1.
        channels: 1 or 3.
        batch_size: images that one shard hands out at a time.
        seed: 0 to 2**64 - 1.
        flip: mirror every other image, at random, left to right.
        noise: width of the dequantisation noise, U[0, noise), added after scaling.
        shard: this process's number, 0 to shards - 1.
        shards: how many processes share the images.
        device: where the pipeline runs and its batches lie, "cpu" or a CUDA device.
        prefetch: batches that DALI prepares ahead, at least 1.
        threads: DALI's CPU threads, at least 1.

    Raises:
        DataError: an argument out of its range, colour images asked for in grey, a CUDA device where there is none, or DALI
            missing.
    """

    def __init__(
        self,
        source: Source,
        *,
        resolution: int,
        channels: int,
        batch_size: int,
        seed: int,
        flip: bool = False,
        noise: float = 0.0,
        shard: int = 0,
        shards: int = 1,
        device: str | torch.device = "cpu",
        prefetch: int = 2,
        threads: int = 1,
    ) -> None:
        counts = {
            "resolution": resolution,
            "batch_size": batch_size,
            "shards": shards,
            "prefetch": prefetch,
            "threads": threads,
        }
        for name, value in counts.items():
            if value < 1:
                raise DataError(f"{name} must be at least 1, but is {value}")
        if channels not in (1, 3):
            raise DataError(f"channels must be 1 or 3, but is {channels}")
        if source.channels == 3 and channels == 1:
            raise DataError(f"the images of the source {source.name!r} are in colour: ask for 3 channels, not for 1")
        if not 0 <= shard < shards:
            raise DataError(f"shard must be from 0 to {shards - 1} with {shards} shards, but is {shard}")
        if not 0 <= seed < 2**64:
            raise DataError(f"seed must be from 0 to 2**64 - 1, but is {seed}")
        if not (noise >= 0 and math.isfinite(noise)):
            raise DataError(f"noise must be a finite number of at least 0, but is {noise}")
        self._device = checked_device(device)
        _check_dali()
        self._source, self._seed, self._noise, self._resolution, self._channels = source, seed, noise, resolution, channels
        self._batch_size, self._flip, self._shard, self._shards = batch_size, flip, shard, shards
        self._prefetch, self._threads = prefetch, threads
        self._images_seen = 0
        self._pipeline: Any = None  # built by the first batch, again after close() and load_state_dict()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        if self._pipeline is None:
            self._pipeline = self._build()
        on_gpu = self._device.type == "cuda"
        # Ordered on torch's stream: the host waits for nothing. On the CPU there is no stream to name.
        outputs = self._pipeline.run(torch.cuda.current_stream(self._device) if on_gpu else None)
        images, labels, indices = (torch.from_dlpack(output.as_tensor()) for output in outputs)
        if self._noise > 0:
            noise = philox.uniform(self._seed, "noise", indices, images[0].numel())
            images = torch.add(images, noise.view_as(images), alpha=self._noise)
        # Counted when handed out: what DALI prefetched is no part of the state.
        self._images_seen += self._batch_size * self._shards
        return {"images": images.permute(0, 3, 1, 2), "labels": labels, "indices": indices}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the images handed out so far over all shards, the data's fingerprint, the seed.

        Shards are taken to have handed out as many batches each, so any shard's state serves all of them.
        """
        return {"images_seen": self._images_seen, "fingerprint": self._source.fingerprint, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken: the next ordinal is its count of images.

        Batch size, shards, device, threads and prefetch may differ from then; each ordinal shows what it would have shown.

        Raises:
            DataError: the state was taken over other data or with another seed, or is no stream's state. The stream is left
                as it was.
        """
        images_seen = position(state, self._source.name, self._source.fingerprint, self._seed)
        self.close()
        self._images_seen = images_seen

    def close(self) -> None:
        """Stop DALI's threads and drop what was prefetched. The next batch starts the pipeline again, where it left off."""
        self._pipeline = None  # the only reference: DALI stops the threads at once

    def _build(self) -> Any:
        from nvidia.dali import pipeline_def

        feed = _Feed(self._source, self._seed, self._flip, self._images_seen, self._batch_size, self._shard, self._shards)
        # The dynamic executor gives each output memory of its own, which batches hold on to instead of copying it.
        # The seed is set although nothing draws from it: unset, DALI would take one from the clock.
        return pipeline_def(_pipeline)(
            feed,
            resolution=self._resolution,
            repeat_grey=self._channels > self._source.channels,
            on_gpu=self._device.type == "cuda",
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=self._device.index,
            prefetch_queue_depth=self._prefetch,
            exec_dynamic=True,
            seed=0,
        )


def _pipeline(feed: "_Feed", *, resolution: int, repeat_grey: bool, on_gpu: bool) -> tuple[Any, Any, Any]:
    """The DALI graph: images float32 (resolution, resolution, channels) in [-1, 1], labels and ordinals int64."""
    from nvidia.dali import fn, types

    images, mirror, labels, ordinals = fn.external_source(
        feed,
        num_outputs=4,
        batch=True,
        batch_info=True,
        layout=["HWC", "", "", ""],
        dtype=[types.UINT8, types.INT32, types.INT64, types.INT64],
        ndim=[3, 0, 0, 0],
    )
    if on_gpu:
        images, labels, ordinals = images.gpu(), labels.gpu(), ordinals.gpu()
    # Cubic interpolation overshoots by 7 % of an edge; the 8-bit output saturates, so no pass to clamp is needed.
    images = fn.resize(images, size=(resolution, resolution), interp_type=types.INTERP_CUBIC, antialias=True, dtype=types.UINT8)
    if repeat_grey:
        images = fn.color_space_conversion(images, image_type=types.GRAY, output_type=types.RGB)
    # HWC, and not CHW: permuted, it is the channels-last memory that convolutions want.
    images = fn.crop_mirror_normalize(images, mirror=mirror, mean=127.5, std=127.5, dtype=types.FLOAT, output_layout="HWC")
    return images, labels, ordinals


class _Feed:
    """What DALI asks for the batches of one shard, by their number: a function of it alone (orders are merely cached).

    It holds no reference to the stream or the pipeline, so that dropping the pipeline ends it without a garbage collection.
    """

    def __init__(self, source: Source, seed: int, flip: bool, start: int, batch_size: int, shard: int, shards: int) -> None:
        self._source, self._seed, self._flip = source, seed, flip
        self._start, self._batch_size, self._shard, self._shards = start, batch_size, shard, shards
        self._orders: dict[int, np.ndarray] = {}

    def __call__(self, info: Any) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        """Images uint8 (H, W, C), mirror flags int32, labels int64 and ordinals int64 of batch `info.iteration`."""
        first = self._start + (info.iteration * self._shards + self._shard) * self._batch_size
        ordinals = np.arange(first, first + self._batch_size, dtype=np.int64)
        epochs, places = np.divmod(ordinals, len(self._source))
        chosen = np.empty_like(ordinals)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            chosen[now] = self._order(int(epoch))[places[now]]
        mirror = np.zeros(self._batch_size, dtype=np.int32)
        if self._flip:
            mirror[:] = philox.bits(self._seed, "flip", torch.from_numpy(ordinals), 1)[:, 0].numpy() >> 31
        return [self._source.read(index) for index in chosen], mirror, self._source.labels[chosen], ordinals

    def _order(self, epoch: int) -> np.ndarray:
        """The permutation of all images in an epoch, int64 (N,). Two are kept: a batch may run over one epoch's end."""
        if epoch not in self._orders:
            if len(self._orders) == 2:
                del self._orders[min(self._orders)]
            words = philox.bits(self._seed, "order", torch.arange(len(self._source)), 1, step=epoch)[:, 0]
            self._orders[epoch] = torch.argsort(words, stable=True).numpy()
        return self._orders[epoch]


def position(state: dict[str, Any], name: str, fingerprint: str, seed: int) -> int:
    """The count of images in a stream's state, taken over the data `name` with this fingerprint and drawn with this seed.

    Raises:
        DataError: the state was taken over other data or with another seed, or is no stream's state.
    """
    try:
        images_seen, other, drawn = (state[key] for key in ("images_seen", "fingerprint", "seed"))
    except (KeyError, TypeError) as error:
        raise DataError("this is not the state of a data stream: it lacks images_seen, fingerprint or seed") from error
    if other != fingerprint:
        raise DataError(
            f"this run was trained on other data: its fingerprint is {str(other)[:12]}, that of the source {name!r} is "
            f"{fingerprint[:12]}"
        )
    if drawn != seed:
        raise DataError(
            f"this run was trained on other data: its order was drawn with seed {drawn}, not {seed}, from the images "
            f"with fingerprint {fingerprint[:12]}"
        )
    if not isinstance(images_seen, int) or images_seen < 0:
        raise DataError(f"images_seen must be a whole number of at least 0, but is {images_seen!r}")
    return images_seen


def checked_device(device: str | torch.device) -> torch.device:
    """The device with its index, which DALI wants to know; the CPU has none."""
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise DataError(f"device must be 'cpu' or a CUDA device, but is {device!r}") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise DataError(f"device must be 'cpu' or a CUDA device, but is '{device}'")
    if not torch.cuda.is_available():
        raise DataError(f"the stream was asked for on '{device}', but torch finds no CUDA device here")
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _check_dali() -> None:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        # The PyPI names without the CUDA suffix are not NVIDIA's.
        raise DataError("the data stream needs NVIDIA DALI: pip install nvidia-dali-cuda130") from error
