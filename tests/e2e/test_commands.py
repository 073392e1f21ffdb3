"""The commands as a user types them."""

import json

import numpy as np
import pytest
from biggan_pytorch import write
from PIL import Image
from toys import TINY

from fastgan.presets import PRESETS


def test_train_says_where_everything_lies_and_how_good_it_is(run_folder):
    said = (run_folder / "stdout.txt").read_text()
    assert "begins in" in said
    assert "round 4/4" in said
    for path in ("samples/00000004.png", "checkpoints/00000004.pt", "metrics.jsonl", "tensorboard"):
        assert str(run_folder / path) in said
        assert (run_folder / path).exists()
    assert "FD-digits" in said
    assert "trained" in said
    assert "untrained" in said
    found = json.loads((run_folder / "evaluation.json").read_text())
    assert found["metrics"]["fd-digits"]["value"] != found["untrained"]["fd-digits"]["value"]
    assert found["metrics"]["fd-digits"]["accuracy"] > 0.9


def test_presets_is_one_aligned_table(fastgan):
    code, shown, _ = fastgan("presets")
    lines = shown.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
    starts = {title: lines[0].index(title) for title in ("data", "objective", "network", "rounds")}
    for line, config in zip(lines[1:], PRESETS.values(), strict=True):
        assert line[starts["data"] :].startswith(f"{config.data.source} ")
        objective = config.objective if config.game == "adversarial" else "-"
        assert line[starts["objective"] :].startswith(f"{objective} ")
        assert line[starts["network"] :].startswith(f"{config.network.family} {config.network.width} ")
        assert line[starts["rounds"] :].startswith(f"{config.training.steps} ")


def test_sample_draws_a_grid_or_a_folder(fastgan, run_folder, tmp_path):
    grid = tmp_path / "new" / "grid.png"
    code, _, _ = fastgan("sample", run_folder, "--num", 9, "--refine-steps", 2, "--step-size", 0.1, "--out", grid)
    assert code == 0
    assert Image.open(grid).size == (3 * 18 + 2, 3 * 18 + 2)
    options = ["--num", 3, "--truncation", 0.5, "--standing-statistics", 1, "--seed", 3]
    assert fastgan("sample", run_folder, *options, "--out", tmp_path / "many")[0] == 0
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(tmp_path / "many" / "000000.png").size == (16, 16)


def test_sample_and_evaluate_take_a_sampler(fastgan, run_folder, tmp_path):
    asked = ["--num", 6, "--sampler", "drs", "--sampler-set", "burn_in=100", "percentile=50", "--precision", "fp32"]
    refined = ["--refine-steps", 1, "--refine-set", "radius=0.1", "keep_best=true", "--batch-size", 4]
    code, shown, said = fastgan("sample", run_folder, *asked, *refined, "--out", tmp_path / "grid.png")
    assert code == 0, said
    assert Image.open(tmp_path / "grid.png").size == (2 * 18 + 2, 3 * 18 + 2)
    assert shown.splitlines()[0] == f"6 samples of round 4 -> {tmp_path / 'grid.png'}"
    assert shown.splitlines()[1].startswith("passes a sample: G ")
    assert shown.splitlines()[1].endswith("; once: G 100, D 200, backward 0")
    options = ["--metrics", "fd-digits", "--json", tmp_path / "x.json"]
    code, shown, said = fastgan("evaluate", run_folder, *asked, *refined, *options)
    assert code == 0, said
    assert "passes a sample" in shown
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["sampler"]["name"], found["sampler"]["burn_in"]) == ("drs", 100)
    assert (found["refinement"]["radius"], found["refinement"]["keep_best"]) == (0.1, True)
    assert found["cost"]["once"] == {"generator": 100, "discriminator": 200, "backward": 0}
    assert found["cost"]["generator"] >= 1 + 2 + 1
    assert found["samples"] == "drs, refined, 1 x 0.05"


