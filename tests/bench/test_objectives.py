"""bench.objectives: what is recorded, and that no objective has broken since."""

import json
from pathlib import Path

import pytest

from bench.objectives import NAMES, RESULTS, bounds, main, measure
from fastgan.checked import UserError

RECORDED = json.loads((Path(__file__).parent.parent.parent / RESULTS).read_text())


def test_every_preset_is_recorded_from_two_seeds():
    assert [(row["preset"], row["seed"]) for row in RECORDED] == [(name, seed) for name in NAMES for seed in (0, 1)]


def test_bounds_are_half_of_the_worse_seed():
    rows = [{"preset": "a", "good": 0.4, "modes": 25}, {"preset": "a", "good": 0.3, "modes": 21}]
    assert bounds(rows) == {"a": (0.15, 10)}


def test_no_objective_is_recorded_broken():
    """An untrained generator draws one blob, with good samples at a mode or two: 1 to 3 % in the worst case."""
    assert min(row["good"] for row in RECORDED) > 0.05
    assert min(row["modes"] for row in RECORDED) >= 8


def test_unknown_presets_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean 'grid25-mmd'"):
        main(("grid25-mmdd",), runs=tmp_path, out=tmp_path / "x.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_objective_holds_its_bound(name, tmp_path):
    found, (good, modes) = measure(name, 0, tmp_path), bounds(RECORDED)[name]
    assert found["good"] >= good
    assert found["modes"] >= modes
