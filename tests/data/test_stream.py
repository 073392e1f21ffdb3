"""The DALI stream: which image each ordinal shows, whoever shares the work and wherever a run is resumed; and its pixels."""

import gc
import json
import math
import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import islice, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import DataError, Stream, open_source

SMALL = {"resolution": 4, "channels": 1, "batch_size": 5, "seed": 3}


@pytest.fixture
def open_images(tmp_path):
    """A source over the given images, labelled 0, 1, 2, ... unless told otherwise."""

    def opened(images, labels=None):
        np.savez(tmp_path / "set.npz", images=images, labels=np.arange(len(images)) if labels is None else labels)
        return open_source("arrays", tmp_path / "set.npz")

    return opened


@pytest.fixture
def flat(open_images):
    """23 images, number n all of level 10 n: the number can be read off any pixel, resized or flipped."""
    return open_images(np.broadcast_to(10 * np.arange(23, dtype=np.uint8)[:, None, None], (23, 4, 4)))


@pytest.fixture
def textured(open_images):
    """23 random colour images of 6 x 7 pixels."""
    return open_images(np.random.default_rng(1).integers(0, 256, (23, 6, 7, 3), dtype=np.uint8))


def take(stream, count):
    """The next batches, joined into one."""
    batches = list(islice(stream, count))
    return {name: torch.cat([batch[name] for batch in batches]) for name in ("images", "labels", "indices")}


