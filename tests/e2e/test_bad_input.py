"""Mistakes of a user's: one clear line, exit 2, and nothing overwritten."""

import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from toys import TINY

HOLDER = """
import sys
from fastgan.training.folder import Folder
with Folder(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder):
    return {p: hashlib.sha256(p.read_bytes()).digest() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def refused(fastgan):
    """Run a command that must be refused; its one line comes back."""

    def run(*arguments):
        code, _, said = fastgan(*arguments)
        assert code == 2, said
        assert said.startswith("fastgan: ")
        assert said.count("\n") == 1, said
        assert "Traceback" not in said
        return said

    return run


@pytest.fixture
def run(run_folder, tmp_path):
    """A finished run to spoil."""
    shutil.copytree(run_folder, tmp_path / "run")
    return tmp_path / "run"


def test_unknown_preset(refused, tmp_path):
    assert "did you mean 'digits-sngan'" in refused("train", "digit-sngan", "--run-dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unknown_field(refused, tmp_path):
    assert "did you mean 'batch_size'" in refused("train", "--run-dir", tmp_path / "new", "--set", "training.batchsize=3")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "assignment",
    ["training.steps=0", "latent.step_size=-1", "data.resolution=30", "training.batch_size=1.5", "objective=wgan", "seed=x",
     "data.source=cifar", "data.source=arrays", "training.precision=fp16"],
)  # fmt: skip
def test_a_value_out_of_range(refused, tmp_path, assignment):
    refused("train", "--run-dir", tmp_path / "new", "--set", "training.device=cpu", assignment)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("assignments", "line"),
    [
        (("latent.pair=hardest",), "latent.pair should be"),
        (("latent.pair=hard", "training.accumulate=2"), "latent.pair=hard couples the samples of a batch"),
        (("latent.pair=random", "training.generator_batch=2"), "training.generator_batch must be 1"),
    ],
)
def test_pairs_that_cannot_be(refused, tmp_path, assignments, line):
    assert line in refused("train", "--run-dir", tmp_path / "new", "--set", *assignments)
    assert not (tmp_path / "new").exists()


def test_steps_out_of_range(refused, tmp_path):
    assert "training.steps" in refused("train", "--run-dir", tmp_path / "new", "--steps", "-3")


def test_missing_run(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run" in refused("sample", tmp_path / "none", "--out", tmp_path / "x.png")
    assert "no run" in refused("evaluate", tmp_path / "none")
    assert "no run" in refused("train", "--run-dir", tmp_path / "none", "--resume")
    assert "no run" in refused("train", "--resume")
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_another_network(refused, run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["network"]["width"] = 3
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    before = contents(run)
    for arguments in (("sample", run, "--out", tmp_path / "x.png"), ("evaluate", run)):
        said = refused(*arguments)
        assert "another network" in said
        assert "size mismatch" in said
    said = refused("train", "--run-dir", run, "--resume", "--steps", 9)
    assert "network.width is 2 in the checkpoint" in said
    assert contents(run) == before


def test_other_data_at_resume(refused, fastgan, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    settings = (*TINY, "data.source=arrays", f"data.path={tmp_path / 'images.npy'}")
    code, _, said = fastgan("train", "--run-dir", tmp_path / "run", "--steps", 2, "--set", *settings)
    assert code == 0, said
    images[3, 5, 5] ^= 1
    np.save(tmp_path / "images.npy", images)
    before = contents(tmp_path / "run")
    assert "other data" in refused("train", "--run-dir", tmp_path / "run", "--resume", "--steps", 4)
    assert "data.path" in refused("train", "--run-dir", tmp_path / "run", "--resume", "--set", "data.path=other.npy")
    assert contents(tmp_path / "run") == before


def test_folders_that_are_no_data_set(refused, tmp_path):
    def train(path, *settings):
        return refused("train", "--run-dir", tmp_path / "new", "--set", "data.source=folder", f"data.path={path}", *settings)

    good = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "set/train/cat").mkdir(parents=True)
    assert "holds no images" in train(tmp_path / "set")
    Image.fromarray(good).save(tmp_path / "set/train/cat/1.png")
    assert f"set data.path to {tmp_path / 'set/train'}" in train(tmp_path / "set")
    (tmp_path / "set/train/cat/2.jpg").write_bytes(b"no image")
    assert "1 of 2 images do not decode: cat/2.jpg" in train(tmp_path / "set/train")
    assert "does not exist" in train(tmp_path / "sett")
    assert "data.on_bad_image" in train(tmp_path / "set/train", "data.on_bad_image=ignore")
    assert "data.min_area" in train(tmp_path / "set/train", "data.min_area=0")
    assert "get cifar-10-binary.tar.gz" in refused("train", "--run-dir", tmp_path / "new", "--set", "data.source=cifar10")
    assert not (tmp_path / "new").exists()


def test_run_folder_already_finished(refused, run):
    before = contents(run)
    assert "finished run" in refused("train", "--run-dir", run, "--set", *TINY)
    assert "is finished" in refused("train", "--run-dir", run, "--resume")
    assert "begun with the preset" in refused("train", "digits-r1", "--run-dir", run, "--resume")
    assert contents(run) == before


def test_run_folder_with_an_unfinished_run(refused, run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["training"]["steps"] = 9
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    before = contents(run)
    assert "round 4 of 9: go on with --resume" in refused("train", "--run-dir", run, "--set", *TINY)
    assert contents(run) == before


def test_run_folder_in_use_by_a_live_process(refused, run):
    before = contents(run)
    with subprocess.Popen([sys.executable, "-c", HOLDER, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        said = refused("train", "--run-dir", run, "--resume", "--steps", 9)
        assert f"in use by a live process (pid {holder.pid})" in said
        holder.stdin.close()
    assert contents(run) == before


def test_unwritable_folder(refused, fastgan, run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "can't be written" in refused("train", "--run-dir", tmp_path / "file" / "run")
    assert "can't be written" in refused("train", "--run-dir", "/proc/run")
    assert "can't be written" in refused("sample", run, "--out", tmp_path / "file" / "x.png")
    refused("evaluate", run, "--num", 20, "--json", tmp_path / "file" / "x.json")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_damaged_checkpoint(refused, run, tmp_path):
    newest = max((run / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-500])
    before = contents(run)
    for arguments in (
        ("sample", run, "--out", tmp_path / "x.png"),
        ("evaluate", run),
        ("train", "--run-dir", run, "--resume", "--steps", 9),
    ):
        said = refused(*arguments)
        assert "damaged" in said
        assert "delete it to go on from 00000002.pt" in said
    assert contents(run) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--num", 0),
        ("--refine-steps", -1),
        ("--step-size", -0.5),
        ("--step-size", "nan"),
        ("--truncation", 0),
        ("--standing-statistics", -1),
        ("--labels", "1"),
        ("--batch-size", 0),
        ("--precision", "fp64"),
        ("--sampler", "metropolis"),
        ("--sampler-set", "percentile=3"),
        ("--refine-set", "radius=-1"),
        ("--refine-set", "radius"),
    ],
)
def test_sampling_out_of_range(refused, run, tmp_path, option, value):
    refused("sample", run, "--out", tmp_path / "x.png", option, value)
    assert not (tmp_path / "x.png").exists()


def test_truncation_of_a_uniform_prior(refused, fastgan, tmp_path):
    run = tmp_path / "run"
    assert fastgan("train", "--run-dir", run, "--steps", 1, "--set", *TINY, "latent.prior=uniform")[0] == 0
    assert "prior" in refused("sample", run, "--out", tmp_path / "x.png", "--truncation", 1)


def test_a_grid_of_another_format(refused, run, tmp_path):
    assert ".png" in refused("sample", run, "--out", tmp_path / "x.jpg")
    assert not (tmp_path / "x.jpg").exists()


def test_shards_of_samples_in_a_folder_in_use(refused, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    shards = ("sample", run, "--format", "shards", "--out")
    assert "holds other files" in refused(*shards, tmp_path / "out")
    assert "into a folder" in refused(*shards, tmp_path / "x.png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_result_that_cannot_be_written_is_refused_before_the_work(refused, run, tmp_path):
    assert "it is a folder" in refused("evaluate", run, "--json", tmp_path)
    assert "at least 2" in refused("evaluate", run, "--num", 1)
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_folder_without_its_configuration(refused, run):
    (run / "config.yaml").unlink()
    before = contents(run)
    assert "no config.yaml" in refused("train", "--run-dir", run, "--set", *TINY)
    assert "config.yaml can't be read" in refused("train", "--run-dir", run, "--resume")
    assert "no config.yaml" in refused("sample", run, "--out", run / "x.png")
    assert contents(run) == before


def test_an_edited_configuration_is_not_resumed(refused, run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"objective": "wasserstein"}))
    before = contents(run)
    assert "objective is 'hinge' in the checkpoint" in refused("train", "--run-dir", run, "--resume", "--steps", 9)
    assert contents(run) == before


def test_networks_that_fit_no_machine(refused, tmp_path):
    settings = ("latent.dim=1000000", "network.width=16384", "data.resolution=1024")
    refused("train", "--run-dir", tmp_path / "new", "--set", *settings)
    assert not (tmp_path / "new").exists()


def test_colour_images_in_grey(refused, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((40, 16, 16, 3), dtype=np.uint8))
    settings = ("data.source=arrays", f"data.path={tmp_path / 'images.npy'}", "data.channels=1")
    assert "colour" in refused("train", "--run-dir", tmp_path / "new", "--set", *TINY, *settings)
    assert not (tmp_path / "new").exists()


def test_no_metric_for_these_images(refused, fastgan, tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8))
    settings = (*TINY, "data.source=arrays", f"data.path={tmp_path / 'images.npy'}")
    assert fastgan("train", "--run-dir", tmp_path / "run", "--steps", 1, "--set", *settings)[0] == 0
    assert "give --metrics fid,kid,prc" in refused("evaluate", tmp_path / "run")


def test_unknown_metric(refused, run):
    assert "unknown metric 'fdi'" in refused("evaluate", run, "--metrics", "fdi")


def test_weights_that_are_not_at_hand(refused, run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    said = refused("evaluate", run, "--metrics", "fid", "--features", "inception")
    assert "fetch https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception" in said
    (tmp_path / "weights.pth").write_bytes(b"half a file")
    said = refused("evaluate", run, "--metrics", "fid", "--feature-weights", tmp_path / "weights.pth")
    assert "weights.pth is damaged: fetch https://" in said


def test_evaluating_neither_a_run_nor_two_folders(refused, run, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / "1.png")
    for arguments in ((), (run, "--real", images, "--generated", images), ("--generated", images), ("--real", images)):
        assert "evaluate takes a run's folder, or --real DIR" in refused("evaluate", *arguments)
    for arguments, line in (
        (("--real", tmp_path / "none", "--generated", images, "--features", "pixels"), "does not exist"),
        (("--real", images, "--generated", images, "--metrics", "cas"), "judges runs"),
        ((run, "--resolution", 8), "--resolution is for two folders"),
        ((run, "--truncation", "1,x"), "--truncation takes numbers"),
        ((run, "--metrics", "kid", "--features", "digit"), "did you mean 'digits'"),
    ):
        assert line in refused("evaluate", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [("train", "--stesp", "3"), ("train", "--steps", "1.5"), ("train", "--set"), ("sample", "run"), ("fly",), ()],
    ids=str,
)
def test_words_that_the_command_line_does_not_know(refused, arguments):
    refused(*arguments)


def test_packing_what_can_t_be_packed(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    dest = tmp_path / "packed"
    for arguments, line in (
        (("pack", tmp_path / "none", dest), "does not exist"),
        (("pack", tmp_path / "empty", dest), "holds no images"),
        (("pack", tmp_path / "notes.txt", dest), "neither a folder nor an archive"),
        (("pack", tmp_path / "empty", dest, "--whole", "--resolution", 8), "--whole keeps images as they are"),
        (("pack", tmp_path / "empty", dest, "--resolution", "big"), "fastgan data pack --help"),
        (("pack", tmp_path / "empty", tmp_path), "holds other files"),
        (("pack",), "fastgan: Missing from fastgan data pack: "),
        (("verify", tmp_path / "none"), "does not exist"),
        (("verify", tmp_path / "empty"), "holds no packed set"),
        (("mend",), "fastgan data --help"),
        ((), "fastgan data --help"),
    ):
        assert line in refused("data", *arguments)
    assert not dest.exists()
