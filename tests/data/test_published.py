"""Published sets: files written here as their authors lay them out, read back image by image; and what is no such file."""

import gzip
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from fastgan.data import DataError, open_source


def everything(source):
    return np.stack([source.read(index) for index in range(len(source))])


def drawn(count, side, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def planes(images):
    """(N, H, W, C) -> (N, C H W): plane by plane, row by row."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def packed(folder, archive):
    """The folder as the archive that authors publish."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def python2_pickle(batch):
    """A batch as Python 2 pickled it: protocol 2, strings of bytes, NumPy's old module."""
    found = io.BytesIO()

    class Pickler(pickle._Pickler):  # in Python, so that bytes can be written as Python 2's str
        def save_bytes(self, value):
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
            self.memoize(value)

        dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}  # noqa: RUF012

    Pickler(found, protocol=2).dump(batch)
    return found.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


# ---- CIFAR

CIFAR10 = drawn(60, 32)
LABELS10 = np.arange(60) % 10
BATCHES10 = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


@pytest.fixture
def cifar10(tmp_path):
    """Ten images a batch, in both versions: their folders by name."""
    binary, python = tmp_path / "cifar-10-batches-bin", tmp_path / "cifar-10-batches-py"
    binary.mkdir()
    python.mkdir()
    for number, name in enumerate(BATCHES10):
        rows, labels = planes(CIFAR10[10 * number : 10 * number + 10]), LABELS10[10 * number : 10 * number + 10]
        records = np.concatenate([labels[:, None].astype(np.uint8), rows], axis=1)
        (binary / f"{name}.bin").write_bytes(records.tobytes())
        content = {b"batch_label": b"x", b"labels": labels.tolist(), b"data": rows, b"filenames": [b"a.png"] * 10}
        (python / name).write_bytes(python2_pickle(content))
    return {"binary": binary, "python": python}


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("place", ["folder", "folder above", "archive"])
def test_cifar10(cifar10, tmp_path, version, place):
    path = cifar10[version]
    if place == "folder above":
        path.rename((tmp_path / "above").mkdir() or tmp_path / "above" / path.name)
        path = tmp_path / "above"
    elif place == "archive":
        path = packed(path, tmp_path / f"cifar-10-{version}.tar.gz")
    for split, rows in {"train": slice(50), "held-out": slice(50, 60), "all": slice(60)}.items():
        source = open_source("cifar10", path, split)
        assert np.array_equal(everything(source), CIFAR10[rows])
        assert np.array_equal(source.labels, LABELS10[rows])
    assert source.classes[3] == "cat"
    assert (source.name, source.channels, source.sizes) == ("cifar10", 3, None)


def test_both_versions_are_the_same_data(cifar10):
    assert len({open_source("cifar10", path).fingerprint for path in cifar10.values()}) == 1


@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar100_has_the_fine_labels(tmp_path, version):
    images, fine = drawn(12, 32), np.arange(12) * 9
    for name, part in {"train": slice(8), "test": slice(8, 12)}.items():
        if version == "binary":
            records = np.concatenate([np.full((12, 1), 3), fine[:, None], planes(images)], axis=1)[part].astype(np.uint8)
            (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
        else:
            content = {b"coarse_labels": [3] * 12, b"fine_labels": fine[part].tolist(), b"data": planes(images)[part]}
            (tmp_path / name).write_bytes(python2_pickle(content))
    source = open_source("cifar100", tmp_path, "all")
    assert np.array_equal(everything(source), images)
    assert np.array_equal(source.labels, fine)
    assert len(source.classes) == 100


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, protocol):
    trace = tmp_path / "trace"
    for evil in (Evil(os.system, f"touch {trace}"), Evil(eval, f"open({str(trace)!r}, 'w')"), Evil(np.load, str(trace))):
        for name in BATCHES10:
            (tmp_path / name).write_bytes(pickle.dumps({b"data": evil, b"labels": [0]}, protocol))
        with pytest.raises(DataError, match=r"a pickled batch asks for \S+, which no batch of CIFAR needs"):
            open_source("cifar10", tmp_path)
        assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no pickle", b"\x80\x02.", pickle.dumps([1, 2]), pickle.dumps({b"data": 3, b"labels": [1]}),
        python2_pickle({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 1]}),
        python2_pickle({b"data": np.zeros((2, 3072)), b"labels": [1, 1]}),
        python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 1]})[:-40],
        python2_pickle({b"data": np.zeros((2, 3072), np.uint8)}),
        python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
        python2_pickle({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}),
    ],
)  # fmt: skip
def test_pickles_that_are_no_batch_are_refused_in_one_sentence(tmp_path, content):
    for name in BATCHES10:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path)) as refusal:
        open_source("cifar10", tmp_path)
    assert "\n" not in str(refusal.value)


# ---- STL-10


@pytest.fixture
def stl10(tmp_path):
    """Two train, three test and four unlabeled images."""
    images = drawn(9, 96)
    for part, rows in {"train": slice(2), "test": slice(2, 5), "unlabeled": slice(5, 9)}.items():
        columns = images[rows].transpose(0, 3, 2, 1)  # plane by plane, column by column
        (tmp_path / f"{part}_X.bin").write_bytes(np.ascontiguousarray(columns).tobytes())
    (tmp_path / "train_y.bin").write_bytes(bytes([1, 10]))
    (tmp_path / "test_y.bin").write_bytes(bytes([3, 4, 5]))
    return tmp_path, images


