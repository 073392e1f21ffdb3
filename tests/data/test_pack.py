"""Packing: what is in the shards, what is left out and said so, going on after a kill, and what verifying finds."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import damaged, encoded, every_kind, photos, smooth, with_junk, write
from PIL import Image

from fastgan.data import DataError, open_source, picture
from fastgan.data import pack as packing
from fastgan.data.pack import pack, prepare
from fastgan.data.shards import UNFINISHED
from fastgan.data.verify import verify


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "packed"


def packed(root, dest, **options):
    return pack(root, dest, workers=1, quiet=True, **options).manifest


def members(dest):
    """Name -> content, of all shards, as any tar program sees them."""
    found = {}
    for path in sorted(dest.glob("shard-*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert member.name not in found
                found[member.name] = archive.extractfile(member).read()
    return found


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what is in the shards


def test_every_kind_of_file_is_stored_as_it_looks(root, dest):
    """Lossless, at a resolution that is the square's own side: the pixels are those of a square in the middle."""
    kinds = every_kind(height=61, width=83)
    write(root, {name: content for name, (content, _, _) in kinds.items()})
    manifest = packed(root, dest, resolution=61, lossless=True, shard_size=10)
    assert (manifest.images, manifest.damaged, len(manifest.shards)) == (len(kinds), 0, 3)
    stored = members(dest)
    for number, name in enumerate(sorted(kinds)):
        _, pixels, tolerance = kinds[name]
        height, width = pixels.shape[:2]
        top, left = (height - 61) // 2, (width - 61) // 2
        image = np.asarray(Image.open(io.BytesIO(stored[f"{number:09d}.png"])).convert("RGB"), dtype=int)
        assert np.abs(image - pixels[top : top + 61, left : left + 61]).max() <= tolerance, name
        assert stored[f"{number:09d}.cls"] == b"0"


def test_whole_images_are_kept_byte_for_byte_where_decoders_show_them_as_they_look(root, dest):
    kinds = every_kind()
    write(root, {name: content for name, (content, _, _) in kinds.items()})
    assert packed(root, dest).settings == {"resolution": None, "encoding": "as found", "shard_size": 10_000}
    stored = {name.split(".")[0]: (name, content) for name, content in members(dest).items() if not name.endswith(".cls")}
    source = open_source("shards", dest)
    for index in range(len(source)):
        name = source.read.shown(index).rpartition("(from ")[2][:-1]
        content, pixels, tolerance = kinds[name]
        stored_name, found = stored[f"{sorted(kinds).index(name):09d}"]
        assert source.sizes[index].tolist() == list(pixels.shape[:2])
        if picture.inspect(content).plain:
            assert found == content
            assert stored_name.endswith({"JPEG": "jpg", "JPG": "jpg", "BMP": "bmp"}.get(name.split(".")[1].upper(), name[-4:]))
        else:
            image = np.asarray(picture.to_image(found).convert("RGB"), dtype=int)
            assert stored_name.endswith(".png")
            assert np.abs(image - pixels).max() <= tolerance, name


def test_a_whole_image_with_a_damaged_header_is_stored_as_its_pixels(root, dest):
    jpeg = with_junk(encoded(smooth(20, 30, 3), "JPEG"))
    write(root, {"1.jpg": jpeg})
    packed(root, dest)
    stored = Image.open(io.BytesIO(members(dest)["000000000.png"]))
    assert np.array_equal(np.asarray(stored), np.asarray(picture.to_image(jpeg)))


def test_images_are_resized_as_pillow_does_by_lanczos(root, dest):
    image = smooth(57, 43, 3)
    write(root, {"1.png": encoded(image, "PNG")})
    packed(root, dest, resolution=16, lossless=True)
    square = Image.fromarray(image[7:50]).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(members(dest)["000000000.png"]))), np.asarray(square))


@pytest.mark.parametrize("quality", [None, 30])
def test_jpegs_have_the_quality_asked_for_and_all_of_their_colours(root, dest, quality):
    write(root, {"1.png": encoded(smooth(64, 64, 3), "PNG")})
    manifest = packed(root, dest, resolution=64, quality=quality)
    assert manifest.settings["encoding"] == f"jpeg {quality or 95}"
    image = Image.open(io.BytesIO(members(dest)["000000000.jpg"]))
    reference = Image.open(io.BytesIO(encoded(smooth(64, 64, 3), "JPEG", quality=quality or 95)))
    assert image.quantization == reference.quantization
    assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # no subsampling


def test_grey_sets_stay_grey_and_small_images_grow(root, dest):
    write(root, {"a.png": encoded(smooth(9, 9, 1), "PNG"), "b.jpg": encoded(smooth(9, 30, 1), "JPEG")})
    packed(root, dest, resolution=24)
    source = open_source("shards", dest)
    assert (source.channels, source.sizes.tolist()) == (1, [[24, 24]] * 2)
    assert {Image.open(io.BytesIO(c)).mode for n, c in members(dest).items() if n.endswith("jpg")} == {"L"}


