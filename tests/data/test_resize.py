"""The resize of files on the CPU: Pillow's pixels, DALI's floats, and the same images however the work is shared out."""

import gc
import os
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import Stream, open_source, resize
from fastgan.data.crops import boxes
from fastgan.data.resize import has, resized, scaled

PILLOW = {"cubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS, "linear": Image.Resampling.BILINEAR}
FILTERS = [
    pytest.param(filter, marks=pytest.mark.skipif(not has(filter), reason=f"this torch has no {filter} for bytes"))
    for filter in PILLOW
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def write(tmp_path):
    """A folder source of the given uint8 (height, width) or (height, width, 3) images, as PNG."""

    def written(images):
        root = tmp_path / "set"
        root.mkdir(exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / f"{number:03d}.png")
        return open_source("folder", root, quiet=True)

    return written


def random_image(height, width, channels, seed=0):
    """Noise; its upper half black and white, which overshoots the most."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    image[: height // 2] = 255 * (image[: height // 2] > 127)
    return image


def by_pillow(image, resolution, filter):
    """Rows first, as torch does: Pillow itself may begin with the columns, and bytes clip what overshoots between the two."""
    whole = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    rows = whole.resize((resolution, whole.height), PILLOW[filter], reducing_gap=None)
    return np.asarray(rows.resize((resolution, resolution), PILLOW[filter], reducing_gap=None)).reshape(
        resolution, resolution, image.shape[2]
    )


SIZES = [
    (290, 290, 128),
    (128, 128, 128),
    (60, 60, 25),
    (8, 8, 128),
    (33, 500, 64),
    (500, 20, 64),
    (1, 1, 1),
    (1, 1, 7),
    (1, 50, 9),
    (50, 1, 9),
    (400, 300, 1),
    (3000, 2000, 64),
    (2, 3, 200),
]


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "resolution"), SIZES)
def test_pixels_are_pillows(filter, channels, height, width, resolution):
    image = random_image(height, width, channels)
    found, expected = resized(image, resolution, filter), by_pillow(image, resolution, filter)
    assert found.dtype == np.uint8
    assert found.shape == (resolution, resolution, channels)
    apart = np.abs(found.astype(int) - expected)
    # Torch's weights have 16 bits, Pillow's 22. Where weights are negative a level between rows and columns may become two:
    # at most 17 of 40,000 numbers here.
    assert apart.max() <= (1 if filter == "linear" else 2)
    assert (apart > 1).mean() < 1e-3


def test_a_filter_that_torch_lacks_is_told():
    assert has("cubic")
    assert has("linear")
    with pytest.raises(KeyError):
        has("box")


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_dalis(channels, mirror):
    from nvidia.dali import fn, pipeline_def, types

    image = np.random.default_rng(1).permutation(np.arange(256 * channels) % 256).astype(np.uint8).reshape(8, 32, channels)

    def graph():
        given, flip = fn.external_source(
            lambda: ([image], [np.array(mirror, np.int32)]), num_outputs=2, batch=True, layout=["HWC", ""]
        )
        return fn.crop_mirror_normalize(given, mirror=flip, mean=127.5, std=127.5, dtype=types.FLOAT, output_layout="HWC")

    settings = {"batch_size": 1, "num_threads": 1, "device_id": None, "seed": 0}
    (expected,) = pipeline_def(graph)(**settings, exec_dynamic=True).run()
    found = np.empty(image.shape, np.float32)
    scaled(image, mirror, found)
    assert np.array_equal(found, expected.at(0))
    assert (found.min(), found.max()) == (-1, 1)


# ---- through the stream

RANDOM = {"resolution": 16, "channels": 3, "seed": 2**63 + 5, "crop": "random", "min_area": 0.1, "flip": True}


@pytest.fixture
def textured(write):
    return write([random_image(20 + number % 5, 31 - number % 7, 3, number) for number in range(13)])


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_stream_shows_the_resized_crops(write, filter, channels):
    pixels = random_image(24, 31, channels)
    source = write([pixels.squeeze(2) if channels == 1 else pixels])
    assert source.channels == channels
    settings = {**RANDOM, "channels": channels, "batch_size": 40, "filter": filter}
    with closing(Stream(source, **settings | {"flip": False})) as stream:
        plain = next(stream)
    with closing(Stream(source, **settings)) as stream:
        flipped = next(stream)
    parts = boxes("random", np.tile(source.sizes, (40, 1)), RANDOM["seed"], plain["indices"].numpy(), 0.1)
    for shown, (top, left, height, width) in zip(plain["images"], parts, strict=True):
        levels = ((shown + 1) * 127.5).round().permute(1, 2, 0).numpy()
        expected = by_pillow(pixels[top : top + height, left : left + width], 16, filter)
        assert np.abs(levels - expected).max() <= 1
    mirrored = (flipped["images"] == plain["images"].flip(3)).flatten(1).all(dim=1)
    assert torch.equal(~mirrored, (flipped["images"] == plain["images"]).flatten(1).all(dim=1))
    assert 0 < mirrored.sum() < 40


def test_grey_files_become_three_equal_channels(write):
    source = write([random_image(24, 31, 1, number).squeeze(2) for number in range(5)])
    with closing(Stream(source, **RANDOM | {"channels": 1}, batch_size=12)) as stream:
        grey = next(stream)["images"]
    with closing(Stream(source, **RANDOM, batch_size=12)) as stream:
        colour = next(stream)["images"]
    assert torch.equal(colour, grey.expand(-1, 3, -1, -1))


def test_where_torch_lacks_the_filter_dali_resizes(textured, tmp_path, monkeypatch):
    """As it does pixels from memory, bit for bit."""
    monkeypatch.setitem(resize._MODES, "lanczos", "lanczos-of-a-later-torch")
    assert not has("lanczos")
    assert has("cubic")
    settings = {**RANDOM, "batch_size": 20, "filter": "lanczos", "crop": "stretch"}
    with closing(Stream(textured, **settings)) as stream:
        files = next(stream)
    pixels = [np.array(Image.open(path)) for path in sorted((tmp_path / "set").glob("*.png"))]
    source = replace(textured, read=pixels.__getitem__, sizes=None)
    with closing(Stream(source, **settings)) as stream:
        assert_equal(next(stream), files)


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_channels_last(write, channels):
    source = write([random_image(9, 9, 1).squeeze(2)])
    with closing(Stream(source, **RANDOM | {"channels": channels}, batch_size=4)) as stream:
        batch = next(stream)
    assert batch["images"].stride() == (16 * 16 * channels, 1, 16 * channels, channels)
    assert [values.dtype for values in batch.values()] == [torch.float32, torch.int64, torch.int64]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 700)])
@pytest.mark.parametrize("resolution", [1, 5, 64])
def test_images_of_any_shape_are_stretched(write, height, width, resolution):
    image = random_image(height, width, 3)
    settings = {"resolution": resolution, "channels": 3, "batch_size": 2, "seed": 0, "crop": "stretch"}
    with closing(Stream(write([image]), **settings)) as stream:
        shown = ((next(stream)["images"][0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(shown - by_pillow(image, resolution, "cubic")).max() <= 2


def joined(batches):
    batches = list(batches)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in ("images", "labels", "indices")}
    order = whole["indices"].argsort()
    return {name: values[order] for name, values in whole.items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("changes", [{"threads": 1}, {"threads": 5}, {"prefetch": 1}, {"batch_size": 3}, {"batch_size": 40}])
def test_threads_prefetch_and_batch_size_change_nothing(textured, changes):
    with closing(Stream(textured, **RANDOM, batch_size=10, noise=1 / 128)) as stream:
        whole = joined(islice(stream, 12))
    settings = {**RANDOM, "batch_size": 10, "noise": 1 / 128, **changes}
    with closing(Stream(textured, **settings)) as stream:
        assert_equal(joined(islice(stream, 120 // settings["batch_size"])), whole)


def test_shards_and_a_resume_change_nothing(textured):
    with closing(Stream(textured, **RANDOM, batch_size=12)) as stream:
        whole = joined(islice(stream, 7))
    batches, states = [], []
    for shard in range(3):
        with closing(Stream(textured, **RANDOM, batch_size=4, shard=shard, shards=3)) as stream:
            batches += islice(stream, 3)
            states.append(stream.state_dict())
    assert [state["images_seen"] for state in states] == [36] * 3  # neither what is prefetched nor what is being resized
    for shard in range(2):
        with closing(Stream(textured, **RANDOM, batch_size=6, shard=shard, shards=2)) as stream:
            stream.load_state_dict(states[0])
            batches += islice(stream, 2)
            stream.load_state_dict(stream.state_dict())  # drops what is ahead
            batches += islice(stream, 2)
    assert_equal(joined(batches), whole)


def test_a_batch_stays_as_it_was_while_the_stream_goes_on(textured):
    stream = Stream(textured, **RANDOM, batch_size=5)
    held = next(stream)
    copy = {name: values.clone() for name, values in held.items()}
    list(islice(stream, 30))
    assert_equal(held, copy)
    del stream
    gc.collect()
    assert_equal(held, copy)


def busy():
    """Threads of ours and of DALI's."""
    ours, dalis = sum(thread.name.startswith("fastgan-") for thread in threading.enumerate()), 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            dalis += "DALI" in (task / "comm").read_text()
    return dalis, ours


def idle_again(idle):
    deadline = time.monotonic() + 10
    while busy() != idle and time.monotonic() < deadline:
        time.sleep(0.01)
    return busy() == idle


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_all_threads_end_with_close_and_with_the_stream(textured, batches):
    gc.collect()
    assert idle_again((0, 0))
    gc.disable()
    try:
        stream = Stream(textured, **RANDOM, batch_size=5, threads=3)
        assert busy() == (0, 0)
        list(islice(stream, batches))
        assert min(busy()) > 0
        stream.close()
        assert busy()[0] == 0
        assert idle_again((0, 0))
        next(stream)
        assert min(busy()) > 0
        del stream
        assert idle_again((0, 0))
    finally:
        gc.enable()


def test_the_interpreter_exits_cleanly_while_images_are_made(textured, tmp_path):
    script = (
        "import sys; from fastgan.data import Stream, open_source\n"
        "stream = Stream(open_source('folder', sys.argv[1]), resolution=256, channels=3, batch_size=50, seed=0, threads=2)\n"
        "print(next(stream)['indices'].tolist()[:3])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "set"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2]\n", "")


@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="torch resizes bytes otherwise here")
def test_the_threads_that_resize_start_none_of_torchs(textured):
    """However many threads torch has, `threads` is how many work: 256x256x3 numbers are more than torch leaves to one."""
    script = (
        "import os, sys, torch; from fastgan.data import Stream, open_source\n"
        "from fastgan.data.resize import resized, scaled; import numpy as np\n"
        "torch.set_num_threads(4)\n"
        "count, out = lambda: len(os.listdir('/proc/self/task')), np.empty((256, 256, 3), np.float32)\n"
        "before = count()\n"
        "for filter in ('linear', 'cubic'):\n"
        "    for side in (40, 600): scaled(resized(np.zeros((side, side, 3), np.uint8), 256, filter), True, out)\n"
        "print(count() - before)\n"
        "torch.ones(1 << 20).exp(); print(count() - before, torch.get_num_threads())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "4"}
    )
    assert (done.returncode, done.stdout) == (0, "0\n3 4\n"), done.stderr
