"""A run that is killed again and again, in the middle of a checkpoint too, ends as if nobody had touched it."""

import os
import random
import signal
import subprocess
import sys
import time

import torch

from fastgan.training import checkpoint, telemetry
from fastgan.training.folder import Folder

ROUNDS = 120
SETTINGS = (
    "data.resolution=16", "network.width=4", "latent.dim=8", "training.batch_size=16", "training.log_every=2",
    "training.sample_every=25", "training.checkpoint_every=7", "terms.r1.every=3", "data.flip=true", "training.n_dis=2",
    "training.accumulate=2", "latent.reuse=true", "latent.keep_best=true", "generator.warmup=20", f"training.steps={ROUNDS}",
)  # fmt: skip
DIES_WHILE_SAVING = """
import os, signal, sys, torch
from fastgan.cli import main
save = torch.save
def save_half(state, file):
    save(state, file)
    if state["round"] >= int(os.environ["DIE_AT"]):
        file.flush()
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save_half
main()
"""


def start(folder, *arguments, program=("-m", "fastgan"), **environment):
    command = [sys.executable, *program, "train", *arguments, "--run-dir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment)


def finish(process):
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output
    return output


def kill_after(process, metrics, rounds, pause):
    """SIGKILL some milliseconds after the record of that round was written."""
    while not metrics.exists() or metrics.read_text().count("\n") < rounds // 2:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.002)
    time.sleep(pause)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def leaves(node, path=""):
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(node, list | tuple):
        return {k: v for i, value in enumerate(node) for k, v in leaves(value, f"{path}/{i}").items()}
    return {path: node}


def without_timings(records):
    return [{name: value for name, value in record.items() if name not in telemetry.TIMINGS} for record in records]


def test_five_kills_change_nothing(tmp_path):
    whole, killed = Folder(tmp_path / "whole"), Folder(tmp_path / "killed")
    finish(start(whole.path, "--set", *SETTINGS))

    moments = [(random.randint(20 * i + 1, 20 * i + 18), random.uniform(0, 0.02)) for i in range(4)]
    print("killed after rounds (and seconds)", moments)  # shown where the test fails
    kill_after(start(killed.path, "--set", *SETTINGS), killed.metrics, *moments[0])
    for moment in moments[1:]:
        kill_after(start(killed.path, "--resume"), killed.metrics, *moment)

    before = [p.name for p in checkpoint.listing(killed.checkpoints)]
    dying = start(killed.path, "--resume", program=("-c", DIES_WHILE_SAVING), DIE_AT="90")
    dying.communicate(timeout=120)
    assert dying.returncode == -signal.SIGKILL
    assert list(killed.checkpoints.glob("*.partial"))
    assert [p.name for p in checkpoint.listing(killed.checkpoints)] != before

    assert "goes on from round" in finish(start(killed.path, "--resume"))
    assert not list(killed.checkpoints.glob("*.partial"))

    expected, found = (leaves(checkpoint.load(folder.newest_checkpoint())) for folder in (whole, killed))
    assert expected.keys() == found.keys()
    different = [
        path
        for path, value in expected.items()
        if not (torch.equal(value, found[path]) if isinstance(value, torch.Tensor) else value == found[path])
    ]
    assert not different
    assert without_timings(telemetry.read(whole.metrics)) == without_timings(telemetry.read(killed.metrics))
    assert len(telemetry.read(whole.metrics)) == ROUNDS // 2
    for picture in whole.samples.iterdir():
        assert picture.read_bytes() == (killed.samples / picture.name).read_bytes()
