import json
import time

import pytest

from fastgan.training import telemetry
from fastgan.training.folder import Folder
from fastgan.training.telemetry import Telemetry


def test_the_share_of_an_interval_in_which_data_was_waited_for(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.create()
    with Telemetry(folder, 0, 4, quiet=True) as log:
        log.begin_clock(0, waited=7.0)  # before the clock began
        time.sleep(0.2)
        log.record(2, 32, {"D/loss": 1.0}, waited=7.1)
        time.sleep(0.05)
        log.record(4, 64, {"D/loss": 1.0}, waited=7.1)
    first, second = telemetry.read(folder.metrics)
    assert 0.05 < first["data_wait"] <= 0.5
    assert first["data_wait"] == pytest.approx(0.1 / (32 / first["images_per_second"]), rel=0.05)
    assert second["data_wait"] == 0
    assert "data_wait" in telemetry.TIMINGS
    assert len([json.loads(line) for line in folder.metrics.read_text().splitlines()]) == 2


def test_the_time_of_an_evaluation_is_none_of_the_interval_s(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.create()
    with Telemetry(folder, 0, 4, quiet=True) as log:
        log.begin_clock(0)
        time.sleep(0.3)
        log.judged(2, 32, {"evaluation/fid": 3.0}, seconds=0.3)
        time.sleep(0.05)
        log.record(2, 32, {"D/loss": 1.0})
    judged, trained = telemetry.read(folder.metrics)
    assert (judged["round"], judged["images"], judged["evaluation/fid"]) == (2, 32, 3.0)
    assert trained["images_per_second"] > 32 / 0.3
