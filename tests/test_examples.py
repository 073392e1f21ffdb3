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
