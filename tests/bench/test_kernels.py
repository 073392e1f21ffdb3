"""The kernels' benchmark: bytes by hand, and a whole result as JSON and picture."""

import json
import subprocess
import sys

import pytest

from bench import kernels
from fastgan.kernels.catalog import OPERATIONS


def test_bytes_counted_by_hand():
    operation = OPERATIONS["consistency"]
    row = kernels.counted(operation, operation.examples[0])
    elements = 64 * 3 * 64 * 64
    assert row["kernel_bytes"] == 4 * elements * (2 + 4)
    # subtract 3, square 2, mean 1; backward: mean 1, square 2 + 2 + 3, b's sign 2; and a few scalars
    assert row["eager_bytes"] / (4 * elements) == pytest.approx(16, rel=1e-4)


def test_command(tmp_path):
    files = ["--json", str(tmp_path / "k.json"), "--plot", str(tmp_path / "k.png")]
    command = [
        sys.executable,
        "-m",
        "bench.kernels",
        "--only",
        "consistency",
        "ifgsm",
        "--turns",
        "2",
        "--limit-mib",
        "1",
        *files,
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "k.json").read_text())
    examples = [str(example) for name in ("consistency", "ifgsm") for example in OPERATIONS[name].examples]
    assert [row["example"] for row in result["rows"]] == examples
    for row in result["rows"]:
        assert ("over_eager" in row) == (row["eager_bytes"] <= 2**20)
        assert 0 < row["share_of_eager_bytes"] < 1
    assert (tmp_path / "k.png").stat().st_size > 10_000


def test_an_unknown_operation_is_named():
    run = subprocess.run([sys.executable, "-m", "bench.kernels", "--only", "konsistency"], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.strip().startswith("bench.kernels: no operation konsistency; there are consistency, ")
