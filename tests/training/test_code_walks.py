"""Walks through the codes of real images, on small untrained autoencoders."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toys import fresh_run

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.evaluation import AttributeClassifiers
from fastgan.latent.directions import directions
from fastgan.training.attributes import codes_of, entanglement_of, known
from fastgan.training.code_walks import Start
from fastgan.training.coding import drawings, encoded, images_of
from fastgan.training.traversal import traverse, walks, write_traversal

SMALL = ("network.content=6", "network.style=4", "network.blocks=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "gaia-digits", *SMALL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-autoencoder", *SMALL)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A run on 24 images in a folder, the folder, and a table: bright, and a number."""
    root, random = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    lines = ["file,bright,number"]
    (root / "set").mkdir()
    for number in range(24):
        pixels = random.integers(0, 100, (20, 20), dtype=np.uint8) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "set" / f"{number:02}.png")
        lines.append(f"{number:02}.png,{2 * (number % 2) - 1},{number / 10}")
    (root / "table.csv").write_text("\n".join(lines))
    settings = ("data.source=folder", f"data.path={root / 'set'}")
    return fresh_run(root / "run", "gaia-digits", *SMALL, *settings), root / "set", root / "table.csv"


def test_images_are_those_of_their_rows(run, faces):
    shown = images_of(run, "held-out", 10, seed=3)
    other = images_of(run, "held-out", 10, seed=4)
    assert shown.images.shape == (10, 1, 16, 16)
    assert (shown.rows != other.rows).any()
    level = torch.tensor([float(shown.source.read(int(row)).mean()) for row in shown.rows])
    assert torch.corrcoef(torch.stack([level, shown.images.mean((1, 2, 3))]))[0, 1] > 0.98
    assert (shown.labels.numpy() == shown.source.labels[shown.rows]).all()
    dark, bright = (images_of(faces[0]).images.mean((1, 2, 3)).sort().values[part] for part in (slice(12), slice(12, None)))
    found = known(faces[0], faces[2])
    assert found.seen[found.values[:, 0] == 1].mean((1, 2, 3)).min() == bright.min() > dark.max()


def test_drawings_are_a_row_each(run, alone):
    shown = images_of(run, "held-out", 3, seed=0).images
    found = walks(run, steps=3, sweep="drawings", start=Start(split="held-out"))
    assert found.titles == ("x", "D(x)", "G(x)", "D(G(x))", "G(mixture)", "D(G(mixture))")
    networks = run.average.networks["generator"], run.game.get_submodule("discriminator")
    torch.testing.assert_close(found.images, torch.stack(list(drawings(*networks, shown).values())))
    torch.testing.assert_close(found.images[0], shown)
    assert walks(alone, steps=2, sweep="drawings").titles == ("x", "G(x)", "G(mixture)")


def test_interpolations_end_at_reconstructions(run):
    found = walks(run, 2, 3, sweep="interpolations", seed=5)
    shown = images_of(run, "train", 4, seed=5)
    with torch.no_grad():
        network = run.average.networks["generator"]
        reconstructed, code = network(shown.images), network.encode(shown.images)
        middle = network.decode(type(code)(*((part[::2] + part[1::2]) / 2 for part in code)))
    torch.testing.assert_close(found.images[:, 0], reconstructed[::2])
    torch.testing.assert_close(found.images[:, -1], reconstructed[1::2])
    torch.testing.assert_close(found.images[:, 1], middle)
    arc = traverse(run, 2, 3, sweep="interpolations", seed=5, kind="spherical")
    assert not torch.equal(arc[:, 1], middle)


