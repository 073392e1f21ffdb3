"""Images/s of our stream against torchvision's loaders, with the same work: `python -m bench.data`.

    ours           fastgan.data.Stream over a folder: of each file only the crop is decoded
    shards         the same over the same files, packed whole by `fastgan data pack`
    pil            ImageFolder + DataLoader: PIL decodes, transforms crop, flip and scale
    decode_jpeg    the same, decoded by torchvision.io.decode_jpeg, transformed as uint8 tensors

Each shows random squares whose area is uniform in [min_area, 1] of the largest one's, resized with antialiasing, flipped at
random, as float32 batches in [-1, 1]; each has as many workers or threads, reading ahead as far as it does by default. Ours
resizes in as many threads again as it decodes in, so a fair comparison has no more cores than workers.
cold: a first epoch, its start included, after the files have left the page cache (asked of the system, which may keep them).
warm: the following epoch.
cpu: milliseconds of all processors that an image took, over both epochs, starting included; what other programs do beside it
changes it least.
The loaders take turns, pass after pass; medians are shown. Our files' scan comes before all of it, and is timed alone, as are
packing at the resolution, and a consumer that takes a batch off the shards at a fixed rate, computing nothing in between: what
it waits for is data.
"""

import gc
import json as formats
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import InterpolationMode, v2

from fastgan.data import Source, Stream, open_source
from fastgan.data.pack import pack

_OUT = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
_HEIGHTS, _WIDTHS = (480, 521), (380, 421)  # about 400x500
_SHARD = 250  # images of a shard that is packed whole: 12 MB
_PARTS = 20  # images cut from one field of noise, which takes longer to make than a JPEG to write
_FILLING = 10  # batches after which a stream has read ahead as far as it does

Epoch = Callable[[], int]
"""Goes through the images once; how many there were."""


@dataclass(frozen=True)
class Work:
    """What every loader does; the fields are the arguments of the command."""

    resolution: int
    batch_size: int
    workers: int
    min_area: float
    prefetch: int


