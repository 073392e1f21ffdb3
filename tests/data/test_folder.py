"""Folders: what counts as a data set, what is refused or noted, what the scan remembers, and each good image once an epoch."""

import io
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch
from pictures import damaged, encoded, every_kind, smooth, with_junk, write
from PIL import Image

from fastgan.data import DataError, Stream, open_source, review
from fastgan.data import picture as pillow
from fastgan.data.crops import boxes
from fastgan.data.resize import resized
from fastgan.data.scan import CACHE


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"


def flat(level, height=9, width=12, kind="PNG"):
    """A file of one colour: the number can be read off any pixel."""
    return encoded(np.full((height, width, 3), level, np.uint8), kind)


SPLITS = "the classes are called train, val: if these are splits, set data.path to one"


# ---- what counts as a data set


def test_class_folders(root):
    write(
        root,
        {
            "dog/b.png": flat(1),
            "dog/a.jpg": flat(2, 5, 7, "JPEG"),
            "Cat/x.PNG": flat(3),
            "cat/.hidden.png": b"",
            "notes.txt": b"x",
        },
    )
    (root / "cat/.hidden.png").unlink()
    (root / "cat").rmdir()
    source = open_source("folder", root)
    assert source.classes == ("Cat", "dog")
    assert source.labels.tolist() == [0, 1, 1]
    assert source.sizes.tolist() == [[9, 12], [5, 7], [9, 12]]
    assert (source.name, source.channels, source.notes) == ("folder", 3, ())
    assert source.read(2).tobytes() == flat(1)


def test_images_directly_in_the_folder_are_one_class(root):
    write(root, {"2.png": flat(2), "10.bmp": flat(1, kind="BMP"), ".thumb.png": b"", "readme.md": b""})
    source = open_source("folder", str(root))
    assert (source.classes, source.labels.tolist(), source.notes) == (("all",), [0, 0], ())


def test_links_count_as_what_they_lead_to(root, tmp_path):
    write(tmp_path / "elsewhere", {"1.png": flat(1), "2.png": flat(2)})
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog").mkdir()
    (root / "dog/1.png").symlink_to(tmp_path / "elsewhere/1.png")
    assert open_source("folder", root).labels.tolist() == [0, 0, 1]