def joined(batches):
    """Batches of several shards, in the order of their ordinals."""
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in ("images", "labels", "indices")}
    order = whole["indices"].argsort()
    return {name: values[order] for name, values in whole.items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def dali_threads():
    return sum("DALI" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


# ---- which image each ordinal shows


@pytest.mark.parametrize("batch_size", [1, 5, 7, 23, 64])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_every_image_is_shown_once_an_epoch_over_three_epochs(flat, shards, batch_size):
    steps = math.ceil(3 * 23 / (shards * batch_size))
    batches = []
    for shard in range(shards):
        with closing(Stream(flat, **SMALL | {"batch_size": batch_size}, shard=shard, shards=shards)) as stream:
            for step, batch in enumerate(islice(stream, steps)):
                first = (step * shards + shard) * batch_size
                assert batch["indices"].tolist() == list(range(first, first + batch_size))
                batches.append(batch)
    shown = joined(batches)
    numbers = ((shown["images"][:, 0, 1, 2] + 1) * 127.5 / 10).round().long()
    assert torch.equal(numbers, shown["labels"])
    epochs = numbers[: 3 * 23].view(3, 23)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(23).expand(3, 23))
    assert len({tuple(order) for order in [*epochs.tolist(), list(range(23))]}) == 4  # each epoch shuffled, each anew


def test_all_orders_are_about_equally_likely(open_images):
    source = open_images(np.zeros((3, 1, 1), np.uint8))
    with closing(Stream(source, resolution=1, channels=1, batch_size=3 * 600, seed=0)) as stream:
        counts = Counter(map(tuple, next(stream)["labels"].view(600, 3).tolist()))
    assert counts.keys() == set(permutations(range(3)))
    assert max(abs(count - 100) for count in counts.values()) < 5 * math.sqrt(600 * 5 / 36)


def test_the_seed_decides_the_order_in_all_its_64_bits(flat):
    orders = set()
    for seed in (0, 1, 2**32, 2**64 - 1):
        for _ in range(2):
            with closing(Stream(flat, **SMALL | {"seed": seed})) as stream:
                orders.add(tuple(take(stream, 5)["labels"].tolist()))
    assert len(orders) == 4


def test_what_is_drawn_is_pinned(open_images):
    """A run of an earlier version resumes exactly: another value here means that it would see other images."""
    image = np.arange(4, dtype=np.uint8)[:, None, None] * 40 + np.array([0, 20], np.uint8)  # 4 images of 1 x 2 pixels
    settings = {"resolution": 2, "channels": 1, "batch_size": 12, "seed": 3, "crop": "stretch", "flip": True}
    with closing(Stream(open_images(image), **settings)) as stream:
        plain = next(stream)
    with closing(Stream(open_images(image), **settings, noise=1.0)) as stream:
        noisy = next(stream)
    assert plain["labels"].tolist() == [3, 2, 1, 0, 3, 1, 0, 2, 1, 0, 3, 2]
    assert (plain["images"][:, 0, 0, 0] > plain["images"][:, 0, 0, 1]).int().tolist() == [0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1]
    first_words = ((noisy["images"] - plain["images"])[:, 0, 0, 0] * 2**16).int()  # 16 of the 24 bits: float32 rounds the sum
    assert first_words.tolist() == [44846, 37345, 27133, 19188, 4936, 12975, 13443, 61327, 34043, 13005, 45212, 26724]


def test_digits_come_with_their_labels():
    source = open_source("digits")
    images = {source.read(row).tobytes(): int(label) for row, label in enumerate(source.labels)}
    with closing(Stream(source, resolution=8, channels=1, batch_size=721, seed=0)) as stream:
        epoch = take(stream, 2)
    levels = ((epoch["images"] + 1) * 127.5).round().to(torch.uint8)
    assert [images[level.numpy().tobytes()] for level in levels] == epoch["labels"].tolist()
    assert torch.equal(epoch["labels"].bincount(), torch.from_numpy(np.bincount(source.labels)))


# ---- shards and resume: bit for bit

RANDOM = {"resolution": 8, "channels": 3, "seed": 2**63 + 5, "flip": True, "noise": 1 / 128}


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_together_are_one_process_of_the_whole_batch(textured, shards):
    batches = []
    for shard in range(shards):
        with closing(Stream(textured, **RANDOM, batch_size=5, shard=shard, shards=shards)) as stream:
            batches += islice(stream, 6)
    with closing(Stream(textured, **RANDOM, batch_size=5 * shards)) as stream:
        assert_equal(joined(batches), take(stream, 6))


def test_threads_and_prefetch_change_nothing(textured):
    with closing(Stream(textured, **RANDOM, batch_size=16)) as stream:
        whole = take(stream, 6)
    with closing(Stream(textured, **RANDOM, batch_size=16, threads=3, prefetch=1)) as stream:
        assert_equal(take(stream, 6), whole)
    with closing(Stream(textured, **RANDOM, batch_size=16, prefetch=5)) as stream:
        assert_equal(take(stream, 6), whole)


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7])
def test_a_resumed_stream_goes_on_bit_for_bit(textured, stop):
    with closing(Stream(textured, **RANDOM, batch_size=5)) as stream:
        if stop:
            take(stream, stop)
        state = json.loads(json.dumps(stream.state_dict()))
        rest = take(stream, 8)
    assert state == {"images_seen": 5 * stop, "fingerprint": textured.fingerprint, "seed": RANDOM["seed"]}
    with closing(Stream(textured, **RANDOM, batch_size=5, prefetch=4)) as resumed:
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert_equal(take(resumed, 8), rest)
        resumed.load_state_dict(state)  # and back again, with batches prefetched from further on
        assert_equal(take(resumed, 8), rest)


@pytest.mark.parametrize(("before", "after", "batch_size"), [(2, 1, 7), (1, 3, 4), (3, 2, 5), (1, 1, 2)])
def test_a_run_resumed_on_other_shards_repeats_and_loses_nothing(textured, before, after, batch_size):
    """From `before` shards of 5 to `after` shards of `batch_size`, against one process that never stopped."""
    batches, states = [], []
    for shard in range(before):
        with closing(Stream(textured, **RANDOM, batch_size=5, shard=shard, shards=before)) as stream:
            batches += islice(stream, 3)
            states.append(stream.state_dict())
    assert all(state == states[0] for state in states)
    for shard in range(after):
        with closing(Stream(textured, **RANDOM, batch_size=batch_size, shard=shard, shards=after)) as stream:
            stream.load_state_dict(states[0])
            batches += islice(stream, 6)
            assert stream.state_dict()["images_seen"] == 15 * before + 6 * after * batch_size
    shown = joined(batches)
    assert torch.equal(shown["indices"], torch.arange(15 * before + 6 * after * batch_size))
    with closing(Stream(textured, **RANDOM, batch_size=len(shown["indices"]))) as whole:
        assert_equal(shown, next(whole))


