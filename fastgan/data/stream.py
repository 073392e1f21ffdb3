"""The stream of real images: one DALI pipeline for CPU and GPU, in an order of our own.

    ordinal k = 0, 1, 2, ...  counts the images that the run draws, over all shards and for ever
    image(k)  = order(k // N)[k mod N],   order(e) drawn for epoch e (`fastgan.data.order`)
    crop(k), flip(k), noise(k)            drawn for the ordinal k
    at step t shard s hands out ordinals  start + (t * shards + s) * batch_size + 0 ... batch_size - 1

All random numbers are counter-based (`kernels.philox`), so what ordinal k shows depends on the seed and on k alone: neither
on the number of shards, nor on the batch size, nor on a resume, and the whole state is a count. DALI draws nothing: its
readers' own shuffling repeats images after the first epoch, and its generators are counted per pipeline, not per image.

Image files reach DALI as they are, and only the part that is shown is decoded. They are read ahead by a few threads: DALI asks
for a batch in the thread that waits for it. On the CPU the pipeline ends there for files: what was decoded is resized by torch
(`fastgan.data.resize`), four times as fast as by DALI.

Batches run over the ends of epochs; no image is dropped or shown twice in an epoch.
"""

import math
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.data import resize
from fastgan.data.crops import CROPS, boxes
from fastgan.data.order import ORDERS, WINDOW, by_images, by_shards, windows_of
from fastgan.data.source import DataError, Source
from fastgan.data.workers import Workers
from fastgan.kernels import philox

FILTERS = ("cubic", "lanczos", "linear")
"""How images are resized, always with antialiasing: by kernels 4, 6 and 2 pixels wide."""

_READERS = 4
"""Threads that read files ahead. A read waits, so they may be more than the cores."""

Batch = dict[str, Tensor]


