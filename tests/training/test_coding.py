"""Runs of autoencoders, as commands and functions take them."""

import pytest
import torch

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.presets import preset
from fastgan.training.coding import drawings, encoded, prior_of, training_images
from fastgan.training.export import export, load_generator

SMALL = (
    "data.resolution=16", "network.width=2", "network.content=4", "network.style=3", "network.blocks=1",
    "training.batch_size=10", "training.log_every=1", "training.checkpoint_every=2", "training.precision=fp32",
    "training.sample_every=2",
)  # fmt: skip


@pytest.fixture(scope="module", params=["gaia-digits", "digits-autoencoder"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coding") / "run"
    return fastgan.train(override(preset(request.param), SMALL), folder, 4, quiet=True)


def test_samples_are_mixtures_of_training_images(run):
    prior = prior_of(run)
    assert prior.codes.shape == (1442, 7)
    images = fastgan.sample(run, 5)
    assert images.shape == (5, 1, 16, 16)
    assert torch.equal(fastgan.sample(run, 3, batch_size=3), images[:3]) or torch.allclose(
        fastgan.sample(run, 3), images[:3], atol=1e-6
    )
    with training_images(run, 100) as batches:
        first = next(batches)
        assert first.shape == (64, 1, 16, 16)
        assert [len(first), *map(len, batches)] == [64, 36]
    torch.testing.assert_close(encoded(run, [first]), prior.codes[:64])


def test_refined_samples_are_drawn_again_better(run):
    plain, refined = (fastgan.sample(run, 16, refine_steps=steps, step_size=0.02) for steps in (0, 5))
    assert run.discriminator(refined).mean() > run.discriminator(plain).mean()
    assert run.discriminator(plain).max() <= 0


def test_what_has_no_meaning_is_refused(run):
    with pytest.raises(UserError, match="truncation cuts a normal prior; this run's is mixtures"):
        fastgan.sample(run, 2, truncation=0.5)
    with pytest.raises(UserError, match="no batch norm"):
        fastgan.sample(run, 2, standing_statistics=2)


def test_drawings(run):
    with training_images(run, 4) as batches:
        images = next(batches)
    discriminator = run.game.played().get("discriminator")
    found = drawings(run.game.generator, discriminator, images)
    decoder = run.generator
    z = decoder.encode(images)
    torch.testing.assert_close(found["G(mixture)"], decoder((z + z.roll(-1, 0)) / 2))
    if discriminator is None:
        assert list(found) == ["x", "G(x)", "G(mixture)"]
    else:
        assert list(found) == ["x", "D(x)", "G(x)", "D(G(x))", "G(mixture)", "D(G(mixture))"]
        torch.testing.assert_close(found["D(G(x))"], discriminator(found["G(x)"]))
    assert (run.folder.samples / "00000004.png").exists()


def test_an_exported_decoder(run, tmp_path):
    pytest.importorskip("safetensors")
    export(run, tmp_path / "decoder.safetensors")
    z = torch.randn(3, 7)
    torch.testing.assert_close(load_generator(tmp_path / "decoder.safetensors")(z), run.ema_generator(z))


def test_a_resumed_run_is_the_undisturbed_one(run, tmp_path):
    """Bit for bit, through a checkpoint."""
    config = override(run.config, ["training.steps=2"])
    fastgan.train(config, tmp_path / "run", quiet=True)
    resumed = fastgan.train(override(run.config, ["training.steps=4"]), tmp_path / "run", resume=True, quiet=True)
    one, other = run.game.state_dict(), resumed.game.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    average = resumed.average.state_dict()
    assert all(torch.equal(value, average[name]) for name, value in run.average.state_dict().items())
