"""Streams from packed sets: every good image once an epoch over any ranks, exact resume, and sets that are not whole."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch
from pictures import encoded, smooth

from fastgan.data import DataError, Stream, open_source, picture
from fastgan.data import shards as packed_sets
from fastgan.data.order import by_shards
from fastgan.data.pack import pack
from fastgan.data.shards import UNFINISHED

SETTINGS = {"resolution": 16, "channels": 3, "seed": 5}
RANDOM = SETTINGS | {"flip": True, "noise": 1 / 128, "crop": "random"}
_STEP = 14  # levels between the colours that tell images apart: 18 levels a channel


def colour(number):
    return [_STEP * (number // 18**power % 18) for power in range(3)]


def numbers(images):
    """Which flat image each one shows, by its mean colour."""
    levels = ((images.mean(dim=(2, 3)) + 1) * (127.5 / _STEP)).round().long()
    return levels @ torch.tensor([1, 18, 18**2])


def make(root, count):
    """Numbered JPEGs of mixed sizes in five classes, every hundredth damaged in one of four ways; the damaged ones' names."""
    random, bad = np.random.default_rng(0), set()
    for number in range(count):
        height, width = random.integers(20, 60, 2)
        content = encoded(np.full((height, width, 3), colour(number), np.uint8), "JPEG", quality=95)
        name = f"class{number % 5}/{number:05d}.{'JPG' if number % 7 else 'jpeg'}"
        if number % 100 == 37:
            content = [content[: len(content) // 2], b"", b"no image at all", content[:30]][number // 100 % 4]
            bad.add(name)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return bad


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "packed"


@pytest.fixture(scope="module")
def textured(tmp_path_factory):
    """110 images of mixed sizes, whole, in eleven shards."""
    folder = tmp_path_factory.mktemp("textured")
    for number in range(110):
        path = folder / "set" / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(smooth(20 + number % 9, 20 + number % 7, 3, number), "JPEG"))
    pack(folder / "set", folder / "packed", shard_size=10, workers=1, quiet=True)
    return folder / "packed"


def take(stream, count):
    return joined(islice(stream, count))


def joined(batches):
    """Batches of one or several ranks, in the order of their ordinals."""
    batches = list(batches)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in ("images", "labels", "indices")}
    order = whole["indices"].argsort()
    return {name: values[order] for name, values in whole.items()}


def assert_equal(one, two):
    for name in ("images", "labels", "indices"):
        assert torch.equal(one[name], two[name]), name


