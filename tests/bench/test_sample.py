import json

import pytest
import torch

from bench import sample
from bench.eager import plain
from fastgan.config import override
from fastgan.networks import build
from fastgan.presets import preset


def small(name):
    settings = (
        "network.width=4",
        "training.batch_size=4",
        "training.device=cpu",
        "latent.refine_steps=2",
        "latent.step_size=0.05",
    )
    return override(preset(name), settings)


@pytest.mark.parametrize("name", ["cifar10-wgan-qua", "digits-cdcgan-qua"])
def test_the_published_loop_gives_our_images(name):
    """Networks without spectral norm, whose vectors in torch's own layers start elsewhere."""
    config = small(name)
    labels = torch.arange(4) if config.network.classes else None
    z = torch.randn(4, config.latent.dim)
    torch.manual_seed(0)
    ours = sample._ours(*(network.eval() for network in build(config)), z, labels, config, torch.float32)
    torch.manual_seed(0)
    theirs = sample.published(*(plain(network.eval()) for network in build(config)), z, labels, config)
    unrefined = build(config)[0].eval()
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, unrefined(z) if labels is None else unrefined(z, labels), atol=1e-3)


def test_needed_work_is_two_forwards_an_iteration_and_the_images():
    config = small("cifar10-sngan-cnn-qua")
    generator, discriminator = sample.flop_of_networks(config)
    assert sample.needed_flop(config) == 5 * generator + 4 * discriminator


def test_the_command_measures_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "preset", small)
    sample.main("cifar10-sngan-cnn-qua", batch_size=2, refine_steps=1, turns=1, turn_seconds=0.01, json=tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["speedup"].keys() == {"fp32", "bf16"}
    assert all(ratio > 0 for ratio in found["speedup"].values())
    assert found["images_per_second"]["eager"] == pytest.approx(2 / found["seconds"]["eager"])