def test_names_that_occur_twice_of_any_script_in_archives_and_folders(root, dest):
    """A damaged archive and damaged members are in the report, the rest is in the shards with its class."""
    image = encoded(smooth(20, 30, 3), "JPEG")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", image)
        archive.writestr("2.JPG", image[:400])
    write(root, {"猫/1.jpg": image, "ärger/1.jpg": image, "ärger/x y\n.PNG": encoded(smooth(9, 9, 3), "PNG"),
                 "dog.zip": buffer.getvalue(), "eel.tar": b"no tar", "猫/2.gif": b"x"})  # fmt: skip
    (root / os.fsdecode(b"\xff")).mkdir()
    write(root, {os.fsdecode(b"\xff/1.jpg"): image})
    with pytest.raises(DataError, match=r"1 archive can't be read to the end.*: eel.tar \("):
        packed(root, dest, resolution=16)
    assert not dest.exists()
    manifest = packed(root, dest, resolution=16, damaged="skip-archives")
    names = ["dog", "ärger", "猫", os.fsdecode(b"\xff")]
    assert [(one["name"], one["images"]) for one in manifest.classes] == list(zip(names, [1, 2, 1, 1], strict=True))
    report = json.loads((dest / "report.json").read_text())
    assert [one["path"] for one in report["damaged"]] == ["dog.zip/2.JPG", "eel.tar"]
    assert all(one["reason"] for one in report["damaged"])
    assert (
        manifest.notes
        == report["notes"]
        == [
            "eel.tar holds no images",
            "1 file is of a kind that is not read, and left out: 猫/2.gif",
            "only what could be read is packed of archives that are broken: eel.tar",
        ]
    )
    labels = [int(content) for name, content in members(dest).items() if name.endswith(".cls")]
    assert sorted(labels) == [0, 1, 1, 2, 3]
    source = open_source("shards", dest)
    assert source.classes == tuple(names)
    verify(dest, decode=True, workers=1, quiet=True)


def test_what_does_not_decode_is_left_out_or_refused(root, dest):
    write(root, photos())
    bad = {
        f"cat/{kind.replace(' ', '-')}{ending}": content
        for ending in (".jpg", ".png")
        for kind, content in damaged(ending).items()
    }
    write(root, bad)
    with pytest.raises(DataError, match=r"8 damaged images: cat/cut.jpg \(.*and 5 more; .*--damaged skip") as error:
        pack(root, dest, resolution=16, workers=1, damaged="refuse", quiet=True)
    assert "\n" not in str(error.value)
    assert [one["path"] for one in json.loads((dest / "report.json").read_text())["damaged"]] == sorted(bad)
    with pytest.raises(DataError, match="not packed to the end"):
        open_source("shards", dest)
    before = (dest / "shard-000000.tar").stat()
    assert packed(root, dest, resolution=16).images == 12  # and nothing is decoded again
    assert (dest / "shard-000000.tar").stat() == before
    with pytest.raises(DataError, match="8 damaged images"):
        pack(root, dest, resolution=16, workers=1, damaged="refuse", quiet=True)


def test_a_link_that_leads_nowhere_is_damaged(root, dest):
    write(root, photos(4))
    (root / "cat" / "lost.jpg").symlink_to(root / "nowhere")
    (root / "cat" / "ring.jpg").symlink_to(root / "cat" / "ring.jpg")
    assert packed(root, dest, resolution=16).images == 4
    report = json.loads((dest / "report.json").read_text())
    assert [one["path"] for one in report["damaged"]] == ["cat/lost.jpg", "cat/ring.jpg"]
    assert report["damaged"][0]["reason"] == "it can't be read: No such file or directory"


def test_a_class_of_which_no_image_decodes_is_none(root, dest):
    write(root, photos() | {"bat/1.jpg": b"x", "eel/1.jpg": b""})
    manifest = packed(root, dest, resolution=16)
    assert [one["images"] for one in manifest.classes] == [0, 8, 4, 0]
    source = open_source("shards", dest)
    assert source.classes == ("cat", "dog")
    assert np.bincount(source.labels).tolist() == [8, 4]
    assert source.notes == ("no image of bat, eel decodes: left out of the classes",)


def test_a_set_of_which_nothing_decodes_is_refused(root, dest):
    write(root, {"1.jpg": b"x"})
    with pytest.raises(DataError, match=r"the one image in .* does not decode: .*report.json says why"):
        packed(root, dest)