def test_attributes_are_walked_around_the_reconstruction(faces):
    run, folder, table = faces
    start = Start(table=table, names=("number", "bright"), reach=2.0, images=folder)
    found = walks(run, 2, 5, sweep="attributes", start=start)
    assert found.images.shape[:2] == (4, 5)
    assert found.titles == ("number from -2 to 2", "bright from -2 to 2")
    shown, there = images_of(run, path=folder, most=2, seed=0), known(run, table)
    codes = codes_of(run, shown)
    along = directions(there.codes, there.values, there.names, "least-squares")
    with torch.no_grad():
        torch.testing.assert_close(found.images[[0, 2], 2], run.ema_generator(codes))
        torch.testing.assert_close(found.images[1, 4], run.ema_generator(codes[:1] + 2 * along[:1])[0])
        torch.testing.assert_close(found.images[2, 0], run.ema_generator(codes[1:] - 2 * along[1:])[0])
    means = traverse(run, 2, 5, sweep="attributes", start=Start(table=table, directions="means", reach=2.0))
    assert means.shape[:2] == (4, 5)


def test_an_attribute_of_all_images_is_refused_where_it_is_asked_for(faces, tmp_path):
    run, _, table = faces
    lines = [f"{line},{'face' if line.startswith('file') else 1}" for line in table.read_text().splitlines()]
    (tmp_path / "more.csv").write_text("\n".join(lines))
    along = [
        traverse(run, 1, 3, sweep="attributes", start=Start(table=path, names=("bright",)))
        for path in (table, tmp_path / "more.csv")
    ]
    torch.testing.assert_close(*along)
    with pytest.raises(UserError, match="attribute face is the same in all 24 images"):
        traverse(run, 1, 3, sweep="attributes", start=Start(table=tmp_path / "more.csv", names=("face",)))
    found = walks(run, 1, 3, sweep="attributes", start=Start(table=tmp_path / "more.csv"))
    assert found.titles == ("bright from -1 to 1", "number from -1 to 1")
    torch.testing.assert_close(found.images[:1], along[0])
    (tmp_path / "one.csv").write_text("\n".join(",".join(line.split(",")[::3]) for line in lines))
    with pytest.raises(UserError, match="every attribute is the same in all images"):
        walks(run, 1, 3, sweep="attributes", start=Start(table=tmp_path / "one.csv"))


def test_walks_are_as_many_as_images_unless_told_otherwise(faces, tmp_path):
    run, folder, table = faces
    for count in (1, 5):
        (tmp_path / str(count)).mkdir()
        for name in sorted(folder.glob("*.png"))[:count]:
            (tmp_path / str(count) / name.name).write_bytes(name.read_bytes())
    few, one = Start(images=tmp_path / "5"), Start(images=tmp_path / "1")
    assert walks(run, sweep="drawings", start=few).images.shape[:2] == (6, 5)
    assert walks(run, sweep="drawings", start=one).images.shape[:2] == (6, 1)
    assert walks(run, sweep="interpolations", start=few).images.shape[:2] == (2, 8)
    first = Start(images=tmp_path / "1", table=table, names=("bright",))
    assert walks(run, sweep="attributes", start=first).images.shape[:2] == (1, 9)
    for options, line in (
        ({"sweep": "drawings", "steps": 6, "start": few}, "6 images are to be shown.* has 5"),
        ({"sweep": "interpolations", "rows": 3, "start": few}, "6 images are to be shown.* has 5"),
        ({"sweep": "interpolations", "start": one}, "2 images are to be shown.* has 1"),
        ({"sweep": "attributes", "rows": 2, "start": first}, "2 images are to be shown.* has 1"),
    ):
        with pytest.raises(UserError, match=line):
            walks(run, **options)


def test_classes_are_attributes_where_no_table_is_given(run, tmp_path):
    found = write_traversal(run, tmp_path / "x.png", None, 3, sweep="attributes", start=Start(names=("3", "7")))
    assert found.images.shape[:2] == (8, 3)
    assert Image.open(tmp_path / "x.png").size == (3 * 18 + 2, 8 * 18 + 2)
    assert walks(run, None, 3, sweep="attributes").images.shape[:2] == (10, 3)


def test_entanglement_of_a_run(faces):
    run, _, table = faces
    found, accuracies = entanglement_of(run, "means", table, "train")
    assert found.names == ("bright", "number")
    assert accuracies[0] > 0.95
    assert len(found.reached) == 2
    if any(found.reached):
        assert found.value >= 0


