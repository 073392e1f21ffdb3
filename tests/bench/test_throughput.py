import json
import sys

import numpy as np
import pytest
import tyro
from toys import TINY

from bench import throughput
from fastgan.checked import UserError
from fastgan.cli import held, in_one_line
from fastgan.config import override
from fastgan.planning.work import Work
from fastgan.presets import preset


@pytest.fixture
def ran(monkeypatch, capsys):
    """Run the benchmark in this process; what it printed comes back."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench.throughput", *map(str, arguments)])
        tyro.cli(throughput.main)
        return capsys.readouterr().out

    return run


def test_it_measures_and_compares(ran, tmp_path):
    files = [tmp_path / "synthetic.json", tmp_path / "real.json"]
    trace = tmp_path / "trace.json"
    settings = ("--rounds", 3, "--warm-up", 1, "--set", *TINY, "training.precision=fp32")
    ran("digits-sngan-qua", "--json", files[0], "--trace", trace, *settings)
    shown = ran("digits-sngan-qua", "--data", "real", "--json", files[1], *settings)
    assert "images/s, median" in shown
    config = override(preset("digits-sngan-qua"), TINY)
    for path, data in zip(files, ("synthetic", "real"), strict=True):
        result = json.loads(path.read_text())
        assert (result["data"], result["batch_size"], result["rounds"], result["device"]) == (data, 16, 3, "cpu")
        lower, upper = result["images_per_second_quartiles"]
        assert 0 < lower <= result["images_per_second_median"] <= upper
        assert result["flop_a_round"] == Work(config, "fp32").total("flops", 16)
        assert result["share_of_roof"] == pytest.approx(result["flop_per_second"] / result["roof_flop_per_second"])
        assert result["peak_bytes"] > 2**26
    assert json.loads(files[0].read_text())["data_wait"] < 0.05
    assert 0 < json.loads(files[1].read_text())["data_wait"] < 1
    assert any("conv" in event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"])
    compared = ran("--compare", *files)
    assert "against the first" in compared
    assert "1.00x" in compared


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    for path, said in ((tmp_path / "none.json", "can't be read"), (tmp_path / "other.json", "no result of bench.throughput")):
        with pytest.raises(UserError, match=said):
            throughput.main(compare=(path,))
    (tmp_path / "part.json").write_text('{"images_per_second_median": 1.0}')
    with pytest.raises(UserError, match="preset is not there"):
        throughput.main(compare=(tmp_path / "part.json",))
    images = tmp_path / "images.npz"
    np.savez(images, images=np.zeros((64, 32, 32, 3), np.uint8), labels=np.arange(64) % 3)
    with pytest.raises(UserError, match=r"network\.classes is 10, but the images in .* have 3 classes"):
        throughput.main("cifar10-cdcgan", data="real", set=(("data.source=arrays", f"data.path={images}"),))
    with pytest.raises(UserError, match="does not divide"):
        throughput.main("digits-sngan-qua", set=(("training.batch_size=10", "training.accumulate=3"),))
    with pytest.raises(UserError, match="--roun") as caught:
        in_one_line(throughput.PROGRAM, lambda: tyro.cli(held(throughput.main), args=["--roun", "2"]))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--rounds must be at least 1"):
        throughput.main("digits-sngan-qua", rounds=0)
    with pytest.raises(UserError, match=r"set data\.path"):
        throughput.main("cifar10-sngan-cnn", data="real")
