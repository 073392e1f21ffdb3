"""Weights of BigGAN-PyTorch as runs: outputs, files, mistakes."""

import shutil

import numpy as np
import pytest
import torch
from biggan_pytorch import (
    CHUNK,
    CLASSES,
    EMBEDDING,
    SIDE,
    UP,
    WIDTH,
    Theirs,
    discriminator_weights,
    generator_weights,
    write,
)

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.training import converters


@pytest.mark.parametrize("deep", [False, True], ids=["biggan", "biggan-deep"])
def test_outputs_equal_theirs(tmp_path, deep):
    folder, weights = write(tmp_path / "weights", deep)
    run = converters.import_run("biggan-pytorch", folder, tmp_path / "run", ["training.precision=fp32"])
    network = run.config.network
    assert (network.family, network.width, network.classes) == ("biggan-deep" if deep else "biggan", WIDTH, CLASSES)
    assert (network.embedding, network.attention, run.config.data.resolution) == (EMBEDDING, (32,), SIDE)
    dim = run.config.latent.dim
    assert dim == (CHUNK if deep else CHUNK * len(UP))
    z, labels = torch.randn(4, dim, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 3, 4, 3])
    judge = Theirs(weights["D"], deep)
    with torch.no_grad():
        for generator, player in ((run.generator, "G"), (run.ema_generator, "G_ema")):
            theirs = Theirs(weights[player], deep).generate(z, labels)
            assert theirs.std() > 0.1
            torch.testing.assert_close(generator(z, labels), theirs, rtol=1e-4, atol=2e-5)
        scores = judge.judge(theirs, labels)
        assert scores.std() > 0.1
        torch.testing.assert_close(run.discriminator(theirs, labels), scores, rtol=1e-4, atol=1e-4 * scores.abs().max().item())


def test_every_way_to_name_a_checkpoint(tmp_path):
    folder, _ = write(tmp_path / "weights")
    write(folder, behind="_best0", G=generator_weights(False, seed=7))
    weights = {}
    for path in ("", "G.pth", "D.pth", "G_ema.pth", "G_best0.pth", "D_best0.pth", "G_ema_best0.pth"):
        run = converters.import_run("biggan-pytorch", folder / path, tmp_path / f"run{path}")
        weights.setdefault("best0" in path, []).append(run.generator.image.weight)
    for group in weights.values():
        assert all(torch.equal(weight, group[0]) for weight in group)
    assert not torch.equal(weights[True][0], weights[False][0])


def test_what_is_missing_is_made_up_for_where_it_can_be(tmp_path):
    z, labels = torch.randn(2, CHUNK * len(UP)), torch.tensor([1, 2])
    for missing, seed in (("G_ema", 0), ("G", 2)):
        folder, _ = write(tmp_path / missing, **{missing: None})
        run = converters.import_run("biggan-pytorch", folder, tmp_path / f"run {missing}")
        with torch.no_grad():
            theirs = Theirs(generator_weights(False, seed), False).generate(z, labels)
            for generator in (run.generator, run.ema_generator):
                torch.testing.assert_close(generator(z, labels), theirs, rtol=1e-4, atol=2e-5)


def test_names_from_under_data_parallel(tmp_path):
    wrapped = {f"module.{name}": value for name, value in generator_weights(False).items()}
    plain, _ = write(tmp_path / "plain")
    other, _ = write(tmp_path / "wrapped", G=wrapped)
    runs = [converters.import_run("biggan-pytorch", path, tmp_path / f"run {path.name}") for path in (plain, other)]
    for a, b in zip(*(run.game.state_dict().values() for run in runs), strict=True):
        assert torch.equal(a, b)


