"""Runs from Python: what a finished one holds, and what stops one."""

import os
import signal
import threading
import time

import pytest
import torch
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.objectives import OBJECTIVES, Objective
from fastgan.training import checkpoint, telemetry
from fastgan.training.assess import compare_with_untrained
from fastgan.training.folder import Folder
from fastgan.training.loop import Diverged

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


@pytest.mark.parametrize("preset", fastgan.presets.PRESETS)
def test_every_preset_takes_two_rounds(preset, tmp_path):
    run = train(tmp_path, "training.steps=2", preset=preset)
    assert all(t.isfinite().all() for t in run.game.state_dict().values())


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