def test_all_grey_is_grey_and_one_colour_image_makes_it_colour(root):
    write(root, {"a.png": encoded(smooth(9, 9, 1), "PNG"), "b.jpg": encoded(smooth(9, 9, 1), "JPEG")})
    grey = open_source("folder", root)
    assert grey.channels == 1
    with closing(Stream(grey, resolution=8, channels=1, batch_size=2, seed=0)) as stream:
        one = next(stream)["images"]
    with closing(Stream(grey, resolution=8, channels=3, batch_size=2, seed=0)) as stream:
        assert torch.allclose(next(stream)["images"], one.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)
    write(root, {"c.png": flat(3)})
    assert open_source("folder", root).channels == 3


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, r"holds no images \(\.bmp, \.jpeg, \.jpg, \.png, \.webp\)"),
        ({"a/x.gif": b"", "b/readme": b""}, "holds no images .* 1 files are of kinds that are not read, such as a/x.gif"),
        ({"train/cat/1.png": flat(1), "test/cat/1.png": flat(1)}, "two folders down, in test/cat, train/cat; .*set/test or "),
        ({"data/train/cat/1.png": flat(1)}, "looks like the folder above a data set.*set data.path to .*set/data"),
        ({"cat/1.png": flat(1), "cat/more/2.png": flat(1)}, "images lie two folders down, in cat/more"),
        ({"1.png": flat(1), "cat/2.png": flat(2), "cat/3.png": flat(2)}, "1 images beside class folders that hold 2"),
        ({"1.png": b"", "2.png": b"x"}, r"do not decode: 1.png \(it is empty\), 2.png \(no JPEG, PNG, WebP or"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_refused_in_one_sentence(root, files, sentence):
    root.mkdir()
    write(root, files)
    with pytest.raises(DataError, match=sentence) as refusal:
        open_source("folder", root)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("files", "notes"),
    [
        ({"cat/1.png": flat(1), "dog/.x.png": b""}, ["empty class folders are left out: dog"]),
        ({"cat/1.png": flat(1), "cat/2.tiff": b""}, ["1 file is of a kind that is not read, and left out: cat/2.tiff"]),
        ({"train/1.png": flat(1), "val/1.png": flat(1)}, [SPLITS]),
        ({"cat/1.png": flat(1), "__MACOSX/._1.png": b"", "__MACOSX/2.png": b""}, []),
    ],
)  # fmt: skip
def test_what_is_odd_is_noted(root, files, notes):
    write(root, files)
    source = open_source("folder", root)
    assert list(source.notes) == notes
    assert len(source) == len([name for name in files if name.endswith("1.png") and "MACOSX" not in name])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((None,), "needs the path of a folder: set data.path"),
        (("/nowhere/set",), "/nowhere/set does not exist"),
        ((__file__,), "is not a folder"),
        (("/tmp", "held-out"), "has no held-out split"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        open_source("folder", *arguments)


def test_an_unknown_wish_about_bad_images_is_refused(root):
    with pytest.raises(DataError, match="on_bad_image must be one of refuse, skip, but is 'ignore'"):
        open_source("folder", root, on_bad_image="ignore")


def test_names_of_any_bytes_fit_into_a_sentence(root):
    write(root, {"a\nb.png": b"", "fine.png": flat(1)})
    (root / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(DataError) as refusal:
        open_source("folder", root)
    assert "\n" not in str(refusal.value)
    str(refusal.value).encode()
    assert len(open_source("folder", root, on_bad_image="skip")) == 1
    assert len(open_source("folder", root, on_bad_image="skip")) == 1  # through the cache


# ---- bad images


def test_bad_images_are_named_counted_and_skipped_on_request(root):
    bad = {
        f"cat/bad{number}{kind}": content
        for kind in (".jpg", ".png", ".webp", ".bmp")
        for number, content in enumerate(damaged(kind).values())
    }
    write(root, {**bad, "cat/1.png": flat(1), "dog/1.png": flat(2), "owl/broken.png": b"x"})
    with pytest.raises(DataError, match=r"17 of 19 images do not decode: cat/bad0.bmp \(it is empty\), .* and 14 more; mend"):
        open_source("folder", root)
    source = open_source("folder", root, on_bad_image="skip")
    assert len(source) == 2
    assert source.classes == ("cat", "dog")
    assert source.notes[0].startswith("17 of 19 images do not decode and are skipped: cat/bad0.bmp (it is empty), ")
    assert source.notes[1] == "no image of owl decodes: left out of the classes"
    with pytest.raises(DataError, match="17 of 19"):  # as the cache has it
        open_source("folder", root)


def test_a_folder_of_bad_images_alone_cannot_be_skipped(root):
    write(root, {"1.png": b"x"})
    with pytest.raises(DataError, match="holds no image that decodes"):
        open_source("folder", root, on_bad_image="skip")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_bad_until_it_may(root):
    write(root, {"1.png": flat(1), "2.png": flat(2)})
    (root / "2.png").chmod(0)
    with pytest.raises(DataError, match=r"2.png \(it can't be read: Permission denied\)"):
        open_source("folder", root)
    (root / "2.png").chmod(0o644)
    assert len(open_source("folder", root)) == 2


def test_review_warns_of_small_sets_and_refuses_one_class_for_labels(root):
    write(root, {"cat/1.png": flat(1), "dog/.x": b""})
    source = open_source("folder", root)
    assert review(source, 1) == source.notes
    assert review(source, 2)[-1] == "there are 1 images, fewer than a batch of 2: every batch repeats some"
    with pytest.raises(DataError, match=r"class-conditional, but the source 'folder' has one class \('cat'\)"):
        review(source, 1, conditional=True)
    write(root, {"dog/1.png": flat(1)})
    assert review(open_source("folder", root), 1, conditional=True) == ()


# ---- the scan's memory


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, by their content."""
    contents = []
    inspect = pillow.inspect

    def counted(content):
        contents.append(content)
        return inspect(content)

    monkeypatch.setattr(pillow, "inspect", counted)
    return contents


def test_only_new_and_changed_files_are_scanned_again(root, decoded):
    write(root, {f"{number}.png": flat(number) for number in range(6)})
    first = open_source("folder", root)
    assert len(decoded) == 6
    assert (root / CACHE).exists()
    decoded.clear()
    assert open_source("folder", root).fingerprint == first.fingerprint
    assert not decoded
    write(root, {"2.png": flat(200), "7.png": flat(7)})
    (root / "0.png").unlink()
    changed = open_source("folder", root)
    assert sorted(decoded) == sorted([flat(200), flat(7)])
    assert len(changed) == 6
    assert changed.fingerprint != first.fingerprint


def test_a_cache_that_cannot_be_read_is_made_anew(root, decoded):
    write(root, {"1.png": flat(1)})
    fingerprint = open_source("folder", root).fingerprint
    whole = (root / CACHE).read_bytes()
    for content in (b"", b"no cache", whole[: len(whole) // 2]):
        decoded.clear()
        (root / CACHE).write_bytes(content)
        assert open_source("folder", root).fingerprint == fingerprint
        assert len(decoded) == 1


def test_an_interrupted_scan_goes_on_where_it_was(root, monkeypatch):
    write(root, {f"{number:04d}.png": flat(number % 256) for number in range(1100)})
    inspect, seen = pillow.inspect, []

    def interrupted(content):
        seen.append(content)
        if len(seen) == 1090:
            raise KeyboardInterrupt
        return inspect(content)

    monkeypatch.setattr(pillow, "inspect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source("folder", root, quiet=True)
    seen.clear()
    monkeypatch.setattr(pillow, "inspect", lambda content: seen.append(content) or inspect(content))
    assert len(open_source("folder", root, quiet=True)) == 1100
    assert 0 < len(seen) <= 76


def test_where_the_folder_cannot_be_written_the_cache_lies_at_home(root, tmp_path, decoded):
    write(root, {"1.png": flat(1)})
    (root / CACHE).mkdir()  # in the way, so that it fails for root too
    open_source("folder", root)
    assert [path.name for path in root.iterdir() if path.is_file()] == ["1.png"]
    assert len(list((tmp_path / "home/fastgan").iterdir())) == 1
    decoded.clear()
    open_source("folder", root)
    assert not decoded


def test_fingerprint_covers_names_and_content_and_nothing_else(root, tmp_path):
    write(root, {"cat/1.png": flat(1), "dog/1.png": flat(2)})
    prints = [open_source("folder", root).fingerprint]
    shutil.copytree(root, tmp_path / "copy", ignore=lambda *_: [CACHE])
    os.utime(tmp_path / "copy/cat/1.png", (1, 1))
    write(tmp_path / "copy", {"dog/bad.png": b"x", "dog/notes.txt": b"x"})
    assert open_source("folder", tmp_path / "copy", on_bad_image="skip").fingerprint == prints[0]
    (root / "dog/1.png").rename(root / "dog/2.png")
    prints.append(open_source("folder", root).fingerprint)
    (root / "dog/2.png").rename(root / "cat/2.png")
    prints.append(open_source("folder", root).fingerprint)
    write(root, {"cat/2.png": flat(3)})
    prints.append(open_source("folder", root).fingerprint)
    assert len(set(prints)) == 4


# ---- through the stream


def test_every_kind_shows_what_it_should(root):
    kinds = every_kind(48, 48)
    write(root, {name: content for name, (content, _, _) in kinds.items()})
    source = open_source("folder", root)
    names = sorted(kinds)
    with closing(Stream(source, resolution=48, channels=3, batch_size=len(source), seed=0)) as stream:
        batch = next(stream)
    levels = ((batch["images"] + 1) * 127.5).round().int().permute(0, 2, 3, 1).numpy()
    order = stream_order(source, len(source))
    for shown, index in zip(levels, order, strict=True):
        _, expected, tolerance = kinds[names[index]]
        assert np.abs(shown - expected).max() <= tolerance, names[index]


def stream_order(source, count, seed=0):
    """Which image each of the first ordinals shows, by the same draw as the stream's."""
    from fastgan.data.stream import _Feed

    settings = {"flip": False, "crop": "centre", "min_area": 1.0}
    return _Feed(source, seed, None, start=0, batch_size=count, shard=0, shards=1, **settings).choose(0)[1].tolist()


@pytest.mark.parametrize("crop", ["centre", "random", "stretch"])
def test_the_part_of_a_file_that_is_decoded_is_the_part_of_the_whole_image(root, crop):
    """Against the same part of what Pillow decodes: JPEG's blocks and PNG, turned and not."""
    kinds = every_kind(70, 90)
    write(root, {name: content for name, (content, _, _) in kinds.items()})
    source = open_source("folder", root)
    names = sorted(kinds)
    with closing(Stream(source, resolution=16, channels=3, batch_size=42, seed=5, crop=crop, min_area=0.1)) as stream:
        batch = next(stream)
    order = stream_order(source, 42, seed=5)
    parts = boxes(crop, source.sizes[order], 5, batch["indices"].numpy(), 0.1)
    for shown, index, (top, left, height, width) in zip(batch["images"], order, parts, strict=True):
        pixels = np.array(Image.open(pnm(kinds[names[index]][0])).convert("RGB"))[top : top + height, left : left + width]
        levels = ((shown + 1) * 127.5).permute(1, 2, 0).numpy()
        assert np.abs(levels - resized(pixels, 16, "cubic")).max() < 1.5  # a level: colours at the cut of a JPEG's blocks


def pnm(content):
    return io.BytesIO(pillow.to_pnm(content, grey=False))


@pytest.mark.parametrize("shards", [1, 2])
def test_each_good_image_once_an_epoch_with_one_percent_damaged(root, shards):
    """Every kind of file, 300 of one colour each beside them, 3 damaged: three epochs, with a resume in the middle of one."""
    levels = {f"{number:03d}": number * 256 // 300 for number in range(300)}
    write(root, {f"class{int(name) % 3}/{name}.png": flat(level, 8 + int(name) % 5, 9) for name, level in levels.items()})
    write(root, {f"class3/{name}": content for name, (content, _, _) in every_kind(24, 31).items()})
    write(root, {"class0/x.jpg": damaged(".jpg")["cut"], "class1/x.png": damaged(".png")["cut"], "class2/x.webp": b""})
    source = open_source("folder", root, on_bad_image="skip")
    good = 300 + len(every_kind())
    assert len(source) == good
    assert source.notes[0].startswith(f"3 of {good + 3} images")

    settings = {"resolution": 8, "channels": 3, "seed": 2**63 + 5, "flip": True, "noise": 1 / 128, "crop": "random"}
    size, steps = 10 // shards, -(-3 * good // 10)
    with closing(Stream(source, **settings, batch_size=10)) as stream:
        whole = joined(islice(stream, steps))
    batches, states = [], []
    for shard in range(shards):
        with closing(Stream(source, **settings, batch_size=size, shard=shard, shards=shards)) as stream:
            batches += islice(stream, steps // 2)
            states.append(stream.state_dict())
    again = open_source("folder", root, on_bad_image="skip")
    assert states[0]["images_seen"] % good not in (0, good - 1)
    for shard in range(shards):
        with closing(Stream(again, **settings, batch_size=size, shard=shard, shards=shards, threads=3)) as stream:
            stream.load_state_dict(states[shard])
            batches += islice(stream, steps - steps // 2)
    resumed = joined(batches)
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name

    order = torch.tensor(shown_images(source, settings["seed"], 3 * good))
    assert torch.equal(order.view(3, good).sort(dim=1).values, torch.arange(good).expand(3, good))
    assert torch.equal(whole["labels"][: 3 * good], torch.tensor(source.labels)[order])
    # Each one-coloured image shows its level, whatever the crop: so it is the right file that was read.
    plain = [(place, index) for place, index in enumerate(order.tolist()) if index < 300]
    expected = torch.tensor([levels[name_of(source, index)] for _, index in plain])
    found = ((whole["images"][[place for place, _ in plain]] + 1) * 127.5).floor()
    assert torch.equal(found.flatten(1).amin(dim=1).long(), expected)
    assert torch.equal(found.flatten(1).amax(dim=1).long(), expected)


def joined(batches):
    batches = list(batches)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in ("images", "labels", "indices")}
    order = whole["indices"].argsort()
    return {name: values[order] for name, values in whole.items()}


def shown_images(source, seed, count):
    return stream_order(source, count, seed)


def name_of(source, index):
    return os.path.splitext(os.path.basename(source.read.shown(index)))[0]


def test_files_that_pillow_alone_reads_are_no_crash_in_a_large_batch(root):
    """DALI 2.4 ends the process where one of a hundred headers can't be parsed: such files never reach it."""
    write(root, {f"{number:03d}.jpg": flat(number, 40, 50, "JPEG") for number in range(110)})
    write(root, {f"{number:03d}.jpg": with_junk(flat(number, 40, 50, "JPEG")) for number in (7, 64)})
    source = open_source("folder", root)
    with closing(Stream(source, resolution=8, channels=3, batch_size=110, seed=0)) as stream:
        levels = ((next(stream)["images"][:, 0, 4, 4] + 1) * 127.5).round().long()
    assert levels.tolist() == pytest.approx(stream_order(source, 110), abs=2)


def test_a_file_whose_tables_are_spoiled_after_the_scan_is_no_crash_in_a_large_batch(root):
    write(root, {f"{number:03d}.jpg": flat(number, 64, 64, "JPEG") for number in range(128)})
    source = open_source("folder", root)
    content = (root / "064.jpg").read_bytes()
    (root / "064.jpg").write_bytes(content[:170] + bytes(400) + content[570:])
    with (
        closing(Stream(source, resolution=8, channels=3, batch_size=128, seed=0)) as stream,
        pytest.raises(DataError, match=r"064.jpg has changed since it was scanned \("),
    ):
        next(stream)


def test_a_file_that_changed_after_the_scan_is_named(root):
    write(root, {f"{number}.png": flat(number) for number in range(8)})
    stream = Stream(open_source("folder", root), resolution=8, channels=3, batch_size=4, seed=0)
    next(stream)
    (root / "3.png").write_bytes(flat(3) + b"x")
    with pytest.raises(DataError, match=r"3.png has changed since it was scanned"):
        list(islice(stream, 20))
    (root / "3.png").unlink()
    with pytest.raises(DataError, match=r"3.png can't be read any more: No such file or directory"):
        list(islice(stream, 20))
    stream.close()


def test_a_file_that_dali_refuses_goes_through_pillow(root):
    pixels = {f"{number}.jpg": smooth(24, 24, 3, number) for number in range(12)}
    write(root, {name: encoded(image, "JPEG") for name, image in pixels.items()})
    settings = {"resolution": 8, "channels": 3, "batch_size": 5, "seed": 0}
    with closing(Stream(open_source("folder", root), **settings)) as stream:
        expected = joined(islice(stream, 6))
    for name in ("7.jpg", "3.jpg"):
        write(root, {name: with_junk(encoded(pixels[name], "JPEG"))})
    source = open_source("folder", root)
    assert source.read._plain.all()
    with closing(Stream(source, **settings)) as stream:
        shown = joined(islice(stream, 6))
    assert [os.path.basename(source.read.shown(index)) for index in np.flatnonzero(~source.read._plain)] == ["3.jpg", "7.jpg"]
    for name in expected:
        assert torch.equal(shown[name], expected[name])


def threads():
    return sum(thread.name.startswith("fastgan-read") for thread in threading.enumerate())


def test_close_ends_the_threads_that_read_ahead(root):
    write(root, {f"{number}.png": flat(number) for number in range(8)})
    stream = Stream(open_source("folder", root), resolution=8, channels=3, batch_size=4, seed=0)
    assert threads() == 0
    next(stream)
    assert threads() > 0
    stream.close()
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == 0


def test_the_interpreter_exits_cleanly_with_a_stream_left_open(root):
    write(root, {f"{number}.png": flat(number) for number in range(8)})
    script = (
        "import sys; from fastgan.data import Stream, open_source\n"
        "stream = Stream(open_source('folder', sys.argv[1]), resolution=8, channels=3, batch_size=4, seed=0)\n"
        "print(next(stream)['indices'].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2, 3]\n", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("crop", ["centre", "random", "stretch"])
def test_the_gpu_shows_what_the_cpu_shows(root, crop):
    write(root, {name: content for name, (content, _, _) in every_kind().items()})
    source = open_source("folder", root)
    settings = {"resolution": 24, "channels": 3, "batch_size": 7, "seed": 5, "flip": True, "crop": crop}
    with closing(Stream(source, **settings)) as stream:
        on_cpu = joined(islice(stream, 6))
    with closing(Stream(source, **settings, device="cuda")) as stream:
        on_gpu = joined(islice(stream, 6))
    assert torch.equal(on_gpu["labels"].cpu(), on_cpu["labels"])
    # Another inverse cosine transform and another upsampling of colours: some levels, fewer on average.
    difference = (on_gpu["images"].cpu() - on_cpu["images"]).abs() * 127.5
    assert difference.max() < 24
    assert difference.mean() < 2
