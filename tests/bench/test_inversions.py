"""The experiments of docs/inversion.md, played small."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from toys import TINY, fresh_run

from bench import experiments, inversions
from bench.invert import main, recovered
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.presets import preset

MAKE = Path(__file__).parents[2] / "docs" / "make_inversion.py"
SMALL = (*TINY, "training.sample_every=0")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(experiments, "preset", lambda name: override(preset(name), SMALL))


def result_and_table(name, tmp_path):
    result = json.loads((tmp_path / f"{name}.json").read_text())
    return result, runpy.run_path(str(MAKE))["TABLES"][name](result)


def test_generators_are_compared_on_the_same_digits_and_their_images_recovered(tmp_path, monkeypatch):
    two = {
        "all": ("digits-sngan", ("training.steps=2",), None),
        "few": ("digits-sngan", ("training.steps=2", "data.source=arrays"), 5),
    }
    monkeypatch.setattr(inversions, "GENERATORS", two)
    inversions.compared(num=20, settings=("steps=3",), runs=tmp_path / "runs", out=tmp_path)
    result, table = result_and_table("inversion-runs", tmp_path)
    assert [(row["generator"], row["count"]) for row in result["rows"]] == [("all", 20), ("few", 20)]
    assert [row.get("of_its_own") is not None for row in result["rows"]] == [False, True]
    digits = set(map(str, np.load(inversions.digits_file(tmp_path / "runs", "held-out", every=20))["labels"].tolist()))
    for row in result["rows"]:
        assert set(row["by_class"]) == digits
        assert row["thin"] != row["bold"]
    assert "20 held-out digits; lbfgs, 3 iterations, 1 start; seed 0." in table
    assert "| all | 0." in table

    run = next(path for path in (tmp_path / "runs").iterdir() if path.is_dir() and "arrays" not in path.name)
    inversions.recovered(run, 8, ("steps=100", "starts=2"), out=tmp_path)
    result, table = result_and_table("inversion-recovered", tmp_path)
    assert result["share"] > 0.7
    assert "% of 8 came below 0.001" in table
    assert "lbfgs, 100 iterations, 2 starts" in table


def test_a_class_is_withheld_from_training_and_scored(tmp_path):
    options = {"num": 30, "settings": ("steps=3",), "further": ("training.steps=2",)}
    inversions.withheld((3,), runs=tmp_path / "runs", out=tmp_path, **options)
    result, table = result_and_table("inversion-anomaly", tmp_path)
    assert result["rows"][0]["digit"] == 3
    assert 0 <= result["rows"][0]["score"] == result["mean"]["score"] <= 1
    assert "| 3 | 0." in table
    trained_on = np.load(next((tmp_path / "runs").glob("digits-train*.npz")))["labels"]
    assert set(trained_on.tolist()) == set(range(10)) - {3}


def test_digits_in_a_file(tmp_path):
    whole = np.load(inversions.digits_file(tmp_path, "held-out"))
    assert whole["images"].shape == (355, 8, 8, 1)
    spread = np.load(inversions.digits_file(tmp_path, "held-out", every=5))
    np.testing.assert_array_equal(spread["images"], whole["images"][[0, 71, 142, 213, 284]])
    assert len(np.load(inversions.digits_file(tmp_path, "train", first=16))["labels"]) == 16


def test_images_of_a_conditional_run_are_recovered_and_points_refused(tmp_path):
    run = experiments.trained("digits-cdcgan-qua", 0, tmp_path, "training.steps=2")
    inversions.recovered(run.path, 4, ("steps=100",), out=tmp_path)
    assert result_and_table("inversion-recovered", tmp_path)[0]["share"] > 0.7
    points = fresh_run(tmp_path / "points", "grid25", "latent.dim=2")
    with pytest.raises(UserError, match="grid25 draws points: inversion is of images"):
        recovered(points, 4)
    with pytest.raises(UserError, match="grid25 draws points: inversion is of images"):
        main("grid25")
