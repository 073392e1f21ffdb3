"""Verifying a packed set: whatever has changed is found and named."""

import json
import os
import shutil

import pytest
from pictures import photos, write

from fastgan.data import DataError
from fastgan.data import pack as packing
from fastgan.data.pack import pack
from fastgan.data.verify import verify


def packed(root, dest, **options):
    return pack(root, dest, workers=1, quiet=True, **options).manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    write(folder / "set", photos(20))
    packed(folder / "set", folder / "packed", resolution=16, shard_size=8)
    return folder / "packed"


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: flip(d / "shard-000001.tar", 3000), r"shard-000001.tar has changed since it was packed \(SHA-256\)"),
        (lambda d: flip(d / "shard-000001.tar", -1), "shard-000001.tar has changed"),
        (lambda d: flip(d / "shard-000002.idx", 30), "shard-000002.idx has changed"),
        (lambda d: flip(d / "index.npz", 1000), "index.npz has changed"),
        (lambda d: (d / "shard-000000.tar").unlink(), "shard-000000.tar is missing"),
        (lambda d: (d / "shard-000000.idx").unlink(), "shard-000000.idx is missing"),
        (lambda d: (d / "index.npz").unlink(), "index.npz is missing"),
        (lambda d: os.truncate(d / "shard-000002.tar", 1000), "shard-000002.tar is damaged: it has 1000 bytes in the place of"),
        (lambda d: shutil.copy(d / "shard-000000.tar", d / "shard-000009.tar"), "shard-000009.tar: not in manifest.json"),
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json is damaged: it is no JSON"),
        (lambda d: (d / "manifest.json").write_text("[]"), "is no manifest of the format"),
        (lambda d: (d / "manifest.json").write_text('{"format": "fastgan shards 2"}'), "is damaged: it lacks 'settings'"),
        (lambda d: (d / "manifest.json").unlink(), "holds no packed set"),
        (lambda d: change(d, lambda said: said["shards"][1].pop("bytes")), r"damaged: shards\[1\] lacks 'bytes'"),
        (lambda d: change(d, lambda said: said["shards"][1].update(bytes="7")), r"shards\[1\].bytes is not what it should be"),
        (lambda d: change(d, lambda said: said["shards"][1].update(name="../x.tar")), r"shards\[1\].name is not what"),
        (lambda d: change(d, lambda said: said.update(shards=5)), "damaged: shards is no list"),
        (lambda d: change(d, lambda said: said.update(settings=None)), "damaged: settings is no group of names"),
        (lambda d: change(d, lambda said: said.update(format="fastgan shards 1")), "another version of fastgan"),
        (lambda d: change(d, lambda said: said["shards"].pop()), "it has a shard that the other lacks"),
        (lambda d: change(d, lambda said: said["shards"][1].update(images=7)), "shard-000001.tar has 8 images in index.npz"),
        (lambda d: change(d, lambda said: said["classes"][0].update(images=3)), "count the images of the classes differently"),
        (lambda d: change(d, lambda said: said.update(images=21)), "does not belong to manifest.json: they say 20 and 21"),
    ],
)  # fmt: skip
def test_whatever_has_changed_is_found_and_named(whole, tmp_path, spoil, sentence):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    assert verify(copy, workers=1, quiet=True).images == 20
    spoil(copy)
    with pytest.raises(DataError, match=sentence) as error:
        verify(copy, workers=1, quiet=True)
    assert "\n" not in str(error.value)


def change(dest, update):
    said = json.loads((dest / "manifest.json").read_text())
    update(said)
    (dest / "manifest.json").write_text(json.dumps(said))


def test_decoding_finds_what_checksums_can_t(tmp_path, monkeypatch):
    """An image that was stored damaged, as by a faulty memory."""
    root, dest = tmp_path / "set", tmp_path / "packed"
    write(root, photos(6))
    add = packing._Writer.add

    def spoiled(self, row, label, item):
        if row == 3:
            item = packing.Item(item.content[:-200], item.extension, item.height, item.width, item.grey)
        if row == 4:
            item = packing.Item(item.content, item.extension, 15, 16, item.grey)
        add(self, row, label, item)

    monkeypatch.setattr(packing._Writer, "add", spoiled)
    packed(root, dest, resolution=16)
    verify(dest, workers=1, quiet=True)
    with pytest.raises(DataError, match=r"shard-000000.tar: 000000003 does not decode \(.*000000004 is 16x16, not 15x16"):
        verify(dest, decode=True, workers=1, quiet=True)


@pytest.mark.parametrize("workers", [0, -3])
def test_workers_are_at_least_one(whole, workers):
    with pytest.raises(DataError, match="workers must be at least 1, but is"):
        verify(whole, workers=workers, quiet=True)
