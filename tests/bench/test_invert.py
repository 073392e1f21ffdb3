"""`python -m bench.invert`: the baseline does what it is said to do, and the command writes what it says."""

import json
import subprocess
import sys

import pytest
import torch

from bench.eager import plain
from bench.invert import published
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.latent import Prior
from fastgan.networks import build
from fastgan.presets import preset


def test_the_published_loop_inverts_and_fills_every_gradient():
    config = override(preset("digits-sngan-qua"), ["data.resolution=16", "network.width=2", "latent.dim=8"])
    torch.manual_seed(0)
    generator = build(config)[0].eval()
    with torch.no_grad():
        images = generator(Prior(8)(Draw(1, "x", 0, torch.arange(16))))
    network = plain(generator).eval()
    errors = []
    for steps in (0, 60):
        z = published(network, images.contiguous(), None, 8, steps)
        with torch.no_grad():
            errors.append((network(z) - images).square().mean().item())
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert errors[1] < 0.05 * errors[0]


@pytest.mark.slow
def test_command(tmp_path):
    command = [sys.executable, "-m", "bench.invert", "--turns", "1", "--turn-seconds", "0.05", "--iterations", "5"]
    run = subprocess.run([*command, "--json", str(tmp_path / "i.json")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "i.json").read_text())
    assert set(result["speedup"]) == {"fp32", "bf16", "fp32 lbfgs"}
    assert all(value > 0 for value in result["milliseconds"].values())
    assert len(result["milliseconds"]) == 8
    assert "an image at batch 1 costs" in run.stdout
