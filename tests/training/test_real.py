"""The real images that a run's discriminator is calibrated with."""

import numpy as np
import pytest
import torch
from toys import TINY

import fastgan
from fastgan.config import override
from fastgan.data import DISTRIBUTIONS, DataError, Stream, open_source
from fastgan.training.folder import Folder
from fastgan.training.real import real_images
from fastgan.training.run import Run, _fresh


def untrained(tmp_path, preset, *assignments) -> Run:
    config = override(fastgan.preset(preset), [*assignments, "training.device=cpu"])
    return _fresh(Folder(tmp_path), config, torch.device("cpu"))


def test_digits_are_the_held_out_ones_each_once(tmp_path):
    run = untrained(tmp_path, "digits-cdcgan-qua", *TINY, "data.noise=0")
    images, labels = real_images(run, 10_000)
    assert images.shape == (355, 1, 16, 16)
    source = open_source("digits", split="held-out")
    stream = Stream(source, resolution=16, channels=1, batch_size=355, seed=9)
    expected = next(stream)
    stream.close()
    assert labels.bincount().tolist() == np.bincount(source.labels).tolist()
    assert sorted(images.flatten(1).sum(1).tolist()) == sorted(expected["images"].flatten(1).sum(1).tolist())
    few, _ = real_images(run, 70)
    assert torch.equal(few, images[:70])
    assert real_images(untrained(tmp_path, "digits-sngan-qua", *TINY), 5)[1] is None


def test_noise_is_on_them_as_in_training(tmp_path):
    plain, noisy = (real_images(untrained(tmp_path, "digits-sngan", *TINY, f"data.noise={noise}"), 20)[0] for noise in (0, 0.1))
    assert 0.03 < (noisy - plain).mean() < 0.07


def test_points_are_new(tmp_path):
    run = untrained(tmp_path, "ring8")
    points, labels = real_images(run, 30)
    assert labels is None
    trained, _ = DISTRIBUTIONS["ring8"].sample(run.config.seed, torch.arange(10_000))
    assert not (points[:, None] == trained).any()
    assert (points.norm(dim=1) - 2).abs().max() < 0.15


def test_data_without_a_held_out_part_gives_what_it_was_trained_on(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8))
    run = untrained(tmp_path, "digits-sngan", *TINY, "data.source=arrays", f"data.path={tmp_path / 'images.npy'}")
    assert len(real_images(run, 100)[0]) == 40
    (tmp_path / "images.npy").unlink()
    with pytest.raises(DataError):
        real_images(run, 100)