def test_other_data_are_refused_and_leave_the_stream_as_it_was(textured, open_images):
    changed = np.random.default_rng(1).integers(0, 256, (23, 6, 7, 3), dtype=np.uint8)
    changed[22, 5, 6, 2] ^= 1
    other = open_images(changed)
    with closing(Stream(other, **RANDOM, batch_size=5)) as stream:
        take(stream, 2)
        state = stream.state_dict()
    with closing(Stream(textured, **RANDOM, batch_size=5)) as stream:
        first = take(stream, 1)
        with pytest.raises(DataError, match="trained on other data") as refusal:
            stream.load_state_dict(state)
        assert other.fingerprint[:12] in str(refusal.value)
        assert textured.fingerprint[:12] in str(refusal.value)
        second = take(stream, 1)
    assert torch.equal(first["indices"], torch.arange(5))
    assert torch.equal(second["indices"], torch.arange(5, 10))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 4}, "trained on other data: its order was drawn with seed 4, not 3, .*{fingerprint}"),
        ({"images_seen": -1}, "at least 0, but is -1"),
        ({"images_seen": 2.5}, "a whole number .* but is 2.5"),
        ({"fingerprint": None}, "trained on other data: its fingerprint is None"),
    ],
)
def test_states_that_do_not_fit_are_refused(flat, changes, sentence):
    stream = Stream(flat, **SMALL)
    with pytest.raises(DataError, match=sentence.format(fingerprint=flat.fingerprint[:12])):
        stream.load_state_dict(stream.state_dict() | changes)


@pytest.mark.parametrize("state", [{}, {"images_seen": 1, "seed": 3}, None])
def test_what_is_no_state_is_refused(flat, state):
    with pytest.raises(DataError, match="not the state of a data stream"):
        Stream(flat, **SMALL).load_state_dict(state)


# ---- pixels