class Stream:
    """An endless iterator of batches of real images.

    `next(stream)` gives a dict of
        images: float32 (batch_size, channels, resolution, resolution) in [-1, 1 + noise], channels-last in memory;
        labels: int64 (batch_size,), indices into `source.classes`;
        indices: int64 (batch_size,), the ordinals of these images.
    A batch stays valid for as long as it is held: no buffer is used again under it.

    Images are cropped (`fastgan.data.crops`), resized with antialiasing and rounded to the 256 grey levels, as a data set
    stored at that size would be, before they are scaled to [-1, 1]; noise of 1/128 therefore fills the step from one level to
    the next. Files on the CPU are resized by torch, as by Pillow: what lies beyond the crop's edge is left out, and there are
    bytes between rows and columns too. Pixels, all that goes to CUDA, and files where the installed torch lacks the filter are
    resized by DALI: the crop's edge is repeated, and there is one rounding.

    Resizing anew each epoch is cheap: digits to 32x32x3 in batches of 64 came at 60,000 images/s on one DALI thread of two
    cores, with noise at 18,000 (three quarters of that time are the noise's), where an SNGAN step there trains on some 100.

    Args:
        source: the images. Grey images are repeated to three channels where `channels` is 3.
        resolution: side of the images in pixels, at least 1.
        channels: 1 or 3.
        batch_size: images that one shard hands out at a time.
        seed: 0 to 2**64 - 1.
        crop: "centre", "random" or "stretch".
        min_area: the smallest share of the largest square that a random crop shows, in (0, 1].
        filter: "cubic" (a = -1/2), "lanczos" (3 lobes) or "linear".
        flip: mirror every other image, at random, left to right.
        order: "images", or, of packed sets, "shards".
        cache: bytes of image files to keep in memory once they were read.
        noise: width of the dequantisation noise, U[0, noise), added after scaling.
        shard: this process's number, 0 to shards - 1.
        shards: how many processes share the images.
        device: where the pipeline runs and its batches lie, "cpu" or a CUDA device.
        prefetch: batches that DALI prepares ahead, at least 1; of files on the CPU one more is being resized meanwhile.
        threads: DALI's CPU threads, at least 1, and as many that resize files; None is one for pixels, and for files one a
            core, at most 8.

    Raises:
        DataError: an argument out of its range, colour images asked for in grey, a CUDA device where there is none, or DALI
            missing; from `next`, an image file that changed or went away since it was scanned.
    """

    def __init__(
        self,
        source: Source,
        *,
        resolution: int,
        channels: int,
        batch_size: int,
        seed: int,
        crop: str = "centre",
        min_area: float = 0.25,
        filter: str = "cubic",
        flip: bool = False,
        noise: float = 0.0,
        order: str = "images",
        cache: int = 0,
        shard: int = 0,
        shards: int = 1,
        device: str | torch.device = "cpu",
        prefetch: int = 2,
        threads: int | None = None,
    ) -> None:
        if threads is None:
            threads = 1 if source.sizes is None else min(8, len(os.sched_getaffinity(0)))
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
        for name, value, known in (("crop", crop, CROPS), ("filter", filter, FILTERS), ("order", order, ORDERS)):
            if value not in known:
                raise DataError(f"{name} must be one of {', '.join(known)}, but is {value!r}")
        if order == "shards" and source.shards is None:
            raise DataError(f"the source {source.name!r} has no shards to be read in order: pack it, or set order to images")
        if cache < 0:
            raise DataError(f"cache must be at least 0 bytes, but is {cache}")
        if not 0 < min_area <= 1:
            raise DataError(f"min_area must be above 0 and at most 1, but is {min_area}")
        self._device = checked_device(device)
        _check_dali()
        self._source, self._seed, self._noise, self._resolution, self._channels = source, seed, noise, resolution, channels
        self._batch_size, self._flip, self._shard, self._shards = batch_size, flip, shard, shards
        self._crop, self._min_area, self._filter = crop, min_area, filter
        self._order, self._cache = order, _Cache(source.read, cache) if cache and source.sizes is not None else None
        self._prefetch, self._threads = prefetch, threads
        self._images_seen = 0
        self._pipeline: Any = None  # built by the first batch, again after close() and load_state_dict()
        self._stop_reading: Callable[[], object] = lambda: None

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        try:
            outputs = self._run()
        except DataError:
            self.close()
            raise
        except RuntimeError as error:  # of DALI's, all of whose errors are
            self.close()
            self._mistrust_undecodable(error)
            return next(self)
        images, labels, indices = outputs
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
        """Stop all threads and drop what was prefetched. The next batch starts the pipeline again, where it left off."""
        self._stop_reading()
        if isinstance(self._pipeline, resize.Resizing):
            self._pipeline.close()
        self._pipeline = None  # the only reference: DALI's threads stop at once

    def _run(self) -> tuple[Tensor, ...]:
        if self._pipeline is None:
            self._pipeline = self._build()
        if isinstance(self._pipeline, resize.Resizing):
            return self._pipeline.run()
        # Ordered on torch's stream: the host waits for nothing. On the CPU there is no stream to name.
        outputs = self._pipeline.run(torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None)
        return tuple(torch.from_dlpack(output.as_tensor()) for output in outputs)

    def _mistrust_undecodable(self, error: RuntimeError) -> None:
        """Find the files that DALI's decoder refused, and have Pillow decode them: with damaged metadata it may be the kinder.

        DALI names none, and drops their batch. So each file of the batches that it was preparing is tried alone.
        """
        if self._source.sizes is None:
            raise error
        feed, found = self._feed(None), False
        for iteration in range(self._prefetch + 2):  # the batches ahead, the one asked for, and one that is being resized
            for index in feed.choose(iteration)[1].tolist():
                if not self._decodes(index):
                    found |= self._source.mistrust(index)
                    if self._cache is not None:
                        self._cache.forget(index)
        if not found:
            raise error

    def _decodes(self, index: int) -> bool:
        from nvidia.dali import pipeline_def

        on_gpu = self._device.type == "cuda"
        arrays = self._source.read(index), np.zeros(2, np.int32), self._source.sizes[index].astype(np.int32)
        one = {"batch_size": 1, "num_threads": 1, "device_id": self._device.index, "prefetch_queue_depth": 1}
        try:
            pipeline_def(_decode_one)(*arrays, channels=self._channels, on_gpu=on_gpu, **one, exec_dynamic=True).run()
        except RuntimeError:
            return False
        return True

    def _build(self) -> Any:
        from nvidia.dali import pipeline_def

        readers, encoded = None, self._source.sizes is not None
        if encoded:
            readers = Workers(_READERS, "fastgan-read")
            # Also when the stream is dropped without close(): DALI keeps the feed in a circle that only a collection breaks.
            self._stop_reading = weakref.finalize(self, readers.close)
        by_torch = encoded and self._device.type == "cpu" and resize.has(self._filter)
        # The dynamic executor gives each output memory of its own, which batches hold on to instead of copying it.
        # The seed is set although nothing draws from it: unset, DALI would take one from the clock.
        pipeline = pipeline_def(_pipeline)(
            self._feed(readers),
            encoded=encoded,
            crops_alone=by_torch,
            resolution=self._resolution,
            filter=self._filter,
            channels=self._channels,
            repeat_grey=self._channels > self._source.channels,
            on_gpu=self._device.type == "cuda",
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=self._device.index,
            prefetch_queue_depth=self._prefetch,
            exec_dynamic=True,
            seed=0,
        )
        if by_torch:
            return resize.Resizing(pipeline, resolution=self._resolution, filter=self._filter, threads=self._threads)
        return pipeline

    def _feed(self, readers: Workers | None) -> "_Feed":
        return _Feed(
            self._source,
            self._seed,
            readers,
            start=self._images_seen,
            batch_size=self._batch_size,
            shard=self._shard,
            shards=self._shards,
            flip=self._flip,
            crop=self._crop,
            min_area=self._min_area,
            order=self._order,
            read=self._cache,
        )


