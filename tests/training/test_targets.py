import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from toys import fresh_run

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.data import DataError, open_source
from fastgan.data.order import by_images
from fastgan.engine import ALONE
from fastgan.training.reference import RealImages
from fastgan.training.targets import Targets, labels_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-sngan-qua")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-cdcgan-qua")


def of_source(run, *assignments):
    return dataclasses.replace(run, config=override(run.config, assignments))


def save(path, size=(16, 16), colour=False, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if colour else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def levels(images):
    return np.rint((images.numpy() + 1) * 127.5)


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        save(tmp_path / "photos" / str(number % 2) / f"{number}.png", (16 + 8 * number, 24), seed=number)
    return tmp_path / "photos"


def test_the_run_s_own_images_are_those_it_was_shown_in_their_own_order(run):
    targets = Targets.of(run, "held-out")
    images = torch.cat(list(targets.batches(50, np.arange(len(targets)))))
    shown, labels = next(RealImages.of_run(run, "held-out").batches(ALONE))
    order = by_images(len(targets), 0, 0)[:64]
    assert np.array_equal(levels(images[order]), shown)
    assert torch.equal(torch.from_numpy(targets.source.labels[order]), labels)
    assert len(targets) == 355
    assert targets.class_name(0) == targets.source.classes[open_source("digits", split="held-out").labels[0]]


def test_an_image_is_the_same_whichever_others_are_asked_for(run, folder):
    for targets in (Targets.of(run, "held-out"), Targets.of(run, folder)):
        whole = targets.take(range(5))
        assert torch.equal(torch.cat(list(targets.batches(2, [1, 2, 3]))), whole[1:4])
        assert torch.equal(targets.take([3, 0]), whole[[3, 0]])
        assert torch.equal(next(targets.batches(10**9, range(5))), whole)
        assert targets.take([]).shape == (0, 1, 16, 16)


def test_files_are_resized_and_named(run, folder):
    targets = Targets.of(run, folder)
    assert [targets.name(number) for number in range(5)] == ["0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png"]
    assert [targets.class_name(number) for number in range(5)] == ["0", "0", "0", "1", "1"]
    assert targets.take(range(5)).shape == (5, 1, 16, 16)
    assert targets.told() == [
        f"5 images in 2 classes of {folder}: all resized from 16x24 to 48x24 to 16x16 (the largest square in the middle, cubic)"
    ]
    save(folder / "0" / "9.png", seed=7)
    again = Targets.of(run, folder)
    assert ": 5 resized from" in again.told()[0]
    exact = np.asarray(Image.open(folder / "0" / "9.png"))
    assert np.array_equal(levels(again.take([3]))[0, 0], exact)


def test_grey_images_are_repeated_for_a_run_of_colour_and_colour_is_refused_for_grey(run, folder, tmp_path):
    colour = of_source(run, "data.channels=3")
    targets = Targets.of(colour, folder)
    images = targets.take(range(5))
    assert torch.equal(images, Targets.of(run, folder).take(range(5)).expand(-1, 3, -1, -1))
    assert targets.told()[0].endswith("grey ones repeated to three channels")
    save(tmp_path / "coloured" / "a.png", colour=True)
    with pytest.raises(UserError, match=r"images in colour, but the run in .* draws grey ones"):
        Targets.of(run, tmp_path / "coloured")
    assert Targets.of(colour, tmp_path / "coloured").take([0]).shape == (1, 3, 16, 16)


def test_arrays_are_images_too(run, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([1, 0, 1]))
    targets = Targets.of(run, tmp_path / "x.npz")
    assert np.array_equal(levels(targets.take(range(3)))[:, 0], images)
    assert (targets.name(2), targets.class_name(2)) == ("2", "1")
    assert targets.told() == [f"3 images in 2 classes of {tmp_path / 'x.npz'}"]


def test_what_can_not_be_shown_is_refused(run, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    points = fresh_run(tmp_path / "points", "grid25", "latent.dim=2")
    for where, line in ((tmp_path / "none", "does not exist"), (tmp_path / "empty", "holds no images")):
        with pytest.raises(DataError, match=line):
            Targets.of(run, where)
    with pytest.raises(UserError, match="draws points, not images"):
        Targets.of(points, folder)
    (folder / "1" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png.* or leave them out with --on-bad-image skip"):
        Targets.of(run, folder)
    targets = Targets.of(run, folder, on_bad_image="skip")
    assert len(targets) == 4
    assert any("3.png" in note for note in targets.told()[1:])


def test_labels_are_given_read_off_or_searched(run, conditional, folder, tmp_path):
    targets, own = Targets.of(conditional, folder), Targets.of(conditional, "held-out")
    assert labels_of(run, targets, None) is None
    assert labels_of(conditional, targets, None) == "search"
    assert labels_of(conditional, targets, "7").tolist() == [7] * 5
    assert np.array_equal(labels_of(conditional, own, None), own.source.labels)
    for old, new in (("0", "8"), ("1", "3")):  # by their numbers, whatever their order is
        (folder / old).rename(folder / new)
    assert labels_of(conditional, Targets.of(conditional, folder), "folders").tolist() == [3, 3, 8, 8, 8]


def test_folders_are_called_as_the_run_s_classes_are(conditional, folder, tmp_path):
    for name in ("cat", "dog", "emu"):
        save(tmp_path / "trained" / name / "a.png", seed=len(name))
    named = of_source(conditional, "data.source=folder", f"data.path={tmp_path / 'trained'}")
    for old, new in (("0", "emu"), ("1", "dog")):
        (folder / old).rename(folder / new)
    assert labels_of(named, Targets.of(named, folder), "folders").tolist() == [1, 1, 2, 2, 2]
    (folder / "dog").rename(folder / "dgo")
    with pytest.raises(UserError, match=r"'dgo' is no class of the run.*did you mean 'dog'"):
        labels_of(named, Targets.of(named, folder), "folders")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("10", "label 10 is out of range: .* 0 to 9"),
        ("-1", "out of range"),
        ("two", "folders or search, not"),
    ],
)
def test_labels_that_are_none(conditional, folder, asked, line):
    with pytest.raises(UserError, match=line):
        labels_of(conditional, Targets.of(conditional, folder), asked)


def test_labels_of_folders_that_are_not_there(conditional, folder):
    with pytest.raises(UserError, match="photos/0 has no class folders: give a class's number, or search"):
        labels_of(conditional, Targets.of(conditional, folder / "0"), "folders")


def test_labels_of_folders_out_of_range_and_of_a_run_without_classes(run, conditional, folder):
    (folder / "1").rename(folder / "12")
    with pytest.raises(UserError, match="class folder '12': label 12 is out of range"):
        labels_of(conditional, Targets.of(conditional, folder), "folders")
    with pytest.raises(UserError, match="not class-conditional: it takes no labels"):
        labels_of(run, Targets.of(run, folder), "search")