def test_no_set_of_images_is_held_at_its_own_size(tmp_path):
    """What is known of images keeps their small copies, and is the same as of all of them at once."""
    run = fresh_run(tmp_path, "digits-autoencoder", *SMALL, "data.resolution=32")
    found, shown = known(run, most=200), images_of(run, most=200)
    assert found.seen.shape == (200, 1, 16, 16)
    assert shown.images.shape == (200, 1, 32, 32)
    torch.testing.assert_close(found.seen, torch.nn.functional.avg_pool2d(shown.images, 2))
    torch.testing.assert_close(found.codes, codes_of(run, shown))
    assert (found.values.argmax(1) == shown.labels).all()
    judge = AttributeClassifiers(found.seen, found.values)
    torch.testing.assert_close(judge(found.seen), judge(shown.images), rtol=0, atol=1e-4)


def test_networks_are_taken_once_and_in_the_precision_of_the_run(faces):
    """What a generator of codes learns of its autoencoder takes one image more, not one a batch."""
    run, _, table = faces
    batches, dtypes = [], []
    network = run.average.networks["generator"]
    handles = [
        network.to_style.register_forward_hook(lambda module, given, found: batches.append(len(found))),
        network.adapt.gain.register_forward_hook(lambda module, given, found: dtypes.append(found.dtype)),
    ]
    half = replace(run, config=override(run.config, ["training.precision=bf16"]))
    try:
        codes = encoded(half, images_of(run).images.split(7))
        assert batches == [1, 7, 7, 7, 3]
        entanglement_of(half, "means", table, "train")
    finally:
        for handle in handles:
            handle.remove()
    assert batches[5:] == [1, 24, 1, 24, 1]
    assert set(dtypes) == {torch.bfloat16}
    torch.testing.assert_close(codes, encoded(run, [images_of(run).images]), rtol=0, atol=0.1 * float(codes.std()))


def test_walks_that_do_not_fit_are_refused(run, faces, tmp_path):
    adversarial = fresh_run(tmp_path, "digits-sngan-qua")
    path, folder, table = faces[0], faces[1], faces[2]
    for given, options, line in (
        (adversarial, {"sweep": "drawings"}, "has no autoencoder"),
        (run, {"sweep": "drawings", "rows": 2}, "steps says how many"),
        (run, {"sweep": "drawings", "refine_steps": 2}, "nothing is refined"),
        (run, {"sweep": "interpolations", "steps": 1}, "at least 2"),
        (run, {"sweep": "interpolations", "truncation": 1.0}, "nothing to truncate"),
        (run, {"sweep": "interpolations", "labels": [1]}, "not class-conditional"),
        (run, {"sweep": "drawings", "raw_weights": True}, "no raw weights"),
        (run, {"sweep": "interpolations", "start": Start(names=("3",))}, "goes along no attributes"),
        (run, {"sweep": "latents", "start": Start(names=("3",))}, "takes no attributes"),
        (run, {"sweep": "attributes", "start": Start(names=("11",))}, "no attribute '11'"),
        (run, {"sweep": "attributes", "start": Start(table=table)}, "'digits' have no names"),
        (path, {"sweep": "attributes"}, "one class"),
        (path, {"sweep": "interpolations", "start": Start(split="held-out")}, "no held-out split"),
        (path, {"sweep": "interpolations", "rows": 13, "start": Start(images=folder)}, "26 images are to be shown.* has 24"),
        (run, {"sweep": "interpolations", "start": Start(images=tmp_path / "none")}, "does not exist"),
    ):
        with pytest.raises(UserError, match=line):
            walks(given, **options)
    for options, line in (
        ({"directions": "mean"}, "unknown directions 'mean'.*means"),
        ({"reach": 0.0}, "reach must be above 0"),
        ({"names": ("one", "two", "one")}, "attribute 'one' is named twice"),
        ({"images": folder, "split": "train"}, "not at both"),
    ):
        with pytest.raises(UserError, match=line):
            Start(**options)
