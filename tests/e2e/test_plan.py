"""`fastgan plan` as it is typed."""

import json

import pytest


def test_a_plan_is_printed_written_and_drawn(fastgan, tmp_path):
    files = "--json", tmp_path / "new" / "plan.json", "--plot", tmp_path / "plan.png"
    code, out, said = fastgan("plan", "grid25", "--gpus", "2", "--gpu", "A100", "--price", "1.5", *files)
    assert (code, said) == (0, "")
    assert "not verified on a GPU" in out
    assert "generator 0.13 M parameters" in out
    assert json.loads((tmp_path / "new" / "plan.json").read_text())["run"]["gpus"] == 2
    assert (tmp_path / "plan.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("grid26", "--gpus", "2"), "did you mean 'grid25'"),
        (("grid25", "--gpus", "0"), "--gpus must be at least 1"),
        (("grid25", "--gpus", "2", "--gpu", "tpu"), "there is no 'tpu'"),
        (("grid25", "--gpus", "7"), "does not divide"),
        (("grid25",), "--gpus"),
        (("grid25", "--gpus", "2", "--set", "training.batchsize=2"), "batch_size"),
    ],
)
def test_mistakes_are_one_line(fastgan, arguments, wrong):
    code, _, said = fastgan("plan", *arguments)
    assert code == 2
    assert wrong in said
    assert said.count("\n") == 1