def main(
    images: int = 2000,
    resolution: int = 128,
    batch_size: int = 64,
    workers: int = 2,
    min_area: float = 0.1,
    passes: int = 3,
    prefetch: int = 2,
    consumed: float = 2000.0,
    seconds: float = 10.0,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """Compare the loaders.

    Args:
        images: JPEGs to make, in a temporary folder.
        resolution: Side of the crops.
        batch_size: Images of a batch.
        workers: Processes of a DataLoader, threads of our stream.
        min_area: Smallest area of a crop, as a share of the largest square's.
        passes: Turns of each loader.
        prefetch: Batches that each process of a DataLoader reads ahead, and our stream.
        consumed: Images a second that the consumer takes where it need not wait.
        seconds: How long its waiting is looked at.
        json: Write the result here as one JSON object.
    """
    work = Work(resolution, batch_size, workers, min_area, prefetch)
    with tempfile.TemporaryDirectory(prefix="fastgan-bench-") as scratch:
        folder, whole, small = (Path(scratch) / name for name in ("images", "whole", "small"))
        size = make_images(folder, images)
        begun = time.perf_counter()
        source = open_source("folder", folder, quiet=True)
        scanned = time.perf_counter()
        pack(folder, small, resolution=resolution, workers=workers, quiet=True)
        packed = time.perf_counter()
        pack(folder, whole, shard_size=_SHARD, workers=workers, quiet=True)
        shards = open_source("shards", whole)
        rates = compare(Path(scratch), source, shards, work, passes)
        waits = {
            name: waiting(source, consumed, work, seconds)
            for name, source in (("whole", shards), (f"{resolution}x{resolution}", open_source("shards", small)))
        }
    result = {
        "images": images,
        "mean_file_bytes": round(size),
        **asdict(work),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "scan_images_per_second": images / (scanned - begun),
        "pack_images_per_second": images / (packed - scanned),
        "images_per_second": rates,
        "ratio": {
            ours: {
                state: {
                    other: statistics.median(rates[ours][state]) / statistics.median(rates[other][state]) for other in rates
                }
                for state in ("cold", "warm")
            }
            for ours in ("ours", "shards")
        },
        "consumer": waits,
    }
    show(result)
    if json is not None:
        json.write_text(formats.dumps(result, indent=2) + "\n", encoding="utf-8")


def compare(scratch: Path, source: Source, shards: Source, work: Work, passes: int) -> dict[str, dict[str, list[float]]]:
    """Images/s of every pass: loader -> "cold" or "warm" -> one number a pass; "cpu": milliseconds an image."""
    folder = scratch / "images"
    openers = {
        "ours": lambda: our_epochs(source, work),
        "shards": lambda: our_epochs(shards, work),
        "pil": lambda: torchvision_epochs(folder, source, work, tensors=False),
        "decode_jpeg": lambda: torchvision_epochs(folder, source, work, tensors=True),
    }
    rates = {name: {"cold": [], "warm": [], "cpu": []} for name in openers}
    for number in range(passes):
        names = list(openers)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            forget(scratch)
            begun, processors = time.perf_counter(), sum(os.times()[:4])
            with closing(openers[name]()) as epochs:
                for state in ("cold", "warm"):
                    count = next(epochs)
                    now = time.perf_counter()
                    rates[name][state].append(count / (now - begun))
                    begun = now
            gc.collect()  # ends the processes of a DataLoader: what they took counts from then on
            rates[name]["cpu"].append((sum(os.times()[:4]) - processors) * 1000 / (2 * count))
    return rates


def our_epochs(source: Source, work: Work) -> Iterator[int]:
    """Counts of images, epoch after epoch."""
    with closing(our_stream(source, work)) as stream:
        while True:
            yield sum(len(next(stream)["images"]) for _ in range(-(-len(source) // work.batch_size)))


def our_stream(source: Source, work: Work) -> Stream:
    """Random crops, flipped."""
    settings = {"resolution": work.resolution, "batch_size": work.batch_size, "min_area": work.min_area}
    settings |= {"threads": work.workers, "prefetch": work.prefetch}
    return Stream(source, **settings, channels=3, crop="random", filter="linear", flip=True, seed=0)


def waiting(source: Source, consumed: float, work: Work, seconds: float) -> dict[str, float]:
    """Images/s of the stream to one who takes all; the share of its time that one who takes `consumed` a second waits, over
    so many seconds after the first batches.

    The consumer is idle for as long as a batch would take it, as a processor's core is while a GPU computes.
    """
    batches = max(20, -(-len(source) // work.batch_size))
    turns = max(20, round(seconds * consumed / work.batch_size))
    with closing(our_stream(source, work)) as stream:
        next(stream)
        begun = time.perf_counter()
        for _ in range(batches):
            next(stream)
        rate = batches * work.batch_size / (time.perf_counter() - begun)
        for turn in range(-_FILLING, turns):  # the stream reads ahead again, after one who left nothing
            before = time.perf_counter()
            next(stream)
            if turn == 0:
                waited, begun = 0.0, before
            if turn >= 0:
                waited += time.perf_counter() - before
            time.sleep(work.batch_size / consumed)
        share = waited / (time.perf_counter() - begun)
    return {"stream_images_per_second": rate, "consumer_images_per_second": consumed, "waiting": share}


def torchvision_epochs(folder: Path, source: Source, work: Work, tensors: bool) -> Iterator[int]:
    """Counts of images, epoch after epoch."""
    # RandomResizedCrop takes shares of the whole image; ours are of its largest square.
    square = float(np.median(source.sizes.min(axis=1) / source.sizes.max(axis=1)))
    scale = work.min_area * square, square
    crop = v2.RandomResizedCrop(
        work.resolution, scale=scale, ratio=(1, 1), interpolation=InterpolationMode.BILINEAR, antialias=True
    )
    scaled = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    transform = v2.Compose([crop, v2.RandomHorizontalFlip(), *([] if tensors else [v2.ToImage()]), *scaled])
    images = ImageFolder(str(folder), transform, **({"loader": _decoded} if tensors else {}))
    ahead = {"num_workers": work.workers, "prefetch_factor": work.prefetch, "persistent_workers": True}
    loader = DataLoader(images, work.batch_size, shuffle=True, **ahead)
    while True:
        yield sum(len(batch) for batch, _ in loader)


def _decoded(path: str) -> Tensor:
    return decode_jpeg(read_file(path))


def forget(folder: Path) -> None:
    """Ask the system to drop the files from memory."""
    for path in (*folder.rglob("*.jpg"), *folder.rglob("*.tar")):
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def make_images(folder: Path, count: int) -> float:
    """Write JPEGs into ten class folders; the mean size of a file in bytes.

    Parts of fields of smoothed noise, each octave 0.75 times as strong as the one below it: 45 kB at quality 90, as photographs
    of this size take.
    """
    random, sizes = np.random.default_rng(0), []
    for number in range(count):
        if number % _PARTS == 0:
            field = _field(random)
        height, width = random.integers(*_HEIGHTS), random.integers(*_WIDTHS)
        top, left = random.integers(0, len(field) - height), random.integers(0, len(field) - width)
        path = folder / f"class{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(field[top : top + height, left : left + width]).save(path, quality=90)
        sizes.append(path.stat().st_size)
    return statistics.mean(sizes)


def _field(random: np.random.Generator) -> np.ndarray:
    pixels, strength = random.random((8, 8, 3), dtype=np.float32), 1.0
    while len(pixels) < 1024:
        side, planes = 2 * len(pixels), np.moveaxis(pixels, 2, 0)
        smooth = [Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC) for plane in planes]
        strength *= 0.75
        pixels = np.stack(smooth, axis=2) + strength * random.random((side, side, 3), dtype=np.float32)
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) * (255 / (high - low))).astype(np.uint8)


def show(result: dict) -> None:
    """Print the medians and ratios."""
    heads = [f"{ours} / it, {state}" for ours in result["ratio"] for state in ("cold", "warm")]
    table = Table("images/s", "cold", "warm", *heads, "cpu, ms", box=None)
    for name, rates in result["images_per_second"].items():
        medians = [f"{statistics.median(rates[state]):.0f}" for state in ("cold", "warm")]
        ratios = [f"{states[state][name]:.2f}" for states in result["ratio"].values() for state in ("cold", "warm")]
        table.add_row(name, *medians, *ratios, f"{statistics.median(rates['cpu']):.2f}")
    _OUT.print(
        f"{result['images']} JPEGs of {result['mean_file_bytes'] / 1000:.0f} kB to {result['resolution']}x"
        f"{result['resolution']}, {result['workers']} workers on {result['cores']} cores; "
        f"the scan went at {result['scan_images_per_second']:.0f} images/s, packing at {result['pack_images_per_second']:.0f}"
    )
    _OUT.print(table)
    for name, found in result["consumer"].items():
        _OUT.print(
            f"shards, {name}: the stream gives {found['stream_images_per_second']:.0f} images/s; a consumer of "
            f"{found['consumer_images_per_second']:.0f} images/s waits for {found['waiting']:.1%} of its time"
        )


if __name__ == "__main__":
    tyro.cli(main)