def test_sample_draws_the_classes_asked_for(fastgan, tmp_path):
    run, settings = tmp_path / "run", (*TINY, "network.classes=10")
    code, _, said = fastgan("train", "digits-cdcgan-qua", "--run-dir", run, "--steps", 2, "--set", *settings)
    assert code == 0, said
    for labels, size in ((("--labels", "4, 2,0"), (3, 2)), ((), (10, 1))):
        assert fastgan("sample", run, "--num", 6, *labels, "--out", tmp_path / "grid.png")[0] == 0
        assert Image.open(tmp_path / "grid.png").size == (size[0] * 18 + 2 if size[0] == 3 else 6 * 18 + 2, size[1] * 18 + 2)
    for labels, line in (("10", "label 10 is out of range"), ("1,x", "divided by commas"), ("", "divided by commas")):
        code, _, said = fastgan("sample", run, "--labels", labels, "--out", tmp_path / "none.png")
        assert (code, said.count("\n")) == (2, 1)
        assert line in said
    assert not (tmp_path / "none.png").exists()


def test_traverse_draws_a_walk_a_row(fastgan, run_folder, tmp_path):
    picture = tmp_path / "walks.png"
    options = ("--rows", 2, "--steps", 3, "--kind", "spherical", "--refine-steps", 1)
    code, shown, _ = fastgan("traverse", run_folder, "--out", picture, *options)
    assert (code, shown) == (0, f"2 walks of 3 images of round 4 -> {picture}\n")
    assert Image.open(picture).size == (3 * 18 + 2, 2 * 18 + 2)
    assert fastgan("traverse", run_folder, "--out", picture, "--sweep", "truncation", "--checkpoint", 2)[0] == 0
    for options in (("--sweep", "classes"), ("--kind", "cubic"), ("--steps", 1), ("--checkpoint", "best"), ("--labels", "x")):
        code, _, said = fastgan("traverse", run_folder, "--out", picture, *options)
        assert (code, said.count("\n")) == (2, 1), options


def test_traverse_walks_through_the_codes_of_real_images(fastgan, tmp_path):
    run, picture = tmp_path / "run", tmp_path / "walks.png"
    small = ("training.steps=2", "training.sample_every=0", "network.content=6", "network.style=4", "network.blocks=1")
    assert fastgan("train", "gaia-digits", "--run-dir", run, "--set", *TINY, *small)[0] == 0
    code, shown, _ = fastgan("traverse", run, "--sweep", "drawings", "--steps", 3, "--split", "held-out", "--out", picture)
    assert code == 0
    assert shown.splitlines()[1] == "rows, in turns: x; D(x); G(x); D(G(x)); G(mixture); D(G(mixture))"
    assert Image.open(picture).size == (3 * 18 + 2, 6 * 18 + 2)
    along = ("--sweep", "attributes", "--attribute", "3, 7", "--directions", "means", "--reach", 0.5, "--rows", 1)
    code, shown, _ = fastgan("traverse", run, *along, "--out", picture)
    assert shown.splitlines()[1] == "rows, in turns: 3 from -0.5 to 0.5; 7 from -0.5 to 0.5"
    assert Image.open(picture).size == (9 * 18 + 2, 2 * 18 + 2)
    for options in (("--attributes", tmp_path / "no.csv"), ("--attribute", "x"), ("--reach", 0), ("--split", "test")):
        code, _, said = fastgan("traverse", run, "--sweep", "attributes", "--out", picture, *options)
        assert (code, said.count("\n")) == (2, 1), options


def test_export_writes_a_generator(fastgan, run_folder, tmp_path):
    file = tmp_path / "generator.safetensors"
    code, shown, _ = fastgan("export", run_folder, "--out", file)
    assert code == 0
    assert shown.startswith("generator of round 4, 0.0")
    assert shown.endswith(f" -> {file}; largest difference to torch 0.0e+00\n")
    code, _, said = fastgan("export", run_folder, "--out", tmp_path / "generator.pt")
    assert (code, said.count("\n")) == (2, 1)


