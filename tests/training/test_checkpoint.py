import os

import pytest
import torch

from fastgan.checked import UserError
from fastgan.training import checkpoint


def state(number):
    content = {"round": number, "tensor": torch.full((300,), float(number)), "nested": {"list": [1, None, "x"]}}
    return dict.fromkeys(checkpoint.KEYS) | content


def test_what_is_saved_is_loaded_and_the_newest_few_are_kept(tmp_path):
    for number in (5, 10, 15, 20):
        path = checkpoint.save(tmp_path, state(number), keep=2)
    assert [p.name for p in checkpoint.listing(tmp_path)] == ["00000015.pt", "00000020.pt"]
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["tensor"], state(20)["tensor"])
    assert loaded["nested"] == {"list": [1, None, "x"]}


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    first = checkpoint.save(tmp_path, state(1), keep=1)

    def die(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, state(2), keep=1)
    assert os.listdir(tmp_path) == [first.name]
    assert checkpoint.load(first)["round"] == 1


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text", "list", "tensor", "lacking", "pickle"])
def test_damage_is_one_line_that_names_the_file_and_the_one_before(tmp_path, damage):
    checkpoint.save(tmp_path, state(1), keep=2)
    path = checkpoint.save(tmp_path, state(2), keep=2)
    content = path.read_bytes()
    if damage == "flip":
        at = content.index(torch.full((300,), 2.0).numpy().tobytes()) + 600
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif damage in ("list", "tensor"):
        torch.save([1, 2] if damage == "list" else torch.zeros(3), path)
    elif damage == "lacking":
        checkpoint.save(tmp_path, {"round": 2, "game": {}}, keep=2)
    elif damage == "pickle":
        torch.save({"format": 1, "x": print}, path)
    else:
        path.write_bytes({"truncate": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(UserError, match="damaged") as refused:
        checkpoint.load(path)
    assert path.name in str(refused.value)
    assert "delete it to go on from 00000001.pt" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "00000001.pt"
    torch.save({"format": 2, "digest": "", **state(1)}, path)
    with pytest.raises(UserError, match="format 2"):
        checkpoint.load(path)
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.load(tmp_path / "00000009.pt")


def test_other_files_in_the_folder_are_nobodys_business(tmp_path):
    (tmp_path / "backup.pt").write_bytes(b"mine")
    (tmp_path / "z.pt").write_bytes(b"mine")
    checkpoint.save(tmp_path, state(1), keep=1)
    checkpoint.save(tmp_path, state(2), keep=1)
    assert sorted(os.listdir(tmp_path)) == ["00000002.pt", "backup.pt", "z.pt"]
    assert [p.name for p in checkpoint.listing(tmp_path)] == ["00000002.pt"]


def test_later_ones_are_dropped(tmp_path):
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, state(number), keep=3)
    checkpoint.drop_after(tmp_path, 1)
    assert os.listdir(tmp_path) == ["00000001.pt"]


def test_half_written_ones_are_not_listed_and_are_cleared(tmp_path):
    checkpoint.save(tmp_path, state(1), keep=2)
    (tmp_path / "00000002.partial").write_bytes(b"half")
    assert [p.name for p in checkpoint.listing(tmp_path)] == ["00000001.pt"]
    checkpoint.clear_partial(tmp_path)
    assert os.listdir(tmp_path) == ["00000001.pt"]


def test_best_checkpoints_are_pruned_to_those_that_a_rollback_may_need(tmp_path):
    def kept(*rounds, oldest):
        for number in rounds:
            (tmp_path / f"best-{number:08d}.pt").touch()
        checkpoint.prune_best(tmp_path, oldest)
        return [int(path.stem.removeprefix("best-")) for path in sorted(tmp_path.glob("best-*"))]

    assert kept(oldest=5) == []
    assert checkpoint.best(tmp_path) is None
    assert kept(3, oldest=5) == [3]
    assert kept(4, 6, 9, oldest=5) == [4, 6, 9]
    assert checkpoint.best(tmp_path).name == "best-00000009.pt"
    checkpoint.drop_after(tmp_path, 6)
    assert kept(oldest=6) == [6]
    assert checkpoint.listing(tmp_path) == []
