"""Runs from Python: what a finished one holds, and what stops one."""

import os
import signal
import threading
import time

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.latent import Prior
from fastgan.objectives import OBJECTIVES, Objective
from fastgan.training import checkpoint, telemetry
from fastgan.training.assess import compare_with_untrained
from fastgan.training.folder import Folder
from fastgan.training.keeping import Diverged
from fastgan.training.sampling import Recipe, Samples

STEPS = ("training.steps=6", "training.sample_every=3", "training.precision=fp32")


def tiny(*assignments, preset="digits-sngan-qua"):
    return override(fastgan.preset(preset), [*TINY, *STEPS, *assignments])


def train(folder, *assignments, preset="digits-sngan-qua", **options):
    return fastgan.train(tiny(*assignments, preset=preset), folder, quiet=True, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


def test_a_finished_run_holds_everything(run):
    assert (run.round, run.images) == (6, 6 * 16)
    assert sorted(p.name for p in run.folder.samples.iterdir()) == ["00000003.png", "00000006.png"]
    assert [p.name for p in checkpoint.listing(run.folder.checkpoints)] == ["00000002.pt", "00000004.pt", "00000006.pt"]
    records = telemetry.read(run.folder.metrics)
    assert [r["round"] for r in records] == [2, 4, 6]
    assert [r["images"] for r in records] == [32, 64, 96]
    assert {"D/loss", "G/loss", "D/separation", "seconds"} <= records[0].keys()
    assert any(run.folder.tensorboard.iterdir())
    assert fastgan.config.from_yaml(run.folder.config) == run.config


def test_a_run_gives_networks_that_sample(run):
    images = fastgan.sample(run, num=10, refine_steps=2, step_size=0.05)
    assert images.shape == (10, 1, 16, 16)
    assert images.abs().max() <= 1
    assert torch.equal(fastgan.sample(run, num=4), fastgan.sample(fastgan.load_run(run.path), num=70)[:4])
    assert not torch.equal(fastgan.sample(run, num=4, seed=1), fastgan.sample(run, num=4))
    assert not torch.equal(fastgan.sample(run, num=4, raw_weights=True), fastgan.sample(run, num=4))
    z = torch.randn(5, 8)
    assert fastgan.latent.refine(run.generator, run.discriminator, z).shape == z.shape
    assert run.discriminator(run.ema_generator(z)).shape == (5,)


def test_the_same_seed_gives_the_same_run(run, tmp_path):
    again, other = train(tmp_path / "a"), train(tmp_path / "b", "seed=1")
    for (name, a), b in zip(run.game.state_dict().items(), again.game.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(run.generator.linear.weight, other.generator.linear.weight)


def test_an_untrained_twin_differs_from_the_trained_run(run):
    assert run.untrained().round == 0
    assert not torch.equal(run.untrained().ema_generator.linear.weight, run.ema_generator.linear.weight)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(folder, "training.steps=60", "training.sample_every=30", "latent.reuse=true", preset="digits-cdcgan-qua")


def test_a_conditional_run_samples_the_classes_asked_for(conditional):
    images = fastgan.sample(conditional, num=70, labels=[3, 7])
    z = Prior(8)(Draw(0, "samples", 0, torch.arange(70)))
    with torch.no_grad():
        expected = conditional.ema_generator(z, torch.tensor([3, 7] * 35))
    torch.testing.assert_close(images, expected)
    in_turn = fastgan.sample(conditional, num=70)
    assert torch.equal(in_turn, fastgan.sample(conditional, num=70, labels=range(10)))
    assert not torch.equal(in_turn, images)


def test_its_latents_are_refined_under_their_labels(conditional):
    found = fastgan.sample(conditional, num=4, labels=[3, 7], refine_steps=2, step_size=0.1)
    z, labels = Prior(8)(Draw(0, "samples", 0, torch.arange(4))), torch.tensor([3, 7, 3, 7])
    pair = conditional.ema_generator, conditional.discriminator
    z = fastgan.latent.refine(*pair, z, labels, steps=2, step_size=0.1, objective="non-saturating")
    with torch.no_grad():
        torch.testing.assert_close(found, conditional.ema_generator(z, labels))


def test_its_fixed_grid_shows_one_class_a_column(conditional):
    picture = pil_to_tensor(Image.open(conditional.folder.samples / "00000060.png"))[0] / 127.5 - 1
    assert picture.shape == (8 * 18 + 2, 10 * 18 + 2)
    z = Prior(8)(Draw(0, "grid", 0, torch.arange(80)))
    with torch.no_grad():
        expected = conditional.ema_generator(z, torch.arange(80) % 10)
    for row, column in ((0, 0), (0, 9), (5, 3), (7, 9)):
        there = picture[2 + 18 * row : 18 + 18 * row, 2 + 18 * column : 18 + 18 * column]
        assert (there - expected[10 * row + column, 0]).abs().max() < 0.01


def test_it_is_judged_by_samples_of_every_class(conditional):
    found = fastgan.training.evaluate(conditional, ["fd-digits", "prdc-digits", "diversity-digits"], num=100)["metrics"]
    assert found["fd-digits"]["value"] > 0
    assert 0 <= found["prdc-digits"]["precision"] <= 1
    assert found["diversity-digits"]["value"] > 0
    assert 5 < found["diversity-digits"]["real"] < 20  # 64 standardised features
    (drawn,) = Samples(conditional, 60, Recipe(labels="uniform")).gathered()
    draw = Draw(0, "samples", 0, torch.arange(60))
    with torch.no_grad():
        torch.testing.assert_close(drawn, conditional.ema_generator(Prior(8)(draw), draw.integers("labels", 10)))


def test_labels_that_a_run_lacks_are_refused(conditional, run):
    for labels, line in (([10], "label 10 is out of range: .* 0 to 9"), ([-1], "out of range"), ([], "names no class")):
        with pytest.raises(UserError, match=line):
            fastgan.sample(conditional, num=4, labels=labels)
    with pytest.raises(UserError, match="not class-conditional"):
        fastgan.sample(run, num=4, labels=[0])


@pytest.mark.parametrize(
    ("assignments", "line"),
    [
        (("network.classes=9",), "network.classes is 9, but the images in digits have 10 classes"),
        (("network.classes=0",), "network.family dcgan-conditional: .* needs classes"),
        (("network.classes=10", "network.family=sn-cnn"), "sn-cnn takes no classes"),
        (("network.classes=0", "network.family=dcgan-cnn", "data.resolution=24"), "dcgan-cnn: .* multiple of 16, not 24"),
        (("network.classes=0", "network.family=wgan-resnet"), "wgan-resnet: .* 32 and 48, not 16"),
    ],
)
def test_networks_that_do_not_fit_the_data_are_refused_before_anything_is_written(tmp_path, assignments, line):
    with pytest.raises(UserError, match=line):
        train(tmp_path / "run", *assignments, preset="digits-cdcgan-qua")
    assert not (tmp_path / "run").exists()


def test_training_brings_the_samples_far_closer_to_real_digits(tmp_path):
    settings = ("network.width=8", "training.steps=250", "training.batch_size=32", "training.checkpoint_every=1000")
    result = compare_with_untrained(train(tmp_path, *settings), num=500)
    assert result["metrics"]["fd-digits"]["value"] < 0.25 * result["untrained"]["fd-digits"]["value"]


def test_options_of_the_loop_work_together(tmp_path):
    run = train(
        tmp_path, "training.n_dis=2", "training.accumulate=2", "training.generator_batch=2", "latent.reuse=true",
        "generator.clip_norm=1.0", "generator.schedule=cosine", "discriminator.warmup=3", "terms.r1.every=2", "data.flip=true",
        "latent.prior=truncated-normal", "latent.momentum=0.5", "latent.radius=0.1", "latent.keep_best=true",
        "training.precision=bf16", "training.ema_half_life=0", "latent.stop_score=3", "data.channels=3",
    )  # fmt: skip
    assert run.images == 2 * 6 * 16
    assert "Dreg2/loss" in telemetry.read(run.folder.metrics)[0]


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    hinge, calls = OBJECTIVES["hinge"], []

    def spoiled(real, fake):
        calls.append(1)
        return hinge.discriminator(real, fake) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setitem(OBJECTIVES, "hinge", Objective(spoiled, hinge.per_score))
    with pytest.raises(Diverged, match=r"NaN or infinite by round 4: .*last good checkpoint is .*00000002\.pt"):
        train(tmp_path)
    good = checkpoint.load(Folder(tmp_path).newest_checkpoint())
    assert all(t.isfinite().all() for t in good["game"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_round_and_keeps_it(tmp_path, number, capsys):
    def send():
        while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    sender = threading.Thread(target=send)
    sender.start()
    stopped = fastgan.train(tiny("training.steps=100000", "training.checkpoint_every=100000"), tmp_path)
    sender.join()
    assert 0 < stopped.round < 100000
    assert f"fastgan train --run-dir {tmp_path} --resume" in capsys.readouterr().out
    assert signal.getsignal(number) is before


def test_resuming_may_train_longer_but_not_otherwise(tmp_path):
    train(tmp_path, "training.steps=4")
    longer = train(tmp_path, "training.steps=6", "training.log_every=1", resume=True)
    assert longer.round == longer.config.training.steps == 6
    with pytest.raises(UserError, match=r"training\.batch_size is 16 in the run .* not 8"):
        train(tmp_path, "training.batch_size=8", resume=True)
    with pytest.raises(UserError, match="finished"):
        train(tmp_path, resume=True)


def test_a_run_folder_for_each_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [train(None, "training.steps=1").path.name for _ in range(2)]
    assert names == ["digits-sngan-qua-001", "digits-sngan-qua-002"]
    assert train(None, "training.steps=2", resume=True).path.name == names[1]


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"round": 2}\n{"round": 4}\n{"round": 6}\n{"rou')
    telemetry.truncate(metrics, 4)
    assert telemetry.read(metrics) == [{"round": 2}, {"round": 4}]


def test_rollbacks_stay_in_the_metrics_as_far_as_the_checkpoint_has_them(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"round": 2}\n{"round": 6, "rollback": 1}\n{"round": 2, "rollback": 2}\n{"round": 4}\n')
    telemetry.truncate(metrics, 2, rollbacks=1)
    assert telemetry.read(metrics) == [{"round": 2}, {"round": 6, "rollback": 1}]
    telemetry.truncate(metrics, 2)
    assert telemetry.read(metrics) == [{"round": 2}]