def test_the_run_samples_and_trains_on(tmp_path):
    folder, _ = write(tmp_path / "weights")
    images = torch.randint(0, 256, (40, 64, 64, 3), dtype=torch.uint8).numpy()
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(40) % CLASSES)
    settings = ["data.source=arrays", f"data.path={tmp_path / 'images.npz'}", "training.batch_size=4", "training.steps=2"]
    run = converters.import_run("biggan-pytorch", folder, tmp_path / "run", [*settings, "training.log_every=1"])
    assert (run.round, run.images) == (0, 0)
    plain = fastgan.sample(run, 5, truncation=0.5, labels=[2])
    assert plain.shape == (5, 3, 64, 64)
    assert not torch.equal(fastgan.sample(run, 5, truncation=0.5, labels=[2], standing_statistics=1), plain)
    before = run.ema_generator.image.weight.clone()
    resumed = fastgan.train(run.config, run.path, resume=True, quiet=True)
    assert (resumed.round, resumed.images) == (2, 8)
    moved = (resumed.ema_generator.image.weight - before).abs().max()
    assert 0 < moved < 1e-4  # averaged over half-lives of thousands of rounds: the imported average is not thrown away
    assert not torch.equal(resumed.generator.image.weight, run.generator.image.weight)
    longer = fastgan.train(override(run.config, ["training.steps=3"]), run.path, resume=True, quiet=True)
    assert longer.round == 3


def spoiled(weights, **changes):
    return {name: value for name, value in (weights | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("files", "place", "line"),
    [
        ({}, "nowhere", "nowhere does not exist"),
        ({}, "state_dict.pth", "is not named like a network"),
        ({"D": None}, "", "holds no D.pth, which belongs to this checkpoint"),
        ({"G": None, "G_ema": None}, "", "holds no G.pth"),
        ({"G": {"a": 1}}, "", "G.pth is not a state dict"),
        ({"G": [1]}, "", "G.pth is not a state dict"),
        ({"G": {"x": torch.zeros(3)}}, "", "G.pth: this is no generator of BigGAN-PyTorch"),
        ({"D": generator_weights(False)}, "", "D.pth holds "),
        (
            {"G": spoiled(generator_weights(False), **{"output_layer.2.u0": None})},
            "",
            "G.pth holds another network: it lacks image.u",
        ),
        ({"G": spoiled(generator_weights(False), **{"linear.bias": torch.zeros(3)})}, "", "G.pth holds "),
        (
            {"D": spoiled(discriminator_weights(False), **{"embed.weight": torch.zeros(9, 128)})},
            "",
            "size mismatch for embed.weight",
        ),
        ({"D": discriminator_weights(True)}, "", "D.pth holds "),
        ({"G": print}, "", "G.pth can't be read as weights"),
    ],
)
def test_bad_files_are_one_line(tmp_path, files, place, line):
    folder, _ = write(tmp_path / "weights", **files)
    with pytest.raises(UserError) as refused:
        converters.import_run("biggan-pytorch", folder / place, tmp_path / "run")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_several_checkpoints_in_a_folder_are_told_apart(tmp_path):
    folder, _ = write(tmp_path / "weights", behind="_best0")
    for file in list(folder.glob("*_best0.pth")):
        shutil.copy(file, folder / file.name.replace("best0", "copy1"))
    with pytest.raises(UserError, match=r"several checkpoints: name one of G_best0\.pth, G_copy1\.pth"):
        converters.import_run("biggan-pytorch", folder, tmp_path / "run")


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    folder, _ = write(tmp_path / "weights")
    run = converters.import_run("biggan-pytorch", folder, tmp_path / "run")
    with pytest.raises(UserError, match="holds a run: choose another --out"):
        converters.import_run("biggan-pytorch", folder, run.path)
    with pytest.raises(UserError, match="'biggan' can't be imported: did you mean 'biggan-pytorch'"):
        converters.import_run("biggan", folder, tmp_path / "other")
    with pytest.raises(UserError, match=r"training\.stesp"):
        converters.import_run("biggan-pytorch", folder, tmp_path / "other", ["training.stesp=3"])
    assert not (tmp_path / "other").exists()
