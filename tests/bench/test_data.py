"""The loaders' benchmark: each goes through the images, and the result is whole."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent


def test_it_compares_the_loaders_and_feeds_a_consumer(tmp_path):
    command = [sys.executable, "-m", "bench.data", "--images", "24", "--passes", "1", "--batch-size", "8", "--workers", "1"]
    command += ["--seconds", "1"]
    done = subprocess.run([*command, "--json", tmp_path / "result.json"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["images"], result["workers"]) == (24, 1)
    rates = result["images_per_second"]
    assert list(rates) == ["ours", "shards", "pil", "decode_jpeg"]
    for name, states in rates.items():
        assert name in done.stdout
        for state in ("cold", "warm"):
            assert len(states[state]) == 1
            assert states[state][0] > 0
            for ours in ("ours", "shards"):
                assert np.isclose(result["ratio"][ours][state][name], rates[ours][state][0] / states[state][0])
    assert list(result["consumer"]) == ["whole", "128x128"]
    for found in result["consumer"].values():
        assert found["stream_images_per_second"] > 0
        assert 0 <= found["waiting"] < 1
        assert f"gives {found['stream_images_per_second']:.0f} images/s" in " ".join(done.stdout.split())


def test_the_images_are_about_what_photographs_are(tmp_path):
    size = runpy.run_path(str(ROOT / "bench" / "data.py"))["make_images"](tmp_path, 25)
    paths = sorted(tmp_path.rglob("*.jpg"))
    assert len(paths) == 25
    assert len({path.read_bytes() for path in paths}) == 25
    assert 30_000 < size < 90_000
    for path in paths:
        width, height = Image.open(path).size
        assert 380 <= width <= 420
        assert 480 <= height <= 520
        assert np.asarray(Image.open(path)).std() > 15
