"""The experiments of docs/advlatgan.md, played small."""

import json
import runpy
from pathlib import Path

import pytest
from toys import TINY

from bench import advlatgan, experiments
from fastgan.config import override
from fastgan.presets import preset

MAKE = Path(__file__).parents[2] / "docs" / "make_advlatgan.py"


@pytest.fixture
def small(monkeypatch):
    """Presets of two rounds."""

    def tiny(name):
        points = ("training.steps=2", "network.width=8", "training.batch_size=8", "training.checkpoint_every=1")
        images = (*TINY, "training.steps=2", "training.checkpoint_every=1", "training.sample_every=0")
        return override(preset(name), points if name.startswith(("grid", "ring")) else images)

    monkeypatch.setattr(experiments, "preset", tiny)


def test_every_sampler_is_tried_on_points(small, tmp_path, monkeypatch):
    monkeypatch.setattr(advlatgan, "TOY_SAMPLERS", {name: advlatgan.TOY_SAMPLERS[name] for name in ("plain", "-z", "DOT")})
    advlatgan.toys((0,), 64, tmp_path / "runs", tmp_path)
    found = json.loads((tmp_path / "toys.json").read_text())
    assert len(found["rows"]) == 4 * 3
    assert {row["cost"]["backward"] for row in found["rows"] if row["sampler"] == "-z"} == {20}
    table = runpy.run_path(str(MAKE))["toys"](found)
    assert table.count("| -z |") == 2


def test_tables_of_digits_and_of_the_sweep(small, tmp_path, monkeypatch):
    monkeypatch.setattr(advlatgan, "DIGITS_Z", {"1 x 0.1": {"refine_steps": 1, "step_size": 0.1}})
    monkeypatch.setattr(advlatgan, "BACKBONES", {"SN cnn": ("digits-sngan", "digits-sngan-qua")})
    monkeypatch.setattr(advlatgan, "CONDITIONAL", {"-div": "digits-cdcgan-div"})
    advlatgan.digits((0,), 40, tmp_path / "runs", tmp_path, ("SN cnn",))
    advlatgan.conditional((0,), 40, tmp_path / "runs", tmp_path)
    advlatgan.sweep(0, (0, 1), (0.1, 0.2), 40, tmp_path / "runs", tmp_path)
    tables, results = runpy.run_path(str(MAKE)), {}
    for name in ("digits", "conditional", "sweep"):
        results[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(results["digits"]["rows"]) == 2 * 2
    assert len(results["conditional"]["rows"]) == 2
    assert len(results["sweep"]["rows"]) == 2 * 3
    assert "| SN cnn | -qua | -z 1 x 0.1 |" in tables["digits"](results["digits"])
    assert "| -div | plain |" in tables["conditional"](results["conditional"])
    assert "eps 0.2" in tables["sweep"](results["sweep"])


def test_the_plane_is_measured_and_drawn(small, tmp_path):
    advlatgan.plane(0, 1, 0.1, tmp_path / "runs", tmp_path, tmp_path / "plane.png")
    found = json.loads((tmp_path / "plane.json").read_text())
    assert len(found["by_density"]) == 10
    assert (tmp_path / "plane.png").stat().st_size > 10_000
    assert "| refined |" in runpy.run_path(str(MAKE))["plane"](found)
