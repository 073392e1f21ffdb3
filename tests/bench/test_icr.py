"""The experiments of docs/icr.md, played small."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import TINY

from bench import experiments, icr
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.presets import preset

MAKE = Path(__file__).parents[2] / "docs" / "make_icr.py"
SMALL = (*TINY, "training.steps=2", "training.sample_every=0")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Presets of two rounds."""
    monkeypatch.setattr(experiments, "preset", lambda name: override(preset(name), SMALL))


def played(command, name, tmp_path, *arguments, num=40, **options):
    """The experiment's result, and its table."""
    command(*arguments, num=num, runs=tmp_path / "runs", out=tmp_path, **options)
    result = json.loads((tmp_path / f"{name}.json").read_text())
    return result, runpy.run_path(str(MAKE))["TABLES"][name](result)


def test_methods_and_what_they_cost(tmp_path, monkeypatch):
    monkeypatch.setattr(icr, "METHODS", {name: icr.METHODS[name] for name in ("baseline", "ICR")})
    result, table = played(icr.digits, "icr-digits", tmp_path, (1,))
    assert [(row["method"], row["seed"]) for row in result["rows"]] == [("baseline", 1), ("ICR", 1)]
    assert 1.5 < result["costs"]["ICR"]["gflop"] / result["costs"]["baseline"]["gflop"] < 3
    assert result["costs"]["ICR"]["seconds"] > 0
    assert "| ICR |" in table


def test_artefacts_are_counted_and_drawn(tmp_path):
    options = {"settings": ("terms.r1.gamma=1",), "pictures": tmp_path}
    result, table = played(icr.artefacts, "icr-artefacts", tmp_path, (0,), **options)
    assert [row["method"] for row in result["rows"]] == ["baseline", "CR, shifts", "CR", "bCR"]
    assert result["detector"]["true_positives"] > 0.5 > 0.1 > result["detector"]["false_positives"]
    assert all(isinstance(row["gain"], float) for row in result["rows"])
    assert "| bCR |" in table
    assert "gain" in table.splitlines()[2]
    with Image.open(tmp_path / "icr-artefacts.png") as image:
        assert image.width == 16 * 18 + 2
    kept = experiments.load_run(next((tmp_path / "runs").glob("*-terms.bcr*"))).config.terms
    assert (kept["bcr"].policy, kept["bcr"].real, kept["bcr"].fake) == ("cutout", 10, 10)
    assert kept["r1"].gamma == 1


@pytest.mark.parametrize(("policy", "found"), [("large-cutout", 12), ("covering-cutout", 12), ("white-cutout", 8)])
def test_artefacts_of_another_policy(tmp_path, policy, found):
    options = {"settings": (), "policy": policy, "weight": 3.0, "pictures": tmp_path}
    result, _ = played(icr.artefacts, "icr-artefacts", tmp_path, (0,), **options)
    kept = [experiments.load_run(run).config.terms["cr"] for run in (tmp_path / "runs").glob("*-terms.cr*")]
    assert {(term.policy, term.weight) for term in kept} == {(policy, 3), ("shift", 3)}
    assert result["detector"]["cutout"] == found
    with pytest.raises(UserError, match="cuts nothing out"):
        icr.artefacts(policy="shift", runs=tmp_path / "runs", out=tmp_path)


def test_the_generators_half_of_zcr_is_swept(tmp_path):
    options = {"settings": ("network.family=wgan-cnn",), "pictures": tmp_path}
    result, table = played(icr.sweep, "icr-sweep", tmp_path, (0.5,), 0.2, 30.0, (0,), 16, 2, **options)
    assert [row["l_gen"] for row in result["rows"]] == [None, 0.5]
    kept = experiments.load_run(next((tmp_path / "runs").glob("digits-zcr-*"))).config
    terms = kept.terms
    assert kept.network.family == "wgan-cnn"
    assert (terms["zcr"].weight, terms["zcr"].noise) == (30, 0.2)
    assert (terms["zcr_diversity"].weight, terms["zcr_diversity"].noise) == (0.5, 0.2)
    assert "| no zCR |" in table
    assert "| 0.5 |" in table
    with Image.open(tmp_path / "icr-sweep.png") as image:
        assert image.width == 16 * 18 + 2


def test_a_folder_of_images(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for number in range(64):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number}.png")
    picture = tmp_path / "picture.png"
    monkeypatch.setattr(icr, "METHODS", {name: icr.METHODS[name] for name in ("baseline", "ICR")})
    monkeypatch.setattr(experiments, "preset", lambda name: override(preset(name), [*SMALL, "data.resolution=32"]))
    result, table = played(icr.emoji, "icr-emoji64", tmp_path, tmp_path / "data", (0,), 2, num=64, picture=picture)
    assert [row["method"] for row in result["rows"]] == ["baseline", "ICR"]
    halves, untrained = result["bounds"].values()
    assert 0 < halves["fd"] < untrained["fd"] / 10
    assert halves["coverage"] > 0.9 > 0.1 > untrained["coverage"]
    assert len(list((tmp_path / "runs").glob("real-random-*.npz"))) == 1
    assert "| ICR |" in table
    assert "±" not in table
    with Image.open(picture) as image:
        assert image.width == 12 * 34 + 2


def test_distance_of_two_images():
    images = torch.cat([torch.zeros(3, 1, 4, 4), torch.full((3, 1, 4, 4), 0.5)])
    assert icr.apart(images) == pytest.approx(0.5)
    assert icr.apart(torch.zeros(7, 1, 4, 4)) == 0
