"""Kept memory, in processes of their own: what is told to the C library can't be taken back."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from fastgan.engine import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else None
def use():
    for megabytes in (40, 3, 80, 20):
        torch.ones(megabytes << 20, dtype=torch.uint8)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_memory_is_asked_of_the_system_once():
    def run(how):
        answer = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
        told, faults = answer.stdout.split()
        return told, int(faults)

    told, faults = run("keep")
    assert told == "True"
    assert faults < 1000
    assert run("leave")[1] > 10 * faults
