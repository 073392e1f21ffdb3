"""Processes that decode: they work, leave Ctrl-C to their owner, and go when it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastgan.data.processes import cores, processes

OWNER = """
import os, time
from fastgan.data.processes import processes
if __name__ == "__main__":
    print(processes(1).submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""

STARTING = """
import os, signal, sys, time
from fastgan.data.processes import processes
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it puts in the background
    pool = processes(2)
    try:
        for _ in range(2):
            pool.submit(os.getpid)
        print("begun", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    pool.shutdown(cancel_futures=True)
"""


def test_there_are_as_many_cores_as_may_be_used():
    assert cores() == len(os.sched_getaffinity(0))


def test_they_outlive_ctrl_c():
    with processes(1) as pool:
        pid = pool.submit(os.getpid).result()
        assert pid != os.getpid()
        os.kill(pid, signal.SIGINT)
        assert pool.submit(os.getpid).result() == pid


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3])
def test_ctrl_c_while_they_start_leaves_no_word(tmp_path, after):
    """A terminal sends it to all processes of the group."""
    script = tmp_path / "owner.py"
    script.write_text(STARTING)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True, "text": True}
    owner = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": os.getcwd()}, **options)
    assert owner.stdout.readline() == "begun\n"
    time.sleep(after)
    os.killpg(owner.pid, signal.SIGINT)
    _, said = owner.communicate(timeout=60)
    assert said == "interrupted\n"


def test_they_end_with_their_owner(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()})
    helper = Path(f"/proc/{int(owner.stdout.readline())}")
    assert helper.exists()
    owner.kill()
    owner.communicate()
    until = time.monotonic() + 20
    while helper.exists() and " Z " not in (helper / "stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