def test_import_makes_a_run_that_samples(fastgan, tmp_path):
    folder, _ = write(tmp_path / "weights")
    code, shown, said = fastgan("import", "biggan-pytorch", folder, "--out", tmp_path / "run", "--set", "seed=3")
    assert code == 0, said
    assert shown == f"biggan 8, 64 px, 5 classes: {folder} -> {tmp_path / 'run'}\n"
    options = ["--num", 6, "--labels", "1,2,4", "--truncation", 0.5, "--standing-statistics", 1]
    assert fastgan("sample", tmp_path / "run", *options, "--out", tmp_path / "grid.png")[0] == 0
    assert Image.open(tmp_path / "grid.png").size == (3 * 66 + 2, 2 * 66 + 2)
    (folder / "D.pth").write_bytes(b"no weights")
    for arguments, line in (
        (("biggan-pytorch", folder, "--out", tmp_path / "other"), "D.pth can't be read as weights"),
        (("biggan-pytorch", folder, "--out", tmp_path / "run"), "holds a run"),
        (("biggan-pytorch", tmp_path / "none", "--out", tmp_path / "other"), "does not exist"),
        (("stylegan", folder, "--out", tmp_path / "other"), "'stylegan' can't be imported"),
        (("biggan-pytorch", folder, "--out", tmp_path / "other", "--set"), "--set takes name=value"),
    ):
        code, _, said = fastgan("import", *arguments)
        assert (code, said.count("\n")) == (2, 1)
        assert line in said
    assert not (tmp_path / "other").exists()


def test_evaluate_writes_one_object(fastgan, run_folder, tmp_path):
    path = tmp_path / "deep" / "result.json"
    options = ["--num", 50, "--metrics", "fd-digits", "--refine-steps", 1, "--step-size", 0.02, "--truncation", 1]
    code, shown, _ = fastgan("evaluate", run_folder, *options, "--json", path)
    assert code == 0
    found = json.loads(path.read_text())
    assert (found["num"], found["refine_steps"], found["step_size"], found["truncation"]) == (50, 1, 0.02, 1)
    assert f"{found['metrics']['fd-digits']['value']:.3f}" in shown


