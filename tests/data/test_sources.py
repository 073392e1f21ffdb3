"""Sources: the digits' fixed split, users' arrays, fingerprints, and one clear sentence for whatever is wrong."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fastgan.data import SOURCES, DataError, open_source


def everything(source):
    return np.stack([source.read(index) for index in range(len(source))])


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)


@pytest.fixture
def labels():
    return np.array([0, 2, 1, 0, 2, 2, 1])


@pytest.fixture
def saved(tmp_path):
    """Save arrays and open them."""

    def open_saved(save=np.savez, **arrays):
        save(tmp_path / "set.npz", **arrays)
        return open_source("arrays", tmp_path / "set.npz")

    return open_saved


def test_digits_are_scikit_learns():
    digits = load_digits()
    source = open_source("digits", split="all")
    images = everything(source)
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    # Half a grey level: the nearest of the 256 levels (ties, at 127.5 alone, may go either way).
    assert np.abs(images[..., 0] - digits.images * 255 / 16).max() <= 0.5
    assert (images.min(), images.max()) == (0, 255)
    assert np.array_equal(source.labels, digits.target)
    assert source.labels.dtype == np.int64
    assert source.classes == tuple("0123456789")
    assert (source.name, source.channels, len(source)) == ("digits", 1, 1797)


def test_every_fifth_digit_of_a_class_is_held_out():
    everyone = open_source("digits", split="all")
    seen = [0] * 10
    rows = {"train": [], "held-out": []}
    for row, label in enumerate(everyone.labels):
        seen[label] += 1
        rows["held-out" if seen[label] % 5 == 0 else "train"].append(row)
    assert (len(rows["train"]), len(rows["held-out"])) == (1442, 355)
    for split, chosen in rows.items():
        source = open_source("digits", split=split)
        assert np.array_equal(everything(source), everything(everyone)[chosen]), split
        assert np.array_equal(source.labels, everyone.labels[chosen]), split


def test_stacked_digits_are_three_training_digits_in_a_thousand_classes():
    source, train = open_source("stacked-digits"), open_source("digits")
    assert (source.name, source.channels, len(source), len(source.classes)) == ("stacked-digits", 3, 60_000, 1000)
    assert source.classes[7] == "007"
    known = {(train.read(row).tobytes(), label) for row, label in enumerate(train.labels)}
    for row in range(0, 60_000, 97):
        image, label = source.read(row), int(source.labels[row])
        assert image.shape == (8, 8, 3)
        for channel, digit in enumerate((label // 100, label // 10 % 10, label % 10)):
            assert (image[..., channel].tobytes(), digit) in known
    counts = np.bincount(source.labels, minlength=1000)
    assert counts.min() > 20
    chosen = np.random.default_rng(0).choice(60_000, 2000, replace=False)
    assert len({source.read(row).tobytes() for row in chosen}) == 2000


def test_a_stack_is_a_function_of_its_index():
    """The counter of numpy's Philox is the index, in units of four numbers."""
    source, train = open_source("stacked-digits"), open_source("digits")
    for row in (1, 4321):
        bits = np.random.Philox(key=1000)
        bits.advance(row)
        digits = [train.read(int(number % np.uint64(len(train)))) for number in bits.random_raw(3)]
        assert np.array_equal(source.read(row), np.concatenate(digits, axis=2))
    assert source.fingerprint == open_source("stacked-digits", split="all").fingerprint


def test_held_out_digits_share_no_image_with_the_others():
    train, held_out = ({image.tobytes() for image in everything(open_source("digits", split=s))} for s in ("train", "held-out"))
    assert len(train) > 1400
    assert len(held_out) > 350
    assert not train & held_out


def test_each_class_holds_out_about_a_fifth():
    held_out = np.bincount(open_source("digits", split="held-out").labels, minlength=10)
    share = held_out / np.bincount(load_digits().target)
    assert share.min() > 0.19
    assert share.max() <= 0.2


def test_train_is_the_default_split():
    assert open_source("digits").fingerprint == open_source("digits", split="train").fingerprint


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_keep_images_and_labels(saved, pixels, labels, save):
    source = saved(save, images=pixels, labels=labels)
    assert np.array_equal(everything(source), pixels)
    assert np.array_equal(source.labels, labels)
    assert source.labels.dtype == np.int64
    assert source.classes == ("0", "1", "2")
    assert (source.channels, len(source)) == (3, 7)