def kill_in_the_middle(command, dest, shards):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(list((dest / UNFINISHED).glob("0*.json"))) < shards or not list(dest.glob("*.partial")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9


@pytest.mark.parametrize("order", ["images", "shards"])
def test_five_thousand_images_packed_through_a_kill_and_shown_once_an_epoch(root, dest, order):
    """1 % damaged; two ranks, three epochs."""
    count = 5000 if order == "images" else 600
    bad, shard_size = make(root, count), count // 20
    command = [sys.executable, "-m", "fastgan", "data", "pack", str(root), str(dest), "--resolution", "16"]
    command += ["--shard-size", str(shard_size), "--workers", "2"]
    kill_in_the_middle(command, dest, 5)
    kept = {path: path.stat() for path in dest.glob("*.tar")}
    assert 5 <= len(kept) < 20
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat() for path in kept} == kept
    report = json.loads((dest / "report.json").read_text())
    assert {one["path"] for one in report["damaged"]} == bad
    assert len(bad) == count // 100
    assert subprocess.run([sys.executable, "-m", "fastgan", "data", "verify", str(dest)]).returncode == 0

    source, batch_size = open_source("shards", dest), 110
    good = sorted(set(range(count)) - {int(name[7:12]) for name in bad})
    assert len(source) == report["packed"] == len(good)
    steps = -(-3 * len(good) // (2 * batch_size))
    batches = []
    for rank in range(2):
        with closing(Stream(source, **SETTINGS, order=order, batch_size=batch_size, shard=rank, shards=2)) as stream:
            batches += islice(stream, steps)
    shown = joined(batches)
    assert shown["indices"].tolist() == list(range(2 * batch_size * steps))
    epochs = numbers(shown["images"])[: 3 * len(good)].view(3, -1)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == good
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    assert torch.equal(shown["labels"][: epochs.numel()], epochs.flatten() % 5)


# ---- order, ranks and resume


@pytest.mark.parametrize("order", ["images", "shards"])
def test_ranks_together_are_one_process_of_the_whole_batch(textured, order):
    source, batches = open_source("shards", textured), []
    for rank in range(3):
        with closing(Stream(source, **RANDOM, order=order, batch_size=9, shard=rank, shards=3)) as stream:
            batches += islice(stream, 6)
    with closing(Stream(source, **RANDOM, order=order, batch_size=27)) as stream:
        assert_equal(joined(batches), take(stream, 6))


@pytest.mark.parametrize("order", ["images", "shards"])
@pytest.mark.parametrize("stop", [0, 3, 11, 25])
def test_a_resumed_stream_goes_on_bit_for_bit(textured, order, stop):
    """110 images in batches of 10: also at the end of an epoch."""
    with closing(Stream(open_source("shards", textured), **RANDOM, order=order, batch_size=10)) as stream:
        list(islice(stream, stop))
        state = json.loads(json.dumps(stream.state_dict()))
        rest = take(stream, 9)
    with closing(Stream(open_source("shards", textured), **RANDOM, order=order, batch_size=10, prefetch=4)) as resumed:
        resumed.load_state_dict(state)
        assert_equal(take(resumed, 9), rest)


def test_two_ranks_become_one_by_the_count_of_images(textured):
    source, batches = open_source("shards", textured), []
    for rank in range(2):
        with closing(Stream(source, **RANDOM, order="shards", batch_size=16, shard=rank, shards=2)) as stream:
            batches += islice(stream, 3)
            state = stream.state_dict()
    assert state["images_seen"] == 96
    with closing(Stream(source, **RANDOM, order="shards", batch_size=12)) as alone:
        alone.load_state_dict(state)
        batches += islice(alone, 12)
    with closing(Stream(source, **RANDOM, order="shards", batch_size=240)) as whole:
        assert_equal(joined(batches), next(whole))


def test_shards_are_shown_in_their_order_and_warmed_one_window_ahead(textured):
    source = open_source("shards", textured)
    warmed, warm = [], source.warm
    object.__setattr__(source, "warm", lambda shard: (warmed.append(shard), warm(shard)))
    with closing(Stream(source, **SETTINGS, order="shards", batch_size=10)) as stream:
        shown = take(stream, 22)
    expected = np.concatenate([by_shards(source.shards, SETTINGS["seed"], epoch) for epoch in (0, 1)])
    assert shown["labels"].tolist() == source.labels[expected].tolist()
    until = time.monotonic() + 10
    while len(warmed) < 22 and time.monotonic() < until:
        time.sleep(0.01)
    assert set(warmed[:8]) == set(source.shards[expected[:80]])
    assert set(warmed[8:11]) == set(source.shards[expected[80:110]])
    assert sorted(warmed[:11]) == list(range(11))


def test_a_packed_set_shows_what_the_folder_shows(textured):
    """Whole images are the same files, but in another order: by name both show the same pixels."""
    folder, source = open_source("folder", textured.parent / "set", quiet=True), open_source("shards", textured)
    names = {folder.read.shown(index).rpartition("/set/")[2]: index for index in range(110)}
    for index in range(110):
        same = names[source.read.shown(index).rpartition("(from ")[2][:-1]]
        assert source.read(index).tobytes() == folder.read(same).tobytes()
        assert source.sizes[index].tolist() == folder.sizes[same].tolist()
        assert source.classes[source.labels[index]] == folder.classes[folder.labels[same]]


def test_images_packed_at_the_resolution_are_shown_as_they_were_stored(textured, dest):
    pack(textured.parent / "set", dest, resolution=16, lossless=True, workers=1, quiet=True)
    source = open_source("shards", dest)
    with closing(Stream(source, **SETTINGS, batch_size=110)) as stream:
        batch = next(stream)
    levels = ((batch["images"] + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    stored = {np.asarray(picture.to_image(source.read(index).tobytes())).tobytes() for index in range(110)}
    assert {image.tobytes() for image in levels} == stored


def test_a_folder_that_holds_a_packed_set_is_taken_for_it(textured):
    source = open_source("folder", textured)
    assert (source.name, source.fingerprint) == ("shards", open_source("shards", textured).fingerprint)


def test_a_copy_is_the_same_data_and_another_packing_is_not(textured, tmp_path):
    shutil.copytree(textured, tmp_path / "copy")
    pack(textured.parent / "set", tmp_path / "other", shard_size=11, workers=1, quiet=True)
    one, copy, other = (open_source("shards", path) for path in (textured, tmp_path / "copy", tmp_path / "other"))
    assert one.fingerprint == copy.fingerprint != other.fingerprint
    with closing(Stream(one, **SETTINGS, batch_size=4)) as stream, pytest.raises(DataError, match="trained on other data"):
        stream.load_state_dict(Stream(other, **SETTINGS, batch_size=4).state_dict())


# ---- memory and files


@pytest.mark.parametrize("budget", [1, 20_000, 2**30])
def test_a_cache_changes_no_image_and_keeps_within_its_budget(textured, budget):
    source = open_source("shards", textured)
    with closing(Stream(source, **RANDOM, batch_size=22)) as stream:
        plain = take(stream, 15)
    reads, read = [], source.read
    object.__setattr__(source, "read", lambda index: (reads.append(index), read(index))[1])
    with closing(Stream(source, **RANDOM, batch_size=22, cache=budget)) as stream:
        assert_equal(take(stream, 15), plain)
        kept = stream._cache._kept
    size = sum(len(read(index)) for index in range(110))
    if budget >= size:
        assert sorted(reads) == list(range(110))
    else:
        assert len(reads) > 220
        assert sum(map(len, kept.values())) <= budget + 4 * 3000  # a file a reader


def test_more_shards_than_may_be_open(textured, monkeypatch):
    monkeypatch.setattr(packed_sets, "_OPEN", 5)
    before = len(os.listdir("/proc/self/fd"))
    source = open_source("shards", textured)
    contents = [source.read(index).tobytes() for index in range(110)]
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    kept = open_source("shards", textured)
    assert [kept.read(index).tobytes() for index in range(110)] == contents
    assert len(os.listdir("/proc/self/fd")) == before + 11
    del kept
    assert len(os.listdir("/proc/self/fd")) == before


# ---- sets that are not whole


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: (d / "shard-000003.tar").unlink(), "shard-000003.tar is missing"),
        (lambda d: os.truncate(d / "shard-000003.tar", 512), "shard-000003.tar is damaged: it has 512 bytes in the place of"),
        (lambda d: (d / "index.npz").write_bytes(b"PK"), "index.npz can't be read"),
        (lambda d: shutil.move(d / "manifest.json", d / ".packing"), "holds no packed set"),
        (lambda d: shutil.rmtree(d), "does not exist"),
    ],
)
def test_a_set_that_is_not_whole_is_refused(textured, tmp_path, spoil, sentence):
    copy = tmp_path / "copy"
    shutil.copytree(textured, copy)
    spoil(copy)
    with pytest.raises(DataError, match=sentence):
        open_source("shards", copy)


