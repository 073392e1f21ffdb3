"""The whole plan: its fields, its tables, its mistakes."""

import json
import math
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from fastgan.checked import UserError
from fastgan.config import override
from fastgan.planning import check_picture, draw, lines, plan
from fastgan.planning.estimate import UNVERIFIED, default_decode_rate
from fastgan.planning.report import at_most
from fastgan.presets import PRESETS, preset

QUICK = {"digits-cdcgan-qua", "ring8-qua", "cifar10-dcgan-qua", "stl10-wgan-gp"}


@pytest.fixture(scope="module")
def found():
    return plan(override(preset("digits-sngan-qua"), ["training.batch_size=128"]), 4, "h100", price=2.5)


def test_a_plan_as_json(found):
    tree = json.loads(json.dumps(found.as_dict()))
    assert tree["note"] == UNVERIFIED
    assert (tree["preset"], tree["gpu"], tree["precision"]) == ("digits-sngan-qua", "H100 SXM 80 GB", "bf16")
    assert tree["flops"] == pytest.approx(sum(count for phase in tree["flops_by_phase"].values() for count in phase.values()))
    assert set(tree["flops_by_phase"]) >= {"D", "G"}
    assert 0 < tree["kernel_bytes"] < tree["bytes"]
    assert tree["run"]["gpus"] == 4
    assert [row["gpu"][:4] for row in tree["gpus"]] == ["A100", "H100", "H200", "B200"]
    assert [row["zero_stage"] for row in tree["memory"]] == [0, 1, 2, 3]
    assert set(tree["takes_over"]) == {"launches", "communication", "data"}


def test_tables_go_from_1_to_512_in_order(found):
    assert [run.gpus for run in found.weak] == [2**power for power in range(10)]
    assert [run.gpus for run in found.strong] == [2**power for power in range(8)]  # one image a GPU at 128
    for slower, faster in pairwise(found.strong):
        assert faster.device_seconds < slower.device_seconds
        assert faster.memory <= slower.memory
        assert faster.communication_seconds > slower.communication_seconds
    for smaller, larger in pairwise(found.weak):
        assert larger.images_per_second > smaller.images_per_second
        assert larger.device_seconds == smaller.device_seconds
        assert larger.cost > smaller.cost
    by_speed = [run.device_seconds for _, run, _ in found.others]
    assert by_speed == sorted(by_speed, reverse=True)


def test_what_is_printed_and_drawn(found, tmp_path):
    text = "\n".join(line if isinstance(line, str) else f"{line.title}" for line in lines(found))
    assert "generator 0.31 M parameters, discriminator 0.18 M parameters" in text
    assert text.count(UNVERIFIED) >= 5
    tables = {line.title: line for line in lines(found) if not isinstance(line, str)}
    memory = next(table for title, table in tables.items() if title and title.startswith("GB of the H100"))
    columns = {column.header: list(column.cells) for column in memory.columns}
    peaks = found.work.peaks(found.here.micro_batch, found.here.accumulate)
    assert columns["discriminator's turn"] == [f"{peaks['discriminator'] / 1e9:.2f}"] * 4
    assert "fullest of 80" in columns
    draw(found, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_drawn_or_held_in_memory_waits_for_no_decoding(tmp_path):
    points = plan(preset("grid25"), 1, "h100", numbers=[1])
    assert points.machine.decode_rate is None
    assert points.here.bound == "launches"
    text = "\n".join(line for line in lines(points) if isinstance(line, str))
    assert "1 GPU x 1 micro-batch x" in text
    assert "1 GPUs" not in "".join(str(line.title) for line in lines(points) if not isinstance(line, str))
    assert at_most(points.memory[0][-1]) == "over 2,097,151"
    draw(points, tmp_path / "points.svg")
    told = plan(preset("grid25"), 1, "h100", decode_rate=100.0, numbers=[1])
    assert told.here.bound == "data"
    assert default_decode_rate(preset("digits-sngan")) is None
    assert default_decode_rate(preset("imagenet128-biggan-2048")) == 10_000


def test_a_picture_s_name_is_looked_at_first():
    for name in ("plan.xyz", "plan"):
        with pytest.raises(UserError, match=r"--plot: plan.* must end in \.png"):
            check_picture(Path(name))
    check_picture(Path("plan.SVG"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"gpus": 0}, "--gpus must be at least 1, not 0"),
        ({"gpus": 3}, "does not divide into 1 x 3 equal micro-batches"),
        ({"gpu": "h1000"}, "did you mean 'h100'"),
        ({"zero_stage": 4}, "--zero-stage must be 0, 1, 2 or 3, not 4"),
        ({"efficiency": 0.0}, "--efficiency must be above 0"),
        ({"efficiency": math.nan}, "--efficiency must be above 0"),
        ({"interconnect": -1.0}, "--interconnect must be above 0"),
        ({"decode_rate": 0.0}, "--decode-rate must be above 0"),
        ({"price": -1.0}, "--price must be at least 0"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    with pytest.raises(UserError, match=said) as caught:
        plan(preset("digits-sngan-qua"), **{"gpus": 2, "gpu": "h100", **arguments})
    assert "\n" not in str(caught.value)


def test_a_network_that_can_t_be_and_a_format_that_the_gpu_lacks():
    with pytest.raises(UserError, match="sides of"):
        plan(override(preset("imagenet128-biggan-2048"), ["data.resolution=96"]), 2, "h100")
    with pytest.raises(UserError, match="does not multiply in"):
        plan(override(preset("digits-sngan"), ["training.precision=bf16"]), 2, "v100")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS])
def test_every_preset_can_be_planned(name):
    found = plan(preset(name), 2, "h100")
    assert found.here.fits
    assert 0 < found.here.mfu < found.machine.efficiency
    assert lines(found)


@pytest.mark.slow
def test_biggan_on_64_gpus_in_a_minute_and_8_gigabytes():
    began = time.perf_counter()
    code = (
        "import resource, sys; sys.argv = 'fastgan plan imagenet128-biggan-2048 --gpus 64 --gpu h100'.split();"
        "from fastgan.cli import main; main();"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "generator 70.43 M parameters, discriminator 87.98 M parameters" in done.stdout
    assert time.perf_counter() - began < 60
    assert int(done.stdout.split("peak")[-1]) < 8 * 2**20
