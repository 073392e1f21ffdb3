"""The experiments of docs/gaia.md, played small."""

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image
from toys import TINY

from bench import experiments, gaia
from fastgan.config import override
from fastgan.data import open_source
from fastgan.presets import preset

MAKE = Path(__file__).parents[2] / "docs" / "make_gaia.py"
SMALL = (*TINY, "training.steps=2", "training.sample_every=0", "network.content=6", "network.style=4", "network.blocks=1")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Presets of two rounds."""
    monkeypatch.setattr(experiments, "preset", lambda name: override(preset(name), SMALL))


def played(command, name, tmp_path, **options):
    """The experiment's result, and its table."""
    command(runs=tmp_path / "runs", out=tmp_path, **options)
    result = json.loads((tmp_path / f"{name}.json").read_text())
    return result, runpy.run_path(str(MAKE))["TABLES"][name](result)


def test_methods_are_measured_and_drawn(tmp_path):
    result, table = played(gaia.digits, "gaia-digits", tmp_path, seeds=(1,), pairs=70, picture=tmp_path / "x.png")
    assert [(row["method"], row["seed"]) for row in result["rows"]] == [(method, 1) for method in gaia.METHODS]
    assert result["accuracy"] > 0.9
    assert all(0 < row["error"] < 1 and row["sharpness"] > 0 and -1 <= row["structure"] <= 1 for row in result["rows"])
    assert result["rows"][1]["redrawn"] != result["rows"][0]["redrawn"]
    assert table.count("| L1 alone |") == 2
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (16 * 18 + 2, 6 * 18 + 2)


def test_weights_of_the_structure_loss(tmp_path):
    own = preset("gaia-digits").gaia.structure
    result, table = played(gaia.structure, "gaia-structure", tmp_path, weights=(own, 1.0), seeds=(0,), pairs=70)
    assert [row["alpha"] for row in result["rows"]] == [own, 1]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["gaia-digits-0", "gaia-digits-gaia.structure1-0"]
    assert "| 1 |" in table


def test_directions_of_attributes_that_go_together(tmp_path):
    result, table = played(gaia.directions, "gaia-directions", tmp_path, seeds=(0,))
    assert [(row["method"], row["kind"]) for row in result["rows"]] == [
        (method, kind) for method in ("GAIA", "L1 alone") for kind in ("means", "least-squares")
    ]
    assert result["correlations"][1][2] > 0.4
    assert "| GAIA | least-squares |" in table
    for row in result["rows"]:
        assert row["reached"] == sum(change[own] >= 0.25 for own, change in enumerate(row["changes"]))
        assert (row["entanglement"] is None) == (row["reached"] == 0)
    assert f"| GAIA | means | {result['rows'][0]['reached']} of 3 |" in table
    rows = [row | {"entanglement": None, "reached": 0} for row in result["rows"][:1]] + result["rows"][1:]
    table = runpy.run_path(str(MAKE))["TABLES"]["gaia-directions"](result | {"rows": rows})
    assert "| GAIA | means | 0 of 3 | - | - |" in table


def test_attributes_of_digits():
    source = open_source("digits", split="held-out")
    found = gaia.strokes(source)
    assert found.names == ("loop", "wide", "hollow")
    assert (found.values[source.labels == 8, 0] == 1).all()
    assert found.values[:, 1].mean() == pytest.approx(0.5, abs=0.01)
    zeros, ones = (found.values[source.labels == digit, 1:].mean(0) for digit in (0, 1))
    assert zeros.min() > 0.7 > 0.3 > ones.max()
