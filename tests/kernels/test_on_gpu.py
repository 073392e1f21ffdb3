"""On a machine with CUDA, the tests of the kernels once more, with compiled kernels in the place of interpreted ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FILES = sorted(path.name for path in HERE.glob("test_*.py") if path.name not in (Path(__file__).name, "test_ahead_of_time.py"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", FILES)
def test_compiled_kernels_pass_what_interpreted_ones_do(name):
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu and not slow", str(HERE / name)]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
