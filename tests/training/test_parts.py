import csv
import json
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from fastgan.training.parts import FORMS, Parts, read_lines, replacing, take, write_csv, write_lines

COUNTS = (3, 3, 2)


@pytest.fixture
def parts(tmp_path):
    numbers = np.random.default_rng(0)
    made = Parts(tmp_path / "parts", len(COUNTS))
    for number, count in enumerate(COUNTS):
        z = numbers.standard_normal((count, 5)).astype(np.float32)
        made.write(number, {"z": z, "label": np.arange(count) + 10 * number, "done": z[:, 0] > 0})
    return made


def whole(parts, name):
    return np.concatenate(list(parts.column(name)))


@pytest.mark.parametrize(("form", "load"), [("npz", lambda path: dict(np.load(path))), ("safetensors", load_file)])
def test_a_joined_file_is_what_its_format_says(parts, tmp_path, form, load):
    path = tmp_path / f"all.{form}"
    FORMS[form](path, parts, ["z", "label", "done"])
    found = load(path)
    assert list(found) == ["z", "label", "done"]
    for name, value in found.items():
        assert value.dtype == whole(parts, name).dtype
        np.testing.assert_array_equal(value, whole(parts, name))
    for name in found:
        np.testing.assert_array_equal(take(path, name, [0, 3, 4, 7]), found[name][[0, 3, 4, 7]])
    assert take(path, "z", []).shape == (0, 5)
    assert take(path, "other", [0]) is None


@pytest.mark.parametrize("form", FORMS)
def test_the_same_parts_make_the_same_bytes(parts, tmp_path, form):
    for name in "ab":
        FORMS[form](tmp_path / f"{name}.{form}", parts, ["z", "label"])
    assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()


def test_what_is_done_ends_before_a_part_that_is_missing_or_damaged(parts):
    assert parts.done() == 3
    last = parts.folder / "00000002.npz"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    assert parts.done() == 2
    (parts.folder / "00000000.npz").unlink()
    assert parts.done() == 0
    parts.remove()
    assert not parts.folder.exists()


def test_a_part_with_a_flipped_byte_is_not_done_or_reads_as_before(parts):
    path = parts.folder / "00000001.npz"
    content, before, refused = path.read_bytes(), parts.read(1), 0
    with zipfile.ZipFile(path) as whole:
        members = range(0, whole.start_dir, 3)  # behind them lies the table of contents
    for at in members:
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        if parts.done() == 1:
            refused += 1
            continue
        found = parts.read(1)  # the byte of a date, or of what else nobody reads
        assert found.keys() == before.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(value, before[name])
    assert refused > 0.8 * len(members)
    path.write_bytes(b"")
    assert parts.done() == 1


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(TypeError), replacing(tmp_path / "x", "w") as file:
        file.writelines(["new", 3])
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_tables_read_back(tmp_path):
    rows = [[0, "a, b", None, 0.5], [1, "\udcff.png", 3, 1e-9]]  # a name that is no UTF-8 is one, too
    names = ["number", "file", "label", "error"]
    write_csv(tmp_path / "t.csv", names, rows)
    write_lines(tmp_path / "t.jsonl", names, rows)
    assert list(read_lines(tmp_path / "t.jsonl")) == [dict(zip(names, row, strict=True)) for row in rows]
    with (tmp_path / "t.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = list(csv.reader(file))
    assert table == [names, ["0", "a, b", "", "0.5"], ["1", "\udcff.png", "3", "1e-09"]]
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])["label"] is None
