"""The examples in docs/examples run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def test_other_peoples_networks_are_refined():
    run = subprocess.run([sys.executable, EXAMPLES / "own_networks.py", "30"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"plain: [\d.]+ % \(\d of 8 modes\)\nrefined: [\d.]+ % \(\d of 8 modes\)\n", run.stdout)


def test_somebody_elses_generator_is_inverted():
    run = subprocess.run([sys.executable, EXAMPLES / "own_inversion.py", "2"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = dict(re.findall(r"(\w+): error (\S+), length of the latents [\d.]+\n", run.stdout))
    assert list(found) == ["drawn", "unseen", "noise"]
    assert float(found["drawn"]) < float(found["unseen"]) < float(found["noise"])
