"""Modes of stacked digits, counted on stacks whose classes are known."""

import dataclasses
import math

import pytest
import torch

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.data import Stream, open_source
from fastgan.presets import preset
from fastgan.training import evaluate
from fastgan.training.assess import METRICS, Judged, digits_judge, suitable_metrics
from fastgan.training.sampling import as_bytes

METRIC = METRICS["modes-stacked-digits"]


def judged(run, stacks):
    """What the metric says of these images, floats in [-1, 1] (B, 3, 8, 8)."""
    return METRIC.judge(Judged(run, None, samples=as_bytes(stacks)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = override(preset("stacked-digits-r3gan"), ["network.width=4", "latent.dim=4", "training.batch_size=8"])
    return fastgan.train(config, tmp_path_factory.mktemp("stacked") / "run", steps=1, quiet=True)


@pytest.fixture(scope="module")
def digits(run):
    """A training image of each digit, (10, 8, 8), that the judge takes for what it is."""
    source = open_source("digits")
    stream = Stream(source, resolution=8, channels=1, batch_size=len(source), seed=0)
    batch = next(stream)
    stream.close()
    seen = digits_judge(run.path, 8).look(batch["images"])
    right = [
        int(torch.nonzero((batch["labels"] == digit) & (seen.predictions == digit) & (seen.confidences > 0.95))[0])
        for digit in range(10)
    ]
    return batch["images"][right, 0]


def test_stacks_are_counted_by_their_three_digits(run, digits):
    names = ["000", "123", "321", "999", "123", "123"]
    stacks = torch.stack([digits[[int(digit) for digit in name]] for name in names])
    found = judged(run, stacks)
    assert (found["value"], found["of"], found["num"]) == (4, 1000, 6)
    shares = [1 / 6, 1 / 6, 1 / 6, 3 / 6]
    assert found["kl"] == pytest.approx(sum(p * math.log(1000 * p) for p in shares))
    assert (found["sure_modes"], found["sure"]) == (4, 1)


def test_noise_is_told_from_stacks(run):
    noise = 2 * torch.rand(600, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    source = open_source("stacked-digits")
    stacks = torch.stack([torch.tensor(source.read(row)) for row in range(600)]).permute(0, 3, 1, 2) / 127.5 - 1
    of_noise, of_stacks = (judged(run, images) for images in (noise, stacks))
    assert of_noise["sure"] < 0.1 < 0.8 < of_stacks["sure"]
    assert of_noise["sure_modes"] < of_noise["value"]
    assert of_stacks["value"] - len(set(source.labels[:600])) == pytest.approx(0, abs=6)
    assert of_stacks["fd"] < 2 < 10 < of_noise["fd"]


def test_a_run_on_stacked_digits_is_judged_so_by_itself(run):
    assert suitable_metrics(run) == ["modes-stacked-digits"]
    assert METRIC.num == 26_000
    found = evaluate(run, num=50)["metrics"]["modes-stacked-digits"]
    assert (found["num"], found["of"]) == (50, 1000)
    assert 1 <= found["value"] <= 50


def test_other_runs_are_not(run):
    for fields in ({"source": "digits"}, {"channels": 1}):
        other = dataclasses.replace(
            run, config=dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, **fields))
        )
        with pytest.raises(UserError, match="trained on stacked-digits in three channels"):
            evaluate(other, ["modes-stacked-digits"], num=2)