def test_stl10(stl10):
    path, images = stl10
    for split, rows, labels in (
        ("train", slice(2), [0, 9]),
        ("held-out", slice(2, 5), [2, 3, 4]),
        ("all", slice(5), [0, 9, 2, 3, 4]),
    ):
        source = open_source("stl10", path, split)
        assert np.array_equal(everything(source), images[rows])
        assert source.labels.tolist() == labels
    unlabeled = open_source("stl10-unlabeled", path)
    assert np.array_equal(everything(unlabeled), images[5:])
    assert (unlabeled.classes, unlabeled.labels.tolist(), unlabeled.channels) == (("all",), [0] * 4, 3)
    assert unlabeled.read(1).flags.c_contiguous
    with pytest.raises(DataError, match="no held-out split"):
        open_source("stl10-unlabeled", path, "held-out")


# ---- SVHN


def test_svhn(tmp_path):
    images, digits = drawn(7, 32), np.array([10, 1, 2, 9, 10, 3, 4])
    for part, rows in {"train": slice(4), "test": slice(4, 7)}.items():
        savemat(
            tmp_path / f"{part}_32x32.mat", {"X": images[rows].transpose(1, 2, 3, 0), "y": digits[rows, None].astype(np.uint8)}
        )
    for split, rows in {"train": slice(4), "held-out": slice(4, 7), "all": slice(7)}.items():
        source = open_source("svhn", tmp_path, split)
        assert np.array_equal(everything(source), images[rows])
        assert np.array_equal(source.labels, digits[rows] % 10)


# ---- MNIST


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path):
    def written(ending="-ubyte.gz", dot="-"):
        images, labels = drawn(9, 28, 1), np.arange(9)
        for part, rows in {"train": slice(6), "t10k": slice(6, 9)}.items():
            for kind, array in {"images": images[rows, ..., 0], "labels": labels[rows]}.items():
                content = idx(array)
                name = f"{part}-{kind}{dot}idx{array.ndim}{ending}"
                (tmp_path / name).write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
        return images, labels

    return written


@pytest.mark.parametrize(("ending", "dot"), [("-ubyte.gz", "-"), ("-ubyte", "-"), ("-ubyte", ".")])
def test_mnist(mnist, tmp_path, ending, dot):
    images, labels = mnist(ending, dot)
    for split, rows in {"train": slice(6), "held-out": slice(6, 9), "all": slice(9)}.items():
        source = open_source("mnist", tmp_path, split)
        assert np.array_equal(everything(source), images[rows])
        assert np.array_equal(source.labels, labels[rows])
    assert (source.channels, source.classes) == (1, tuple("0123456789"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda content: content[:-5], "can't be unpacked"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "of bytes in 3 dimensions, or is cut short"),
        (lambda content: gzip.compress(b"\0\0\x0d\x03" + bytes(20)), "is not an idx file of bytes"),
        (lambda content: b"", "is not an idx file of bytes"),
        (lambda content: gzip.compress(idx(np.zeros((2, 28, 28)))), "holds 2 images of mnist, but 6 labels"),
        (lambda content: gzip.compress(idx(np.zeros((0, 28, 28)))), "holds 0 images of mnist, but 6 labels"),
        (lambda content: gzip.compress(struct.pack(">4i", 0x803, -1, -28, 28) + bytes(784)), "is not an idx file"),
    ],
)  # fmt: skip
def test_damaged_idx_files_are_refused(mnist, tmp_path, spoil, sentence):
    mnist()
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=sentence) as refusal:
        open_source("mnist", tmp_path)
    assert "\n" not in str(refusal.value)


# ---- what they share


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("cifar10", "cs.toronto.edu"), ("cifar100", "cs.toronto.edu"), ("stl10", "cs.stanford.edu"),
        ("stl10-unlabeled", "cs.stanford.edu"), ("svhn", "ufldl.stanford.edu"), ("mnist", "yann.lecun.com"),
    ],
)  # fmt: skip
def test_who_lacks_the_files_is_told_where_to_get_them(tmp_path, name, page):
    for path, sentence in (
        (None, f"the source '{name}' needs a path"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "holds no "),
    ):
        with pytest.raises(DataError, match=rf"{sentence}.*: get \S+ .*from https?://.*{page}.* and set data.path to where"):
            open_source(name, path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match=r"can't be read as an archive|is a file, not the folder"):
        open_source(name, tmp_path / "file")


@pytest.mark.parametrize("name", ["cifar10", "stl10", "stl10-unlabeled", "svhn"])
@pytest.mark.parametrize("content", [b"", b"cut short", bytes(3073) + b"x"])
def test_damaged_files_are_refused(cifar10, stl10, name, content):
    path = stl10[0]
    (path / "test_32x32.mat").write_bytes(content)
    (path / "train_32x32.mat").write_bytes(content)
    (path / "train_X.bin").write_bytes(content)
    (path / "unlabeled_X.bin").write_bytes(content)
    (path / "cifar-10-batches-bin/data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"no multiple of|is empty|can't be read as SVHN") as refusal:
        open_source(name, path)
    assert "\n" not in str(refusal.value)


def test_a_cut_archive_is_refused(cifar10, tmp_path):
    archive = packed(cifar10["binary"], tmp_path / "cifar-10-binary.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar.gz can't be read"):
        open_source("cifar10", archive)


def test_labels_out_of_range_are_refused(stl10):
    (stl10[0] / "train_y.bin").write_bytes(bytes([0, 1]))
    with pytest.raises(DataError, match="labels of stl10 must be from 0 to 9, but run -1 to 0"):
        open_source("stl10", stl10[0])