def cubic_matrix(size, resolution, a=-0.5):
    """Cubic interpolation (Keys 1981) along one axis, float64 (resolution, size).

    Pixel centres are aligned, edges repeated, and the kernel is widened by the scale where the image shrinks.
    """
    scale = size / resolution
    width = max(scale, 1.0)
    matrix = np.zeros((resolution, size))
    for row in range(resolution):
        centre = (row + 0.5) * scale - 0.5
        for tap in range(math.floor(centre - 2 * width), math.ceil(centre + 2 * width) + 1):
            x = abs(tap - centre) / width
            if x < 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0
            matrix[row, min(max(tap, 0), size - 1)] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("height", "width", "resolution", "tolerance"),
    [
        # Tolerance in grey levels. DALI reads the kernel from a table, whose entries the phases of 8 to 32 hit exactly;
        # elsewhere it was up to 0.27 of a level off. The wrong coefficient or border would be off by 6 to 26.
        (8, 8, 32, 1e-3),
        (32, 32, 32, 1e-3),
        (5, 9, 24, 0.3),
        (45, 61, 32, 0.3),
        (9, 50, 16, 0.3),
        (101, 99, 7, 0.3),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_a_cubic_resize(open_images, height, width, resolution, tolerance, channels):
    # Black and white blocks overshoot at their edges; noise has all frequencies, so a missing antialias would show.
    images = np.random.default_rng(2).integers(0, 256, (6, height, width, channels), dtype=np.uint8)
    images[:2] = 255 * (images[:2] > 127)
    settings = {"resolution": resolution, "channels": channels, "batch_size": 6, "seed": 0, "crop": "stretch"}
    with closing(Stream(open_images(images), **settings)) as stream:
        batch = next(stream)
    shown = batch["images"].permute(0, 2, 3, 1).double().numpy()
    rows, columns = cubic_matrix(height, resolution), cubic_matrix(width, resolution)
    expected = np.einsum("ih,nhwc,jw->nijc", rows, images[batch["labels"].numpy()].astype(np.float64), columns)
    if resolution > height:
        assert expected.min() < 0 < 255 < expected.max()  # so that the clamp is tested
    levels = (shown + 1) * 127.5
    assert np.abs(levels - levels.round()).max() < 1e-4  # one of the 256 levels ...
    assert np.abs(levels - expected.clip(0, 255)).max() < 0.5 + tolerance  # ... the nearest one
    assert np.abs(shown).max() <= 1


def test_crops_are_parts_of_the_image(open_images):
    """Shown at their own size, or as they are where all of the image is asked for."""
    image = np.random.default_rng(2).integers(0, 256, (1, 16, 24, 3), dtype=np.uint8)
    source = open_images(image)
    settings = {"resolution": 16, "channels": 3, "batch_size": 60, "seed": 0}
    levels = {}
    for crop in ("centre", "random"):
        with closing(Stream(source, **settings, crop=crop, min_area=1.0)) as stream:
            levels[crop] = ((next(stream)["images"] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    parts = [image[0, :, left : left + 16] for left in range(9)]
    assert (levels["centre"] == parts[4]).all()
    found = [next(left for left, part in enumerate(parts) if np.array_equal(part, shown)) for shown in levels["random"]]
    assert set(found) == set(range(9))


@pytest.mark.parametrize("filter", ["cubic", "lanczos", "linear"])
def test_filters_agree_with_pillow_inside_the_image(open_images, filter):
    image = np.random.default_rng(3).integers(0, 256, (1, 60, 60, 3), dtype=np.uint8)
    with closing(Stream(open_images(image), resolution=25, channels=3, batch_size=1, seed=0, filter=filter)) as stream:
        shown = ((next(stream)["images"][0] + 1) * 127.5).permute(1, 2, 0).numpy()
    kernel = {"cubic": "BICUBIC", "lanczos": "LANCZOS", "linear": "BILINEAR"}[filter]
    expected = np.asarray(Image.fromarray(image[0]).resize((25, 25), Image.Resampling[kernel])).astype(float)
    assert np.abs(shown - expected)[4:-4, 4:-4].max() < 2.5


def test_the_reference_is_pillows_inside_the_image():
    """Pillow leaves out what lies beyond the edge, where DALI repeats the edge: they agree two pixels from it."""
    image = np.random.default_rng(3).uniform(0, 255, (12, 12)).astype(np.float32)
    pillow = np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC))
    matrix = cubic_matrix(12, 48)
    assert np.abs(matrix @ image.astype(np.float64) @ matrix.T - pillow)[8:-8, 8:-8].max() < 1e-3


def test_grey_becomes_three_equal_channels(open_images):
    source = open_images(np.random.default_rng(4).integers(0, 256, (9, 8, 8), dtype=np.uint8))
    with closing(Stream(source, resolution=16, channels=1, batch_size=9, seed=0)) as stream:
        grey = next(stream)["images"]
    with closing(Stream(source, resolution=16, channels=3, batch_size=9, seed=0)) as stream:
        colour = next(stream)["images"]
    assert grey.shape == (9, 1, 16, 16)
    # One channel and three are scaled by different code of DALI's: 2e-7 apart.
    assert torch.allclose(colour, grey.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)
    assert torch.equal(colour, colour[:, :1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_channels_last(channels, noise):
    with closing(Stream(open_source("digits"), resolution=32, channels=channels, batch_size=4, seed=0, noise=noise)) as stream:
        batch = next(stream)
    assert batch.keys() == {"images", "labels", "indices"}
    assert batch["images"].shape == (4, channels, 32, 32)
    assert batch["images"].stride() == (32 * 32 * channels, 1, 32 * channels, channels)
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert [values.dtype for values in batch.values()] == [torch.float32, torch.int64, torch.int64]
    assert batch["labels"].shape == batch["indices"].shape == (4,)


def test_flip_mirrors_about_half_of_the_images_left_to_right(open_images):
    image = np.arange(30, dtype=np.uint8).reshape(1, 5, 6) * 8
    with closing(Stream(open_images(image), resolution=10, channels=1, batch_size=400, seed=0)) as stream:
        plain = next(stream)["images"]
    assert torch.equal(plain, plain[:1].expand_as(plain))
    with closing(Stream(open_images(image), resolution=10, channels=1, batch_size=400, seed=0, flip=True)) as stream:
        shown = next(stream)["images"]
    mirrored = (shown == plain.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(~mirrored, (shown == plain).all(dim=(1, 2, 3)))
    assert abs(int(mirrored.sum()) - 200) < 5 * math.sqrt(400 / 4)
    # Drawn one by one: neighbours are equal in about half of the pairs.
    assert abs(int((mirrored[1:] == mirrored[:-1]).sum()) - 200) < 5 * math.sqrt(400 / 4)


@pytest.mark.parametrize("noise", [1 / 128, 0.5])
def test_noise_is_uniform_and_drawn_anew_for_every_ordinal(textured, noise):
    settings = {"resolution": 8, "channels": 3, "batch_size": 46, "seed": 0}
    with closing(Stream(textured, **settings)) as stream:
        plain = next(stream)
    with closing(Stream(textured, **settings, noise=noise)) as stream:
        noisy = next(stream)
    assert torch.equal(noisy["labels"], plain["labels"])
    added = (noisy["images"].double() - plain["images"].double()) / noise
    rounding = 2**-24 / noise  # half a unit in the last place of a float32 below 1
    assert added.min() >= -rounding
    assert added.max() <= 1 + rounding
    counts = added.flatten().histc(16, 0, 1)
    expected = added.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-square of 15 degrees of freedom: once in 80,000 seeds
    # Of all pairs of samples, two epochs of each image, none are alike: correlations of 192 numbers stay under 5 sigma.
    correlation = torch.corrcoef(added.flatten(1)).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(192)


# ---- lifetime


def test_a_batch_stays_as_it_was_while_the_stream_goes_on(textured):
    stream = Stream(textured, resolution=8, channels=3, batch_size=5, seed=0)
    held = next(stream)
    copy = {name: values.clone() for name, values in held.items()}
    take(stream, 30)
    assert_equal(held, copy)
    stream.close()
    gc.collect()
    assert_equal(held, copy)


def test_close_ends_dalis_threads_and_the_next_batch_goes_on(textured):
    with closing(Stream(textured, **RANDOM, batch_size=5)) as stream:
        whole = take(stream, 6)
    gc.collect()
    idle = dali_threads()
    gc.disable()  # the threads end with close() and del themselves, not with a later collection
    try:
        stream = Stream(textured, **RANDOM, batch_size=5)
        first = take(stream, 2)
        assert dali_threads() > idle
        stream.close()
        stream.close()
        assert dali_threads() == idle
        rest = take(stream, 4)
        assert dali_threads() > idle
        del stream
        assert dali_threads() == idle
    finally:
        gc.enable()
    assert_equal(joined([first, rest]), whole)


def test_no_thread_is_started_before_the_first_batch(flat):
    gc.collect()
    idle = dali_threads()
    stream = Stream(flat, **SMALL)
    stream.load_state_dict(stream.state_dict() | {"images_seen": 11})
    assert dali_threads() == idle


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


def test_the_interpreter_exits_cleanly_with_streams_left_open():
    done = run(
        "from fastgan.data import Stream, open_source\n"
        "streams = [Stream(open_source('digits'), resolution=8, channels=1, batch_size=4, seed=0) for _ in range(2)]\n"
        "batch = next(streams[0]); next(streams[1])\n"
        "streams[1].itself = streams\n"
        "print(batch['indices'].tolist())\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2, 3]\n", "")


def test_without_dali_the_message_says_what_to_install():
    done = run(
        "import sys; sys.modules['nvidia.dali'] = None\n"  # Python's own way to say: this can't be imported
        "from fastgan.data import DataError, Stream, open_source\n"
        "try: Stream(open_source('digits'), resolution=8, channels=1, batch_size=4, seed=0)\n"
        "except DataError as error: print(error)\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip install nvidia-dali-cuda130" in done.stdout


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resolution": 0}, "resolution must be at least 1, but is 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, but is 0"),
        ({"prefetch": 0}, "prefetch must be at least 1, but is 0"),
        ({"threads": -1}, "threads must be at least 1, but is -1"),
        ({"shards": 0}, "shards must be at least 1, but is 0"),
        ({"channels": 2}, "channels must be 1 or 3, but is 2"),
        ({"shard": 2, "shards": 2}, "shard must be from 0 to 1 with 2 shards, but is 2"),
        ({"shard": -1}, "shard must be from 0 to 0 with 1 shards, but is -1"),
        ({"seed": -1}, r"seed must be from 0 to 2\*\*64 - 1, but is -1"),
        ({"seed": 2**64}, r"seed must be from 0 to 2\*\*64 - 1"),
        ({"noise": -0.1}, "noise must be a finite number of at least 0, but is -0.1"),
        ({"noise": math.nan}, "noise must be a finite number of at least 0, but is nan"),
        ({"noise": math.inf}, "noise must be a finite number of at least 0, but is inf"),
        ({"crop": "center"}, "crop must be one of centre, random, stretch, but is 'center'"),
        ({"filter": "box"}, "filter must be one of cubic, lanczos, linear, but is 'box'"),
        ({"min_area": 0}, "min_area must be above 0 and at most 1, but is 0"),
        ({"min_area": 1.5}, "min_area must be above 0 and at most 1, but is 1.5"),
        ({"min_area": math.nan}, "min_area must be above 0"),
        ({"device": "meta"}, "device must be 'cpu' or a CUDA device, but is 'meta'"),
        ({"device": "gpu"}, "device must be 'cpu' or a CUDA device, but is 'gpu'"),
    ],
)
def test_arguments_out_of_their_range_are_refused(flat, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        Stream(flat, **SMALL | changes)


def test_colour_is_not_turned_to_grey_unasked(textured):
    with pytest.raises(DataError, match="the images of the source 'arrays' are in colour: ask for 3 channels, not for 1"):
        Stream(textured, **SMALL)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_named(flat):
    with pytest.raises(DataError, match="asked for on 'cuda:0', but torch finds no CUDA device"):
        Stream(flat, **SMALL, device="cuda:0")


# ---- GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("resolution", "noise"), [(24, 0.0), (24, 1 / 128), (4, 1 / 128)])
def test_the_gpu_shows_what_the_cpu_shows(textured, resolution, noise):
    settings = RANDOM | {"resolution": resolution, "noise": noise, "batch_size": 5}
    with closing(Stream(textured, **settings)) as stream:
        on_cpu = take(stream, 9)
    with closing(Stream(textured, **settings, device="cuda")) as stream:
        take(stream, 2)
        state = stream.state_dict()
    with closing(Stream(textured, **settings, device="cuda")) as stream:
        first = take(stream, 2)
        stream.load_state_dict(state)
        on_gpu = joined([first, take(stream, 7)])
    assert all(values.is_cuda for values in on_gpu.values())
    assert on_gpu["images"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(on_gpu["labels"].cpu(), on_cpu["labels"])
    assert torch.equal(on_gpu["indices"].cpu(), on_cpu["indices"])
    apart = (on_gpu["images"].cpu() - on_cpu["images"]).abs() * 127.5
    assert apart.max() < 1.01  # a value near a half may be rounded either way: one grey level
    assert (apart > 0.01).float().mean() < 0.02