def test_evaluate_judges_two_folders(fastgan, run_folder, tmp_path, monkeypatch):
    """Samples in a folder are judged as they were when they were drawn: 8 bits are 8 bits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = ("--metrics", "fd,kid,prc,is", "--features", "digits", "--json", tmp_path / "x.json")
    for name, seed in (("one", 0), ("other", 1)):
        assert fastgan("sample", run_folder, "--num", 40, "--seed", seed, "--out", tmp_path / name)[0] == 0
    code, shown, said = fastgan("evaluate", "--real", tmp_path / "one", "--generated", tmp_path / "other", *asked)
    assert code == 0, said
    folders = json.loads((tmp_path / "x.json").read_text())["metrics"]
    assert "KID-digits (folder, 40 real, 40 generated): " in shown
    assert "seconds: extractors " in shown
    assert fastgan("evaluate", run_folder, "--num", 40, "--seed", 1, "--real", tmp_path / "one", *asked)[0] == 0
    of_run = json.loads((tmp_path / "x.json").read_text())["metrics"]
    for name in ("fd-digits", "kid-digits", "prc-digits", "is-digits"):
        assert folders[name]["value"] == pytest.approx(of_run[name]["value"], rel=1e-5)


def test_evaluate_gives_a_curve_and_raw_weights(fastgan, run_folder, tmp_path):
    options = ("--num", 20, "--truncation", "0.5,1", "--weights", "raw", "--json", tmp_path / "x.json")
    code, shown, said = fastgan("evaluate", run_folder, *options)
    assert code == 0, said
    assert [line for line in shown.splitlines() if line.startswith("truncation")] == ["truncation 0.5", "truncation 1"]
    curve = json.loads((tmp_path / "x.json").read_text())["curve"]
    assert [(one["truncation"], one["weights"]) for one in curve] == [(0.5, "raw"), (1, "raw")]


def test_doctor_says_what_is_there(fastgan):
    code, shown, _ = fastgan("doctor")
    assert code == 0
    for name in ("torch", "triton", "nvidia-dali", "apex", "precision auto", "device"):
        assert name in shown


def test_doctor_compiles_every_kernel_for_absent_gpus(fastgan):
    code, shown, _ = fastgan("doctor", "--compile-kernels", "sm_90")
    assert code == 0
    rows = [line for line in shown.splitlines() if "sm_90" in line]
    assert any("ifgsm" in row for row in rows)
    code, _, said = fastgan("doctor", "--compile-kernels", "sm_1")
    assert code == 2
    assert said.count("\n") == 1


def test_help_is_there_for_every_command(fastgan):
    names = ("train", "sample", "evaluate", "traverse", "export", "import", "doctor", "presets", "data")
    for command in ((), *((name,) for name in names), ("data", "pack"), ("data", "verify")):
        code, shown, _ = fastgan(*command, "--help")
        assert code == 0
        assert "usage: fastgan" in shown


def test_a_folder_of_files_trains_resumes_and_says_what_it_left_out(fastgan, tmp_path):
    random = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "set" / f"class{number % 2}" / f"{number}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "set/class0/broken.jpg").write_bytes(b"x")
    settings = [*TINY, "data.source=folder", f"data.path={tmp_path / 'set'}", "data.on_bad_image=skip", "data.crop=random"]
    settings += ["data.channels=3", "data.flip=true", "training.batch_size=32"]
    run = tmp_path / "run"
    code, shown, said = fastgan("train", "--run-dir", run, "--steps", 2, "--set", *settings)
    assert code == 0, said
    assert "1 of 21 images do not decode and are skipped: class0/broken.jpg" in shown
    assert "there are 20 images, fewer than a batch of 32" in shown
    (tmp_path / "set/class0/broken.jpg").unlink()  # the same good images: the same data set
    code, _, said = fastgan("train", "--run-dir", run, "--resume", "--steps", 4, "--set", "data.threads=2")
    assert code == 0, said
    (tmp_path / "set/class0/0.jpg").unlink()
    code, _, said = fastgan("train", "--run-dir", run, "--resume", "--steps", 6)
    assert code == 2
    assert "other data" in said


def test_a_packed_set_trains_and_resumes(fastgan, tmp_path):
    random = np.random.default_rng(0)
    for number in range(45):
        path = tmp_path / "set" / f"class{number % 9}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "set/class0/broken.jpg").write_bytes(b"x")
    dest, run = tmp_path / "packed", tmp_path / "run"
    code, shown, said = fastgan("data", "pack", tmp_path / "set", dest, "--resolution", 32, "--shard-size", 8, "--workers", 1)
    assert code == 0, said
    assert "45 images of 9 classes, 32x32 jpeg 95, in 6 shards" in shown
    assert f"1 damaged one is left out: {dest / 'report.json'} lists them" in shown
    code, shown, _ = fastgan("data", "verify", dest, "--decode", "--workers", 1)
    assert (code, "as packed, and all decode" in shown) == (0, True)
    settings = ["data.source=shards", f"data.path={dest}", "data.resolution=32", "data.crop=random", "data.order=shards"]
    settings += ["network.width=2", "network.attention=[]", "training.batch_size=8", "training.precision=fp32"]
    code, _, said = fastgan("train", "emoji64-biggan", "--run-dir", run, "--steps", 2, "--set", *settings)
    assert code == 0, said
    code, _, said = fastgan("train", "--run-dir", run, "--resume", "--steps", 3, "--set", "data.cache=0.1")
    assert code == 0, said
    content = bytearray((dest / "shard-000002.tar").read_bytes())
    content[2000] ^= 1
    (dest / "shard-000002.tar").write_bytes(content)
    code, _, said = fastgan("data", "verify", dest)
    assert (code, said.count("\n")) == (2, 1)
    assert "shard-000002.tar has changed since it was packed" in said
