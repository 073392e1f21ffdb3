import csv
import json
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from toys import fresh_run

import fastgan
from fastgan.checked import UserError
from fastgan.data import DataError
from fastgan.training.inverting import Job, Manner, _fitting, digest, inversion, invert_images, pairs
from fastgan.training.parts import Parts
from fastgan.training.sampling import write_image
from fastgan.training.targets import Targets

QUICK = Manner(inversion=inversion(["steps=4"]), batch_size=4, pictured=6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-sngan-qua")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return fresh_run(tmp_path_factory.mktemp("runs"), "digits-cdcgan-qua")


@pytest.fixture
def folder(run, tmp_path):
    """What the generator draws, as files of two classes."""
    for number, image in enumerate(fastgan.sample(run, 14, seed=3)):
        write_image((image + 1) / 2, tmp_path / "drawn" / "ab"[number // 7] / f"{number:02}.png")
    return tmp_path / "drawn"


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix not in (".json",)}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_the_generator_drew_is_recovered_and_written(run, folder, tmp_path):
    out, manner = tmp_path / "out", Manner(inversion=inversion(["steps=300", "starts=2"]), batch_size=8)
    found = invert_images(run, Targets.of(run, folder), out, manner)
    assert found["count"] == 14
    assert found["share_below"]["0.001"] > 0.8
    assert found == json.loads((out / "summary.json").read_text())
    stored = dict(np.load(out / "latents.npz"))
    assert {name: value.shape for name, value in stored.items()} == {
        "latents": (14, 8), "errors": (14,), "steps": (14,), "converged": (14,),
    }  # fmt: skip
    with torch.no_grad():
        drawn = run.ema_generator(torch.from_numpy(stored["latents"]))
    images = Targets.of(run, folder).take(range(14))
    errors = (drawn - images).square().flatten(1).mean(1).numpy()
    np.testing.assert_allclose(stored["errors"], errors, rtol=1e-3, atol=1e-8)
    assert found["mse"]["mean"] == pytest.approx(errors.mean(), rel=1e-3)
    assert found["by_class"]["b"] == {
        "count": 7, "mean": pytest.approx(errors[7:].mean(), rel=1e-3), "median": pytest.approx(np.median(errors[7:]), rel=1e-3)
    }  # fmt: skip
    table = lines(out / "errors.jsonl")
    assert [row["error"] for row in table] == pytest.approx(stored["errors"].tolist(), rel=1e-6)
    assert table[9] | {"error": 0} == {
        "number": 9, "file": "b/09.png", "class": "b", "label": None, "error": 0, "steps": 300, "converged": False,
    }  # fmt: skip
    with (out / "errors.csv").open(newline="") as file:
        assert [(row["file"], float(row["error"])) for row in csv.DictReader(file)] == [
            (row["file"], row["error"]) for row in table
        ]
    assert Image.open(out / "reconstructions.png").size == (14 * 18 + 2, 2 * 18 + 2)
    assert not (out / "parts").exists()


def test_a_file_that_goes_away_leaves_what_was_finished(run, folder, tmp_path):
    ones = Manner(inversion=QUICK.inversion, batch_size=1, pictured=6)
    invert_images(run, Targets.of(run, folder), tmp_path / "whole", ones)
    targets, missing, out = Targets.of(run, folder), folder / "b" / "13.png", tmp_path / "out"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(DataError, match=r"13\.png can't be read any more"):
        invert_images(run, targets, out, ones)
    finished = sorted((out / "parts").iterdir())
    assert 0 < len(finished) < 14
    assert [path.name for path in finished] == [f"{number:08}.npz" for number in range(len(finished))]
    with pytest.raises(UserError, match="begun with batch_size 1 and not 4: repeat that command, or choose a new folder"):
        invert_images(run, targets, out, QUICK)
    missing.write_bytes(content)
    invert_images(run, Targets.of(run, folder), out, ones)
    assert contents(out) == contents(tmp_path / "whole")


def test_stopped_between_batches_it_goes_on_bit_for_bit(run, folder, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    invert_images(run, Targets.of(run, folder), whole, QUICK)
    targets = Targets.of(run, folder)

    class Stopped(Targets):
        def batches(self, size, numbers):
            yield from islice(super().batches(size, numbers), 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert_images(run, Stopped(targets.where, targets.source, targets.settings), out, QUICK)
    finished = sorted((out / "parts").iterdir())
    assert [path.name for path in finished] == ["00000000.npz", "00000001.npz"]
    for left in ("parts/00000002.npz.1.partial", "latents.npz.1.partial"):
        (out / left).write_bytes(b"of a process that was killed")
    found = invert_images(run, targets, out, QUICK)
    assert contents(out) == contents(whole)
    assert found["settings"] == json.loads((whole / "summary.json").read_text())["settings"]


def test_a_finished_folder_is_not_done_again(run, folder, tmp_path):
    first = invert_images(run, Targets.of(run, folder), tmp_path / "out", QUICK)
    Parts(tmp_path / "out" / "parts", 4).write(0, {"left": np.zeros(3)})  # killed before it could take them away
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[elrs]*.*") if path.name != "summary.json"}
    assert invert_images(run, Targets.of(run, folder), tmp_path / "out", QUICK) == first
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name != "summary.json"}


def test_a_finished_folder_that_lacks_files_is_told_of(run, folder, tmp_path):
    out = tmp_path / "out"
    invert_images(run, Targets.of(run, folder), out, QUICK)
    before = contents(out)
    for lost, line in (
        (("reconstructions.png",), None),  # drawn again from the latents
        (("errors.csv",), "was finished, but lacks errors.csv: put back"),
        (("errors.jsonl", "latents.npz"), r"lacks errors.jsonl and latents.npz"),
    ):
        for name in lost:
            (out / name).unlink()
        if line is None:
            invert_images(run, Targets.of(run, folder), out, QUICK)
        else:
            with pytest.raises(UserError, match=line):
                invert_images(run, Targets.of(run, folder), out, QUICK)
            for name in lost:
                (out / name).write_bytes(before[name])
        assert contents(out) == before


def test_a_damaged_part_is_done_again(run, folder, tmp_path):
    class Stopped(Targets):
        def batches(self, size, numbers):
            yield from islice(super().batches(size, numbers), 2)
            raise KeyboardInterrupt

    targets, out = Targets.of(run, folder), tmp_path / "out"
    invert_images(run, targets, tmp_path / "whole", QUICK)
    with pytest.raises(KeyboardInterrupt):
        invert_images(run, Stopped(targets.where, targets.source, targets.settings), out, QUICK)
    (out / "parts" / "00000001.npz").write_bytes(b"")
    invert_images(run, targets, out, QUICK)
    assert contents(out) == contents(tmp_path / "whole")


def test_how_results_are_shown_may_change(run, folder, tmp_path):
    targets, other = Targets.of(run, folder), Manner(inversion=QUICK.inversion, batch_size=4, pictured=3, form="safetensors")
    for name, first, second in (("a", QUICK, other), ("b", other, QUICK)):
        invert_images(run, targets, tmp_path / name, first)
        found = invert_images(run, targets, tmp_path / name, second)
        invert_images(run, targets, tmp_path / f"{name}-whole", second)
        assert found["files"]["latents"].endswith(second.form)
        there, whole = contents(tmp_path / name), contents(tmp_path / f"{name}-whole")
        assert whole == {name: there[name] for name in whole}
        assert not (tmp_path / name / "parts").exists()


def test_numbers_beyond_the_images_ask_for_all_of_them(run, folder, tmp_path):
    vast = Manner(inversion=QUICK.inversion, batch_size=10**20, pictured=10**20)
    invert_images(run, Targets.of(run, folder), tmp_path / "vast", vast)
    enough = Manner(inversion=QUICK.inversion, batch_size=14, pictured=14)
    invert_images(run, Targets.of(run, folder), tmp_path / "enough", enough)
    assert contents(tmp_path / "vast") == contents(tmp_path / "enough")


def test_a_search_that_does_not_fit_into_memory():
    with (
        pytest.raises(UserError, match=r"take less of --batch-size, --starts or --nearest: .*can't allocate memory") as told,
        _fitting(),
    ):
        torch.empty(2**50)
    assert "\n" not in str(told.value)
    with pytest.raises(RuntimeError, match="must match"), _fitting():
        torch.ones(2) + torch.ones(3)


def test_results_do_not_join_the_images(run, folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for out in (folder / "a" / "out", "out", tmp_path / "link" / "out"):
        with pytest.raises(UserError, match=r"whose images these are, and would join them: choose a folder elsewhere"):
            Job(run, Targets.of(run, folder), out, QUICK)


def test_a_generator_that_draws_nothing_finite(folder, tmp_path):
    run = fresh_run(tmp_path / "run", "digits-sngan-qua")
    with torch.no_grad():
        next(run.ema_generator.parameters()).fill_(float("nan"))
    for patience in (0, 2):
        manner = Manner(inversion=inversion({"steps": 12, "patience": patience}))
        with pytest.raises(UserError, match=r"draws nothing finite for image 0 \(a/00.png\): take another checkpoint"):
            invert_images(run, Targets.of(run, folder), tmp_path / "out", manner)
        (tmp_path / "out" / "settings.json").unlink()


def test_other_settings_images_or_generators_are_refused(run, folder, tmp_path):
    out = tmp_path / "out"
    invert_images(run, Targets.of(run, folder), out, QUICK)
    before = contents(out)
    other = fresh_run(tmp_path / "other", "digits-sngan-qua", "seed=5")
    for given, where, manner, line in (
        (run, "held-out", QUICK, "begun with other images"),
        (other, folder, QUICK, "begun with another generator"),
        (run, folder, Manner(), "begun with batch_size 4 and not 256"),
    ):
        with pytest.raises(UserError, match=line):
            invert_images(given, Targets.of(given, where), out, manner)
    longer = Manner(inversion=inversion(["steps=5"]), batch_size=4, pictured=6)
    with pytest.raises(UserError, match=r"begun with inversion\.steps 4 and not 5"):
        invert_images(run, Targets.of(run, folder), out, longer)
    (folder / "a" / "00.png").rename(folder / "a" / "renamed.png")
    with pytest.raises(UserError, match="begun with other images"):
        invert_images(run, Targets.of(run, folder), out, QUICK)
    assert contents(out) == before


def test_folders_that_can_not_be_used(run, folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can't be written"):
        invert_images(run, Targets.of(run, folder), tmp_path / "file", QUICK)
    with pytest.raises(UserError, match=r"holds other files, drawn: choose a new folder"):
        invert_images(run, Targets.of(run, folder), tmp_path, QUICK)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        invert_images(run, Targets.of(run, folder), tmp_path / "broken", QUICK)


def test_safetensors_hold_the_same(run, folder, tmp_path):
    for form in ("npz", "safetensors"):
        manner = Manner(inversion=QUICK.inversion, batch_size=4, form=form, pictured=0)
        invert_images(run, Targets.of(run, folder), tmp_path / form, manner)
    first, second = dict(np.load(tmp_path / "npz" / "latents.npz")), load_file(tmp_path / "safetensors" / "latents.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert not (tmp_path / "npz" / "reconstructions.png").exists()


@pytest.mark.parametrize("asked", ["search", "folders", "3"])
def test_labels_of_conditional_runs(conditional, tmp_path, asked):
    for number, image in enumerate(fastgan.sample(conditional, 4, labels=[7, 2])):
        write_image((image + 1) / 2, tmp_path / "drawn" / "72"[number % 2] / f"{number}.png")
    manner = Manner(inversion=inversion(["steps=40"]), labels=asked)
    invert_images(conditional, Targets.of(conditional, tmp_path / "drawn"), tmp_path / "out", manner)
    rows = lines(tmp_path / "out" / "errors.jsonl")
    labels = [row["label"] for row in rows]
    assert labels == {"folders": [2, 2, 7, 7], "3": [3] * 4}.get(asked, labels)
    assert all(0 <= label < 10 for label in labels)
    assert np.load(tmp_path / "out" / "latents.npz")["labels"].tolist() == labels
    job = Job(conditional, Targets.of(conditional, tmp_path / "drawn"), tmp_path / "out", manner)
    images = job.targets.take(range(4))
    errors = (job.reconstructions(range(4)) - images).square().flatten(1).mean(1)
    torch.testing.assert_close(errors, torch.tensor([row["error"] for row in rows]), rtol=1e-3, atol=1e-8)


def test_nothing_of_the_run_changes(run, folder, tmp_path):
    before = digest(run.ema_generator), digest(run.generator), digest(run.discriminator)
    invert_images(run, Targets.of(run, folder), tmp_path / "out", QUICK)
    assert before == (digest(run.ema_generator), digest(run.generator), digest(run.discriminator))
    assert all(parameter.grad is None for parameter in run.ema_generator.parameters())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"form": "pt"}, "unknown form of latents 'pt'"),
        ({"pictured": -1}, "at least 0"),
    ],
)
def test_manners_that_are_none(options, line):
    with pytest.raises(UserError, match=line):
        Manner(**options)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("steps=-1", "steps must be a whole number, at least 0"),
        ("steps=many", "steps should be a valid integer"),
        ("rate=0", "rate must be above 0"),
        ("optimiser=sgd", "optimiser should be 'lbfgs', 'adam' or 'rmsprop'"),
        ("step=3", "unknown field 'step': did you mean 'steps'"),
        ("steps", "settings are name=value, not 'steps'"),
    ],
)
def test_settings_that_are_none(given, line):
    with pytest.raises(UserError, match=f"inversion: {line}"):
        inversion([given])


def test_a_picture_has_originals_above_what_is_drawn():
    originals, drawn = torch.full((18, 1, 4, 4), 1.0), torch.full((18, 1, 4, 4), 0.0)
    shown = pairs(originals, drawn)
    assert shown.shape == (3, 4 * 6 + 2, 16 * 6 + 2)
    assert [round(shown[0, 4 + 6 * row, 4].item(), 1) for row in range(4)] == [1.0, 0.5, 1.0, 0.5]
    assert shown[0, 4 + 6 * 2, 4 + 6 * 2].item() == 0  # beyond the last one
