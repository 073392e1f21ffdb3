"""Samples that two processes share, by the commands as a user types them under a launcher."""

import json

import numpy as np
import pytest
import ranks
from toys import TINY

import fastgan as package

COMMANDS = """
import json, sys
from fastgan.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["fastgan", *words]
    main()
"""
SMALL = ("network.width=8", "training.batch_size=32", "training.log_every=2", "training.checkpoint_every=2")
QUICK = ("training.device=cpu", "training.precision=fp32", "training.sample_every=0")
DRS = ("--sampler", "drs", "--sampler-set", "burn_in=100", "percentile=50", "--refine-steps", "1", "--batch-size", "3")
IMAGES = ("--metrics", "fd-digits,kid-digits,is-digits,prc-digits,kde", "--batch-size", "3")
FOLDERS = ("--metrics", "fd,kid,prc", "--features", "pixels")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    for name, preset, settings in (("digits", "digits-sngan-qua", TINY), ("points", "grid25", SMALL)):
        config = package.config.override(package.preset(preset), [*settings, *QUICK])
        package.train(config, folder / name, steps=2, quiet=True)
    return folder


def commands(runs, out):
    """Twenty samples are seven batches: neither shares nor batches come out even."""
    return [
        ["sample", str(runs / "digits"), "--num", "20", *DRS, "--out", str(out / "many")],
        ["sample", str(runs / "digits"), "--num", "20", *DRS, "--out", str(out / "grid.png")],
        ["sample", str(runs / "digits"), "--num", "70", "--format", "shards", "--out", str(out / "shards")],
        ["sample", str(runs / "points"), "--num", "20", *DRS, "--out", str(out / "points")],
        ["evaluate", str(runs / "points"), "--num", "20", *DRS, "--json", str(out / "points.json")],
        ["evaluate", str(runs / "digits"), "--num", "70", *IMAGES, "--json", str(out / "digits.json")],
        ["evaluate", "--real", str(out / "many"), "--generated", str(out / "many"), *FOLDERS, "--json", str(out / "two.json")],
    ]


def contents(folder):
    """Of all files; of results all but what they took, and whose folder it was."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = {path.relative_to(folder): path.read_bytes() for path in files}
    for path in (path for path in found if path.suffix == ".json"):
        result = json.loads(found[path])
        found[path] = {name: result[name] for name in result.keys() - {"seconds", "peak_memory", "real", "generated"}}
    return found


def kept(folder):
    """The real images' statistics, and the files gone."""
    found = {}
    for path in sorted(folder.rglob("real-*.npz")):
        with np.load(path) as stored:
            found[path.name] = {name: stored[name].tobytes() for name in stored.files}
        path.unlink()
    return found


def lines(shown):
    """What was printed, but for the progress of a slow machine and what it took."""
    return [line for line in shown.splitlines() if not line.startswith(("samples ", "sampling ", "seconds: "))]


def test_two_processes_draw_and_judge_what_one_would(fastgan, runs, tmp_path, monkeypatch):
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    ended = ranks.finish(ranks.start(2, "-c", COMMANDS, json.dumps(commands(runs, two))))
    assert [code for code, _, _ in ended] == [0, 0], ended
    of_two = [kept(folder) for folder in (runs, cache)]
    said = []
    for words in commands(runs, one):
        code, shown, error = fastgan(*words)
        assert code == 0, error
        said += lines(shown.replace(str(one), str(two)))
    assert said == lines(ended[0][1])
    assert not ended[1][1]
    assert contents(one) == contents(two)
    assert fastgan("data", "verify", two / "shards", "--decode", "--workers", 1)[0] == 0
    assert len(contents(one)) == 20 + 1 + 5 + 1 + 3
    assert [kept(folder) for folder in (runs, cache)] == of_two
    assert [len(names) for names in of_two] == [2, 1]