def test_shards_do_not_depend_on_workers_and_mix_the_classes(root, dest, tmp_path):
    write(root, {f"{'ab'[n // 40]}/{n}.png": encoded(np.full((8, 8, 3), n, np.uint8), "PNG") for n in range(80)})
    pack(root, dest, resolution=8, shard_size=20, workers=2, quiet=True)
    packed(root, tmp_path / "other", resolution=8, shard_size=20)
    assert contents(dest) == contents(tmp_path / "other")
    source = open_source("shards", dest)
    counts = [int(source.labels[source.shards == shard].sum()) for shard in range(4)]
    assert all(3 <= count <= 17 for count in counts), counts  # 10 of 20 in the mean, standard deviation 2


def test_dali_s_own_reader_takes_shards_and_indexes(root, dest):
    from nvidia.dali import fn, pipeline_def

    write(root, photos())
    packed(root, dest, resolution=16, shard_size=5)
    paths = [str(path) for path in sorted(dest.glob("*.tar"))]

    @pipeline_def(batch_size=12, num_threads=1, device_id=None)
    def reader():
        indexes = [path.replace(".tar", ".idx") for path in paths]
        images, labels = fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["jpg", "cls"])
        return fn.decoders.image(images), labels

    pipeline = reader()
    pipeline.build()
    images, labels = pipeline.run()
    source = open_source("shards", dest)
    assert [int(bytes(labels.at(n)).decode()) for n in range(12)] == source.labels.tolist()
    for n in range(12):
        assert np.array_equal(images.at(n), np.asarray(picture.to_image(source.read(n).tobytes())))


# ---- again, after a kill, and into the wrong place


def test_a_second_call_does_nothing_and_other_settings_are_refused(root, dest):
    write(root, photos())
    first = pack(root, dest, resolution=16, workers=1, quiet=True)
    before = {path: path.stat() for path in dest.iterdir()}
    second = pack(root, dest, resolution=16, workers=2, quiet=True)
    assert (first.already, second.already) == (False, True)
    assert second.manifest == first.manifest
    assert {path: path.stat() for path in dest.iterdir()} == before
    for options, sentence in (
        ({"resolution": 24}, "was packed with --resolution 16, not --resolution 24: give the same"),
        ({}, "with --resolution 16, not whole images: give the same"),
        ({"resolution": 16, "quality": 90}, "jpeg 95, not jpeg 90"),
        ({"resolution": 16, "lossless": True}, "jpeg 95, not png"),
        ({"resolution": 16, "shard_size": 6}, "with --shard-size 10000, not --shard-size 6"),
    ):
        with pytest.raises(DataError, match=sentence):
            packed(root, dest, **options)
    write(root, {"cat/new.jpg": encoded(smooth(9, 9, 3), "JPEG")})
    with pytest.raises(DataError, match="was packed from other images"):
        packed(root, dest, resolution=16)
    (root / "cat/new.jpg").unlink()
    os.truncate(dest / "shard-000000.tar", 600)
    with pytest.raises(DataError, match=r"shard-000000.tar is damaged: it has 600 bytes"):
        packed(root, dest, resolution=16)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resolution": 0}, "resolution must be from 1 to 8192"),
        ({"quality": 90}, "set a resolution too"),
        ({"lossless": True}, "set a resolution too"),
        ({"resolution": 8, "quality": 101}, "quality must be from 1 to 100"),
        ({"resolution": 8, "quality": 90, "lossless": True}, "quality is JPEG's"),
        ({"shard_size": 0}, "at least 1"),
        ({"damaged": "mend"}, "skip, skip-archives, refuse"),
    ],
)
def test_settings_out_of_range(root, dest, options, sentence):
    write(root, photos(1))
    with pytest.raises(DataError, match=sentence):
        packed(root, dest, **options)
    assert not dest.exists()


def test_a_folder_that_holds_something_else_is_left_alone(root, dest):
    write(root, photos(2))
    write(dest, {"thesis.tex": b"x"})
    for place, sentence in ((dest, "holds other files"), (root / "packed", "lies in the folder that is to be packed"),
                            (root, "lies in the folder"), (dest / "thesis.tex", "is not a folder")):  # fmt: skip
        with pytest.raises(DataError, match=sentence):
            packed(root, place)
    assert contents(dest) == {"thesis.tex": b"x"}