def _pipeline(
    feed: "_Feed",
    *,
    encoded: bool,
    crops_alone: bool,
    resolution: int,
    filter: str,
    channels: int,
    repeat_grey: bool,
    on_gpu: bool,
) -> tuple[Any, ...]:
    """The DALI graph: images float32 (resolution, resolution, channels) in [-1, 1], labels and ordinals int64.

    Or, with `crops_alone`, what `Resizing` takes: it ends before the resize.
    """
    from nvidia.dali import fn, types

    images, start, shape, mirror, labels, ordinals = fn.external_source(
        feed,
        num_outputs=6,
        batch=True,
        batch_info=True,
        layout=["" if encoded else "HWC", "", "", "", "", ""],
        dtype=[types.UINT8, types.INT32, types.INT32, types.INT32, types.INT64, types.INT64],
        ndim=[1 if encoded else 3, 1, 1, 0, 0, 0],
    )
    if encoded:
        images = _decode(images, start, shape, channels, on_gpu)
    else:
        images = fn.slice(images.gpu() if on_gpu else images, start=start, shape=shape, axis_names="HW")
    if crops_alone:
        return images, mirror, labels, ordinals
    if on_gpu:
        labels, ordinals = labels.gpu(), ordinals.gpu()
    # Cubic interpolation overshoots by 7 % of an edge; the 8-bit output saturates, so no pass to clamp is needed.
    kernel = {"cubic": types.INTERP_CUBIC, "lanczos": types.INTERP_LANCZOS3, "linear": types.INTERP_LINEAR}[filter]
    images = fn.resize(images, size=(resolution, resolution), interp_type=kernel, antialias=True, dtype=types.UINT8)
    if repeat_grey and not encoded:
        images = fn.color_space_conversion(images, image_type=types.GRAY, output_type=types.RGB)
    # HWC, and not CHW: permuted, it is the channels-last memory that convolutions want.
    images = fn.crop_mirror_normalize(images, mirror=mirror, mean=127.5, std=127.5, dtype=types.FLOAT, output_layout="HWC")
    return images, labels, ordinals


def _decode(files: Any, start: Any, shape: Any, channels: int, on_gpu: bool) -> Any:
    """A rectangle of each image file, uint8 (height, width, channels)."""
    from nvidia.dali import fn, types

    return fn.decoders.image_slice(
        files,
        start=start,
        shape=shape,
        axis_names="HW",
        device="mixed" if on_gpu else "cpu",
        output_type=types.GRAY if channels == 1 else types.RGB,
        adjust_orientation=False,  # `picture` says why
        jpeg_fancy_upsampling=True,  # of colours: what the CPU's decoder, and Pillow's, do anyway
    )


def _decode_one(content: np.ndarray, start: np.ndarray, shape: np.ndarray, channels: int, on_gpu: bool) -> Any:
    from nvidia.dali import fn

    given = fn.external_source(lambda: ([content], [start], [shape]), num_outputs=3, batch=True, ndim=1)
    return _decode(*given, channels, on_gpu)


