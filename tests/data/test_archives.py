"""Images in folders and archives: which are found, what class they are, what is left out, and how each is read in its place."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile

import pytest
from pictures import write

from fastgan.data import DataError
from fastgan.data.archives import Place, classes, listing, stamp

PACKERS = {".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.bz2": bz2.compress, ".TAR.XZ": lzma.compress}


def tar(members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def found(root, tmp_path):
    """Name -> (class, bytes) of each image."""
    result = listing(root, tmp_path / "spool")
    names, labels = classes(result.places)
    return {place.name: (names[label], place.read()) for place, label in zip(result.places, labels, strict=True)}, result


@pytest.fixture
def root(tmp_path):
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.mark.parametrize("ending", PACKERS)
def test_archives_of_every_kind_count_as_folders(root, tmp_path, ending):
    inner = PACKERS[ending](tar({"1.JPEG": b"one", "./2.png": b"two", "read.me": b"x"}))
    write(root, {f"cat{ending}": inner, "dog/3.Jpg": b"three", "dog/note.txt": b"x"})
    images, result = found(root, tmp_path)
    assert images == {
        f"cat{ending}/1.JPEG": ("cat", b"one"),
        f"cat{ending}/2.png": ("cat", b"two"),
        "dog/3.Jpg": ("dog", b"three"),
    }
    assert (result.broken, result.notes) == ([], [])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_files_and_what_lies_in_them(root, tmp_path, method):
    """Archives in archives, compressed there or not."""
    deep = zipped({"a.jpg": b"a" * 1000, "b.jpg": b""}, method)
    content = {"cat.tar": tar({"1.jpg": b"1" * 600, "2.jpg": b"2"}), "dog.zip": deep, "eel/ü é.jpg": b"eel", "x/": b""}
    (root / "photos.zip").write_bytes(zipped(content, method))
    for top in (root, root / "photos.zip"):
        images, result = found(top, tmp_path)
        assert {name.removeprefix("photos.zip/"): said for name, said in images.items()} == {
            "cat.tar/1.jpg": ("cat", b"1" * 600),
            "cat.tar/2.jpg": ("cat", b"2"),
            "dog.zip/a.jpg": ("dog", b"a" * 1000),
            "dog.zip/b.jpg": ("dog", b""),
            "eel/ü é.jpg": ("eel", b"eel"),
        }
        assert not result.broken


def test_an_archive_like_imagenets(root, tmp_path):
    path = root / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar({f"{name}.tar": tar({f"{name}_1.JPEG": name.encode()}) for name in ("n02", "n01")}))
    expected = {
        "ILSVRC2012_img_train.tar/n01.tar/n01_1.JPEG": ("n01", b"n01"),
        "ILSVRC2012_img_train.tar/n02.tar/n02_1.JPEG": ("n02", b"n02"),
    }
    assert found(path, tmp_path)[0] == found(root, tmp_path)[0] == expected
    assert not (tmp_path / "spool").exists()  # nothing had to be unpacked


def test_an_archive_that_repeats_its_own_name(root, tmp_path):
    write(root, {"cat.tar": tar({"cat/1.jpg": b"1"}), "dog.tar.gz": gzip.compress(tar({"dog/1.jpg": b"2"})), "eel/1.jpg": b"3"})
    assert [name for name, _ in found(root, tmp_path)[0].values()] == ["cat", "dog", "eel"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1.jpg", "2.jpg"], ("all", "all")),
        (["cat/1.jpg", "cat/2.jpg"], ("cat", "cat")),
        (["a/b/dog/1.jpg", "a/b/cat/1.jpg"], ("cat", "dog")),
        (["Zoë/1.jpg", "ant/1.jpg", "ärger/1.jpg"], ("Zoë", "ant", "ärger")),
    ],
)
def test_classes_are_the_folders_below_the_common_one(root, tmp_path, names, expected):
    write(root, dict.fromkeys(names, b"x"))
    assert tuple(name for name, _ in found(root, tmp_path)[0].values()) == expected


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["train/cat/1.jpg", "test/cat/1.jpg"],
            "two folders down, in test/cat, train/cat, .* pack one of the folders test, train",
        ),
        (["cat/1.jpg", "cat/more/1.jpg"], "beside the class folders cat/more"),
        (["1.jpg", "cat/1.jpg"], "beside the class folders cat"),
    ],
)
def test_folders_that_are_no_data_set(root, tmp_path, names, sentence):
    write(root, dict.fromkeys(names, b"x"))
    with pytest.raises(DataError, match=sentence):
        found(root, tmp_path)


def test_nothing_to_pack(root, tmp_path):
    for path, sentence in ((root / "none", "does not exist"), (root, "holds no images")):
        with pytest.raises(DataError, match=sentence):
            listing(path, tmp_path / "spool")
    write(root, {"notes.txt": b"x", "x.tar": b"no tar"})
    with pytest.raises(DataError, match=r"neither a folder nor an archive \(.tar"):
        listing(root / "notes.txt", tmp_path / "spool")
    with pytest.raises(DataError, match=r"holds no images .*x.tar holds no images; can't be read: x.tar \("):
        listing(root, tmp_path / "spool")


def test_hidden_files_links_and_empty_folders_are_left_out(root, tmp_path):
    write(root, {"cat/1.jpg": b"1", "cat/._1.jpg": b"x", ".git/2.jpg": b"x", "__MACOSX/3.jpg": b"x", "dog/1.jpg": b"2"})
    (root / "empty").mkdir()
    (root / "linked").symlink_to(root / "dog")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, target in (("a.jpg", tarfile.REGTYPE, ""), ("b.jpg", tarfile.SYMTYPE, "/etc/passwd"),
                                   ("c.jpg", tarfile.LNKTYPE, "a.jpg"), ("d.jpg", tarfile.FIFOTYPE, "")):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    (root / "eel.tar").write_bytes(buffer.getvalue())
    images, result = found(root, tmp_path)
    assert list(images) == ["cat/1.jpg", "dog/1.jpg", "eel.tar/a.jpg", "linked/1.jpg"]
    assert sorted(result.notes) == ["2 links in eel.tar are left out", "folders without images are left out: empty"]


def test_links_that_go_round_in_circles_end(root, tmp_path):
    write(root, {"cat/1.jpg": b"1"})
    (root / "cat" / "again").symlink_to(root)
    with pytest.raises(DataError, match="circle of links"):
        listing(root, tmp_path / "spool")


def test_no_member_leaves_its_place(root, tmp_path):
    """Names that would climb out of a folder are names like others, and nothing is written by them."""
    names = ["../../evil.jpg", "/etc/evil.jpg", "cat/../../1.jpg", "..\\..\\2.jpg"]
    write(root, {"a.tar.gz": gzip.compress(tar(dict.fromkeys(names, b"x"))), "b.zip": zipped(dict.fromkeys(names, b"x"))})
    before = sorted(tmp_path.rglob("*"))
    result = listing(root, tmp_path / "spool")
    assert [place.name for place in result.places] == [
        "a.tar.gz/cat/1.jpg", "a.tar.gz/etc/evil.jpg", "a.tar.gz/evil.jpg",
        "b.zip/2.jpg", "b.zip/cat/1.jpg", "b.zip/etc/evil.jpg", "b.zip/evil.jpg",
    ]  # fmt: skip
    assert all(place.read() == b"x" for place in result.places)
    new = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - set(before)}
    assert new == {"spool", "spool/unpacked-0"}


def test_of_two_members_of_one_name_the_later_counts(root, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for content in (b"old", b"new one"):
            entry = tarfile.TarInfo("1.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (root / "cat.tar").write_bytes(buffer.getvalue())
    assert found(root, tmp_path)[0] == {"cat.tar/1.jpg": ("cat", b"new one")}


def test_damaged_archives_are_named_and_what_can_be_read_is(root, tmp_path):
    whole = tar({f"{number}.jpg": bytes([number]) * 700 for number in range(40)})
    header = bytearray(whole)
    header[10 * 1536 + 3] ^= 1  # of member 10
    no_end = whole[: 40 * 1536]
    write(
        root,
        {
            "cut.tar": whole[: 20 * 1536 + 600],
            "end.tar": no_end,
            "header.tar": bytes(header),
            "half.tar.gz": gzip.compress(whole, 0)[: 30 * 1536],
            "none.tar": b"",
            "text.zip": b"PK no zip",
            "good.tar": whole,
        },
    )
    result = listing(root, tmp_path / "spool")
    count = {name: sum(place.name.startswith(f"{name}/") for place in result.places) for name in os.listdir(root)}
    assert count["good.tar"] == count["end.tar"] == 40
    assert count["header.tar"] == 10
    assert count["cut.tar"] == 21
    with pytest.raises(DataError, match="the archive ends before it"):
        next(place for place in result.places if place.name == "cut.tar/20.jpg").read()
    assert 25 <= count["half.tar.gz"] <= 30
    assert count["none.tar"] == count["text.zip"] == 0
    broken = dict(result.broken)
    assert set(broken) == set(count) - {"good.tar"}
    assert "header at byte 15360 is damaged" in broken["header.tar"]
    assert "no end mark" in broken["end.tar"]
    assert all("\n" not in reason for reason in broken.values())


def test_members_that_are_not_what_their_archive_says(root, tmp_path):
    content = bytearray(zipped({"1.jpg": b"abc" * 100, "2.jpg": b"abc" * 100}, zipfile.ZIP_STORED))
    content[content.index(b"abcabc") + 50] ^= 1
    deflated = bytearray(zipped({"3.jpg": os.urandom(300) + bytes(3000)}))
    deflated[60] ^= 0xFF
    locked = bytearray(zipped({"4.jpg": b"x" * 50, "5.jpg": b"x" * 50}, zipfile.ZIP_BZIP2))
    entry = locked.index(b"PK\x01\x02")
    locked[entry + 8] |= 1  # the flag for encryption, in the directory
    for name, bad in (("a", content), ("b", deflated), ("c", locked)):
        (root / f"{name}.zip").write_bytes(bad)
    result = listing(root, tmp_path / "spool")
    reasons = {}
    for place in result.places:
        try:
            place.read()
        except DataError as error:
            reasons[place.name] = str(error)
    assert reasons.keys() == {"a.zip/1.jpg", "b.zip/3.jpg"}
    assert reasons["a.zip/1.jpg"] == "its checksum is not the one in its archive"
    assert not result.broken
    assert dict(result.unreadable) == {"c.zip/4.jpg": "it is encrypted", "c.zip/5.jpg": "method 12 of ZIP is not read"}


def test_a_bomb_inflates_no_further_than_its_size_says(root):
    content = bytearray(zipped({"1.jpg": bytes(10_000_000)}))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 1000)
    (root / "a.zip").write_bytes(content)
    (place,) = listing(root, root / "spool").places
    with pytest.raises(DataError, match="not as long as its archive says"):
        place.read()


def test_a_member_beyond_the_end(root):
    (root / "a.tar").write_bytes(bytes(100))
    with pytest.raises(DataError, match="the archive ends before it"):
        Place("a.tar/1.jpg", (), str(root / "a.tar"), 90, 20).read()


def test_the_stamp_changes_with_names_sizes_and_times(root):
    write(root, {"cat/1.jpg": b"1", "dog.tar": tar({"1.jpg": b"1"})})
    first = stamp(root)
    assert stamp(root) == first
    write(root, {"notes.txt": b"x"})
    assert stamp(root) == first
    os.utime(root / "dog.tar", (1, 1))
    second = stamp(root)
    write(root, {"cat/2.jpg": b"1"})
    assert len({first, second, stamp(root)}) == 3