@pytest.mark.parametrize(
    ("missing", "whole"),
    [
        (["shard-000001.tar", "shard-000002.idx"], False),
        (["report.json"], False),
        (["index.npz"], True),
        (["index.npz", "shard-000000.tar"], False),
    ],
)
def test_files_that_are_missing_are_written_again(root, dest, missing, whole):
    """Nothing else is, and all are as they were."""
    write(root, photos(14) | {"cat/bad.jpg": b"x", "dog/grey.png": encoded(smooth(20, 30, 1), "PNG")})
    options = {"shard_size": 6} | ({} if whole else {"resolution": 16})
    first = packed(root, dest, **options)
    before, kept = contents(dest), (dest / "shard-000002.tar").stat()
    for name in missing:
        (dest / name).unlink()
    again = pack(root, dest, workers=1, quiet=True, **options)
    assert (again.already, again.manifest) == (False, first)
    after = contents(dest)
    if "report.json" in missing:  # why an image was left out is not kept anywhere else
        before.pop("report.json"), after.pop("report.json")
    assert after == before
    assert (dest / "shard-000002.tar").stat() == kept
    assert pack(root, dest, workers=1, quiet=True, **options).already


def test_a_disk_that_is_full_while_a_shard_is_closed_leaves_nothing_of_it(root, dest):
    """Closing fails once more."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    dest.mkdir()
    writer = packing._Writer(dest, 0)
    writer._file._file.close()
    writer._file._file = open("/dev/full", "wb")  # noqa: SIM115
    writer._file.write(b"x")
    with pytest.raises(OSError, match="No space left"):
        writer.finish()
    writer.abandon()
    assert list(dest.iterdir()) == []


def test_an_error_while_packing_leaves_what_was_finished(root, dest, monkeypatch):
    """The disk is full at the third shard."""
    write(root, photos(30))
    finish = packing._Writer.finish

    def fails(self):
        if self.number == 2:
            raise OSError(28, "No space left on device")
        finish(self)

    monkeypatch.setattr(packing._Writer, "finish", fails)
    with pytest.raises(DataError, match=r"packed can't be written: No space left on device; the same line goes on"):
        packed(root, dest, resolution=16, shard_size=6)
    assert sorted(path.name for path in dest.glob("shard-*")) == [
        "shard-000000.idx", "shard-000000.tar", "shard-000001.idx", "shard-000001.tar"
    ]  # fmt: skip
    monkeypatch.undo()
    (dest / "shard-000000.tar").unlink()  # is written again
    before = (dest / "shard-000001.tar").stat()
    assert packed(root, dest, resolution=16, shard_size=6).images == 30
    assert (dest / "shard-000001.tar").stat() == before
    verify(dest, workers=1, quiet=True)
    assert not list(dest.glob("*.partial"))
    assert not (dest / UNFINISHED).exists()


def test_an_unfinished_set_goes_on_with_the_same_settings_alone(root, dest, monkeypatch):
    write(root, photos(12))
    monkeypatch.setattr(packing, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        packed(root, dest, resolution=16)
    monkeypatch.undo()
    with pytest.raises(DataError, match="packed with --resolution 16, not --resolution 8"):
        packed(root, dest, resolution=8)
    with pytest.raises(DataError, match="not packed to the end"):
        verify(dest)
    with packing._alone(dest / UNFINISHED), pytest.raises(DataError, match="another process is packing into"):
        packed(root, dest, resolution=16)
    assert packed(root, dest, resolution=16).images == 12


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def kill_in_the_middle(command, dest, shards):
    """SIGKILL once so many shards are whole and another one is being written; it takes its processes along."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(list((dest / UNFINISHED).glob("0*.json"))) < shards or not list(dest.glob("*.partial")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.001)
    helpers = children(process)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    until = time.monotonic() + 20
    while alive := [
        pid for pid in helpers if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()
    ]:
        assert time.monotonic() < until, alive
        time.sleep(0.01)
    assert helpers


def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(root, dest, tmp_path):
    write(root, photos(300) | {"cat/bad.jpg": b"x"})
    command = [sys.executable, "-m", "fastgan", "data", "pack", str(root), str(dest)]
    command += ["--resolution", "32", "--shard-size", "40", "--workers", "1"]
    kill_in_the_middle(command, dest, 2)
    done = {path: path.stat() for path in dest.glob("*.tar")}
    assert 2 <= len(done) < 8
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert f"packing {301 - 40 * len(done)} images" in result.stdout
    assert "1 damaged one is left out" in result.stdout
    assert {path: path.stat() for path in done} == done
    packed(root, tmp_path / "whole", resolution=32, shard_size=40)
    assert contents(dest) == contents(tmp_path / "whole")


def test_preparing_needs_no_torch():
    """Processes that decode start in a fraction of the time."""
    code = "import sys, fastgan.data.pack; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_prepare_cuts_the_square_before_it_resizes():
    """What lies beyond the square leaves no trace on its edges."""
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, :20] = image[:, 40:] = 255
    item = prepare(encoded(image, "PNG"), 10, "png")
    assert np.asarray(Image.open(io.BytesIO(item.content))).max() == 0
    assert (item.height, item.width, item.extension, item.grey) == (10, 10, "png", False)