class _Feed:
    """What DALI asks for the batches of one shard, by their number: a function of it alone (orders are merely cached).

    It holds no reference to the stream or the pipeline, so that dropping the pipeline ends it without a garbage collection.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        readers: Workers | None,
        *,
        start: int,
        batch_size: int,
        shard: int,
        shards: int,
        flip: bool,
        crop: str,
        min_area: float,
        order: str = "images",
        read: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self._source, self._seed, self._flip, self._crop, self._min_area = source, seed, flip, crop, min_area
        self._start, self._batch_size, self._shard, self._shards = start, batch_size, shard, shards
        self._orders: dict[int, np.ndarray] = {}
        self._readers, self._read_one, self._by_shards = readers, read or source.read, order == "shards"
        self._warmed: tuple[int, int] | None = None
        self._ahead: dict[int, Callable[[], list[np.ndarray]]] = {}

    def __call__(self, info: Any) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images uint8 (H, W, C) or (bytes,), start and shape int32 (B, 2) of what is shown of them, mirror flags int32, labels
        int64 and ordinals int64 of batch `info.iteration`."""
        ordinals, chosen = self.choose(info.iteration)
        if self._readers is None:
            images = [self._source.read(index) for index in chosen]
            sizes = np.array([image.shape[:2] for image in images])
        else:
            images, sizes = self._read(info.iteration, chosen), self._source.sizes[chosen]
        found = boxes(self._crop, sizes, self._seed, ordinals, self._min_area)
        mirror = np.zeros(self._batch_size, dtype=np.int32)
        if self._flip:
            mirror[:] = philox.bits(self._seed, "flip", torch.from_numpy(ordinals), 1)[:, 0].numpy() >> 31
        start, shape = np.ascontiguousarray(found[:, :2]), np.ascontiguousarray(found[:, 2:])
        return images, start, shape, mirror, self._source.labels[chosen], ordinals

    def choose(self, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """The ordinals of a batch, int64 (B,), and the images that they show."""
        first = self._start + (iteration * self._shards + self._shard) * self._batch_size
        ordinals = np.arange(first, first + self._batch_size, dtype=np.int64)
        epochs, places = np.divmod(ordinals, len(self._source))
        chosen = np.empty_like(ordinals)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            chosen[now] = self._order(int(epoch))[places[now]]
        return ordinals, chosen

    def _read(self, iteration: int, chosen: np.ndarray) -> list[np.ndarray]:
        """The files of a batch; those of the next one are begun, so that DALI decodes and the run trains meanwhile."""
        now = self._ahead.pop(iteration, None) or self._begin(chosen)
        ordinals, chosen = self.choose(iteration + 1)
        if self._by_shards:
            self._warm(int(ordinals[0]), int(chosen[0]))
        self._ahead = {iteration + 1: self._begin(chosen)}
        return now()

    def _warm(self, ordinal: int, index: int) -> None:
        """Have the shards of the next window read from end to end, once the first image of one is asked for."""
        epoch, shards = ordinal // len(self._source), self._source.shards
        sequence = windows_of(int(shards.max()) + 1, self._seed, epoch)
        window = int(np.flatnonzero(sequence == shards[index])[0]) // WINDOW
        if (epoch, window) == self._warmed:
            return
        first, self._warmed = self._warmed is None, (epoch, window)
        ahead = sequence[(window + 1) * WINDOW : (window + 2) * WINDOW]
        if not len(ahead):
            ahead = windows_of(len(sequence), self._seed, epoch + 1)[:WINDOW]
        if first:
            ahead = np.concatenate([sequence[window * WINDOW : (window + 1) * WINDOW], ahead])
        threading.Thread(target=_each, args=(self._source.warm, ahead.tolist()), name="fastgan-warm", daemon=True).start()

    def _begin(self, chosen: np.ndarray) -> Callable[[], list[np.ndarray]]:
        return self._readers.begin(self._read_one, chosen.tolist())

    def _order(self, epoch: int) -> np.ndarray:
        """The permutation of all images in an epoch, int64 (N,). Two are kept: a batch may run over one epoch's end."""
        if epoch not in self._orders:
            if len(self._orders) == 2:
                del self._orders[min(self._orders)]
            if self._by_shards:
                self._orders[epoch] = by_shards(self._source.shards, self._seed, epoch)
            else:
                self._orders[epoch] = by_images(len(self._source), self._seed, epoch)
        return self._orders[epoch]


class _Cache:
    """The files read first, as many as fit. An epoch's order favours none, so none is put out for another."""

    def __init__(self, read: Callable[[int], np.ndarray], limit: int) -> None:
        self._read, self._left, self._kept = read, limit, {}

    def __call__(self, index: int) -> np.ndarray:
        kept = self._kept.get(index)
        if kept is None:
            kept = self._read(index)
            if len(kept) <= self._left:  # readers that meet here may go over the limit by a file each
                self._left -= len(kept)
                self._kept[index] = kept
        return kept

    def forget(self, index: int) -> None:
        """Read this file anew."""
        self._kept.pop(index, None)


def _each(work: Callable[[int], None], items: list[int]) -> None:
    for item in items:
        work(item)


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