@pytest.mark.parametrize("shape", [(7, 5, 4), (7, 5, 4, 1), (7, 5, 4, 3), (7, 3, 4), (7, 1, 1, 3)])
def test_images_are_height_width_channels(saved, shape):
    pixels = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    source = saved(images=pixels)
    assert source.channels == (shape[3] if len(shape) == 4 else 1)
    assert np.array_equal(everything(source), pixels.reshape(*shape[:3], source.channels))


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_images_are_plain_rows_of_memory_however_they_were_saved(tmp_path, pixels, kind):
    path = tmp_path / f"set.{kind}"
    fortran = np.asfortranarray(pixels)
    if kind == "npz":
        np.savez(path, images=fortran)
    else:
        np.save(path, fortran)
    source = open_source("arrays", path)
    assert np.array_equal(everything(source), pixels)
    assert source.read(3).flags.c_contiguous
    assert type(source.read(3)) is np.ndarray  # not a memmap, whose every slice costs microseconds


def test_images_without_labels_are_one_class(tmp_path, pixels):
    np.save(tmp_path / "set.npy", pixels)
    source = open_source("arrays", str(tmp_path / "set.npy"))
    assert np.array_equal(everything(source), pixels)
    assert source.classes == ("all",)
    assert not source.labels.any()
    assert len(source) == 7


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i4", "uint64"])
def test_any_integers_are_labels(saved, pixels, labels, dtype):
    assert np.array_equal(saved(images=pixels, labels=labels.astype(dtype)).labels, labels)