def test_a_shard_that_changes_while_a_run_trains_ends_it_with_its_name(textured, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(textured, copy)
    source = open_source("shards", copy)
    row = source.read._content._rows[0]
    with (copy / "shard-000000.tar").open("r+b") as file:
        file.seek(int(row["offset"]))
        file.write(bytes(int(row["length"])))
    with (
        closing(Stream(source, **SETTINGS, batch_size=110)) as stream,
        pytest.raises(DataError, match=r"shard-000000.tar: \d{9} \(from ./\d+.jpg\) has changed"),
    ):
        next(stream)
    os.truncate(copy / "shard-000000.tar", 600)
    with pytest.raises(DataError, match="has changed since it was packed: run `fastgan data verify`"):
        source.read(0)


@pytest.mark.parametrize("damage", ["zeros", "no image", "header", "another size", "tables", "middle"])
def test_damage_in_a_large_batch_is_an_error_and_no_crash(textured, tmp_path, damage):
    """DALI 2.4 ends the process where one header in a batch of a hundred is not what it should be."""
    shutil.copytree(textured, tmp_path / "copy")
    source = open_source("shards", tmp_path / "copy")
    row, content = source.read._content._rows[60], source.read(60).tobytes()
    spoiled = {
        "zeros": bytes(len(content)),
        "no image": b"no image at all ".ljust(len(content)),
        "header": content[:20] + bytes(2) + content[22:],
        "another size": encoded(smooth(9, 9, 3), "JPEG", quality=10).ljust(len(content), b"\0"),
        "tables": content[:170] + bytes(400) + content[570:],
        "middle": content[:-60] + bytes(byte ^ 0x5A for byte in content[-60:-40]) + content[-40:],
    }[damage]
    assert len(spoiled) == len(content)
    with (tmp_path / "copy" / "shard-000006.tar").open("r+b") as file:
        file.seek(int(row["offset"]))
        file.write(spoiled)
    with (
        closing(Stream(source, **SETTINGS, batch_size=110)) as stream,
        pytest.raises(DataError, match=r"shard-000006.tar: \d{9} \(from .*has changed"),
    ):
        next(stream)


def test_what_streams_refuse(textured, root):
    make(root, 3)
    for arguments, sentence in (
        (("shards", None), "set data.path"),
        (("shards", textured, "held-out"), "no held-out split"),
        (("shards", root), "holds no packed set"),
    ):
        with pytest.raises(DataError, match=sentence):
            open_source(*arguments)
    with pytest.raises(DataError, match="'folder' has no shards to be read in order"):
        Stream(open_source("folder", root, quiet=True), **SETTINGS, batch_size=1, order="shards")
    with pytest.raises(DataError, match="cache must be at least 0 bytes"):
        Stream(open_source("shards", textured), **SETTINGS, batch_size=1, cache=-1)


@pytest.mark.gpu
def test_a_gpu_shows_the_same_images(textured):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    source = open_source("shards", textured)
    with closing(Stream(source, **SETTINGS, batch_size=40)) as stream:
        expected = take(stream, 3)
    with closing(Stream(source, **SETTINGS, batch_size=40, device="cuda")) as stream:
        found = {name: values.cpu() for name, values in take(stream, 3).items()}
    assert torch.equal(found["labels"], expected["labels"])
    assert (found["images"] - expected["images"]).abs().mean() < 0.03