def test_a_source_cannot_be_written_to(saved, pixels, labels):
    source = saved(images=pixels, labels=labels)
    with pytest.raises(ValueError, match="read-only"):
        source.read(0)[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        source.labels[0] = 1


def test_fingerprint_of_the_digits_is_pinned():
    # Checkpoints hold it: another value here means that no digits run of an earlier version can be resumed.
    assert open_source("digits").fingerprint == "a341bb7ed680397274c5bbc7629d13dc05ab99fc3b9443b9ba78a71b7ec34521"


def test_fingerprint_sees_each_pixel_each_label_the_order_and_the_shape(saved, pixels, labels):
    other_pixel, other_label = pixels.copy(), labels.copy()
    other_pixel[6, 4, 3, 2] ^= 1
    other_label[6] = 0
    order = [1, 0, 2, 3, 4, 5, 6]
    prints = [
        saved(images=pixels, labels=labels).fingerprint,
        saved(images=other_pixel, labels=labels).fingerprint,
        saved(images=pixels, labels=other_label).fingerprint,
        saved(images=pixels[order], labels=labels[order]).fingerprint,
        saved(images=pixels[order], labels=labels).fingerprint,
        saved(images=pixels[:6], labels=labels[:6]).fingerprint,
        saved(images=pixels.reshape(7, 4, 5, 3), labels=labels).fingerprint,
        saved(images=pixels.reshape(7, 15, 4), labels=labels).fingerprint,
        *(open_source("digits", split=split).fingerprint for split in ("train", "held-out", "all")),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(bytes.fromhex(fingerprint)) == 32 for fingerprint in prints)


def test_fingerprint_does_not_depend_on_how_the_arrays_were_saved(saved, pixels, labels):
    grey = pixels[..., 0]
    prints = {
        saved(images=grey, labels=labels).fingerprint,
        saved(np.savez_compressed, images=grey[..., None], labels=labels.astype(">i2")).fingerprint,
        saved(images=np.asfortranarray(grey), labels=labels).fingerprint,
    }
    assert len(prints) == 1


def test_fingerprint_is_the_same_in_another_process_and_loads_neither_torch_nor_dali():
    script = (
        "import sys; from fastgan.data.sources import open_source; print(open_source('digits').fingerprint); "
        "print([name for name in ('torch', 'nvidia.dali') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("\n")[:2] == [open_source("digits").fingerprint, "[]"]


def good(**changes):
    """Arrays that would be accepted, but for the changes."""
    arrays = {"images": np.zeros((3, 4, 4), np.uint8), "labels": np.array([0, 1, 0]), **changes}
    return {name: array for name, array in arrays.items() if array is not None}


def test_what_the_bad_arrays_are_made_of_is_good(saved):
    assert len(saved(**good())) == 3


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        (good(images=np.zeros((3, 4, 4), np.float32)), "must hold uint8 images, but they are float32"),
        (good(images=np.zeros((3, 4), np.uint8)), r"but it is \(3, 4\)"),
        (good(images=np.zeros((3, 3, 4, 4), np.uint8)), r"but it is \(3, 3, 4, 4\)"),
        (good(images=np.zeros((3, 4, 4, 2), np.uint8)), r"but it is \(3, 4, 4, 2\)"),
        (good(images=np.uint8(3)), r"but it is \(\)"),
        (good(images=np.zeros((0, 4, 4), np.uint8), labels=np.zeros(0, int)), r"holds no images: their shape is \(0, 4, 4\)"),
        (good(images=np.zeros((3, 0, 4), np.uint8)), r"holds no images: their shape is \(3, 0, 4\)"),
        (good(images=np.array([None, None, None])), "can't be read as .* plain arrays"),
        (good(images=None), "must hold an array named 'images', but it holds 'labels'"),
        (good(images=None, labels=None), "must hold an array named 'images', but it holds 'nothing'"),
        (good(labels=np.array([0.0, 1.0, 0.0])), "must hold integer labels, but they are float64"),
        (good(labels=np.array([True, False, True])), "must hold integer labels, but they are bool"),
        (good(labels=np.array(["a", "b", "a"])), "must hold integer labels, but they are <U1"),
        (good(labels=np.array([None, None, None])), "can't be read as .* plain arrays"),
        (good(labels=np.array([0, 1])), r"holds 3 images, but labels of shape \(2,\) instead of \(3,\)"),
        (good(labels=np.array([[0], [1], [0]])), r"labels of shape \(3, 1\) instead of \(3,\)"),
        (good(labels=np.array([0, -1, 0])), "labels from 0 to 65535, but they run -1 to 0"),
        (good(labels=np.array([0, 65536, 0])), "labels from 0 to 65535, but they run 0 to 65536"),
        (good(labels=np.array([0, 2**64 - 1, 0], np.uint64)), f"labels from 0 to 65535, but they run 0 to {2**64 - 1}"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused_in_one_sentence(saved, arrays, found):
    with pytest.raises(DataError, match=rf"set\.npz .*{found}") as refusal:
        saved(**arrays)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("damage", ["cut in half", "cut to its start", "empty", "a text", "a byte of its middle flipped"])
def test_damaged_files_are_refused(tmp_path, pixels, kind, damage):
    path = tmp_path / f"set.{kind}"
    if kind == "npz":
        np.savez_compressed(path, images=pixels)
    else:
        np.save(path, pixels)
    content = path.read_bytes()
    middle = len(content) // 2 if kind == "npz" else 11  # no checksum guards the pixels of an .npy; byte 11 is its header's
    path.write_bytes(
        {
            "cut in half": content[: len(content) // 2],
            "cut to its start": content[:7],
            "empty": b"",
            "a text": b"three images, drawn by hand",
            "a byte of its middle flipped": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
        }[damage]
    )
    what = "is not an" if damage in ("empty", "a text") else "can't be read as an"
    with pytest.raises(DataError, match=rf"set\.{kind} {what} \.npz or \.npy file") as refusal:
        open_source("arrays", path)
    assert "\n" not in str(refusal.value)


def test_a_broken_header_that_numpys_parser_stumbles_over_is_refused(tmp_path, pixels):
    path = tmp_path / "set.npy"
    np.save(path, pixels)
    path.write_bytes(path.read_bytes().replace(b"(7, 5, 4, 3)", b"(7, 5, 4, 3 "))
    with pytest.raises(DataError, match=r"set\.npy can't be read"):
        open_source("arrays", path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("digit",), "there is no data source 'digit'; the known ones are digits, stacked-digits, arrays"),
        (("digits", None, "test"), "there is no split 'test'; the known ones are train, held-out, all"),
        (("digits", "digits.npz"), "takes no path, but was given 'digits.npz'"),
        (("stacked-digits", "digits.npz"), "takes no path, but was given 'digits.npz'"),
        (("stacked-digits", None, "held-out"), "has no held-out split"),
        (("arrays",), r"needs the path of an \.npz or \.npy file"),
        (("arrays", "/nowhere/set.npz"), r"/nowhere/set\.npz does not exist"),
        (("arrays", "/"), r"/ is a folder, not an \.npz or \.npy file"),
        (("arrays", "set.npz", "held-out"), r"set\.npz has no held-out split"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        open_source(*arguments)


def test_a_data_error_is_a_value_error():
    assert issubclass(DataError, ValueError)
    assert set(SOURCES) == {
        "digits", "stacked-digits", "arrays", "folder", "shards", "cifar10", "cifar100", "stl10", "stl10-unlabeled", "svhn",
        "mnist",
    }  # fmt: skip
