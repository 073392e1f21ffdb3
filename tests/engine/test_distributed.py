"""Runs over several processes: what ranks agree on, the plain engine on two of them, the command under a launcher."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import ranks
import torch

import fastgan
from fastgan.checked import UserError
from fastgan.engine import ALONE, join, rank_here
from fastgan.terms import R1
from fastgan.training import checkpoint, telemetry
from fastgan.training.folder import Folder
from fastgan.training.loop import check_shares

LOCAL = [case for case in ranks.CASES if case.startswith("local")]
POINTS = (
    "network.width=8", "training.batch_size=32", "training.log_every=5", "training.checkpoint_every=5",
    "training.sample_every=0", "training.device=cpu", "training.precision=fp32", "training.threads=1",
)  # fmt: skip
AGREEING = """
import json, sys, torch
from fastgan.checked import UserError
from fastgan.engine import LoneError, join
ranks = join(torch.device("cpu"))
said = [ranks.rank, ranks.count, ranks.first, ranks.any(False), ranks.any(ranks.rank == 1), ranks.told("abc"[ranks.rank])]
values = torch.arange(6.0).view(2, 3) + ranks.rank, torch.tensor(float(ranks.rank))
ranks.mean_(values)
said += [value.tolist() for value in values]

x = (torch.arange(4.0).view(2, 2) + 10 * ranks.rank).requires_grad_()
whole = ranks.gather(x)
(whole * torch.arange(8.0).view(4, 2)).sum().backward()
said += [whole.tolist(), x.grad.tolist()]

x.grad = None
pooled = ranks.pool(x)
(pooled * (ranks.rank + 1) * torch.arange(8.0).view(4, 2)).sum().backward()
said += [torch.equal(pooled, whole), x.grad.tolist()]

def wrong(at, error):
    try:
        with ranks.agreed():
            if ranks.rank in at:
                raise error
    except UserError as found:
        return str(found)

said += [wrong([], None), wrong([1], UserError("no")), wrong([0, 1], OSError(28, "full", "disk"))]
try:
    with ranks.alone(), ranks.alone():
        if ranks.rank:
            raise UserError("lost")
except LoneError as found:
    said.append(str(found))
said.append(ranks.gathered(ranks.rank + 5))
print(json.dumps(said))
"""

SPOILED = """
import os
from fastgan.cli import main
from fastgan.objectives import OBJECTIVES, Objective
hinge, calls, last = OBJECTIVES["hinge"], [], int(os.environ["RANK"]) + 1 == int(os.environ["WORLD_SIZE"])
def loss(real, fake):
    calls.append(1)
    factor = float("nan") if last and len(calls) in (8, 17) else 1
    return factor * hinge.discriminator(real, fake)
OBJECTIVES["hinge"] = Objective(loss, hinge.per_score)
main()
"""
"""NaN on the last rank: in round 8, and in round 12 where the first has brought the run back to 5."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What every case of the plain engine ended with on each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(ranks.play(ranks.session(ranks.plain("local")), 3)["state"], folder / "begun.pt")
    for code, _, said in ranks.finish(ranks.start(2, ranks.__file__, folder, *LOCAL)):
        assert code == 0, said
    return folder


@pytest.mark.parametrize("case", LOCAL)
def test_two_ranks_equal_each_other_and_one_process(folder, case):
    first, second = (torch.load(folder / f"{case} {rank}.pt") for rank in range(2))
    ranks.assert_equal(first["state"], second["state"])
    expected = ranks.play(ranks.session(ranks.plain(case)), ranks.ROUNDS)
    ranks.assert_close(first["state"], expected["state"])
    ranks.assert_equal(ranks.in_order([first["shown"], second["shown"]]), ranks.in_order([expected["shown"]]))
    assert first["measured"] == second["measured"]
    ranks.assert_measured(first["measured"], expected["measured"])


@pytest.mark.parametrize("mpi", [False, True])
def test_ranks_agree(mpi):
    ended = ranks.finish(ranks.start(2, "-c", AGREEING, mpi=mpi))
    assert [code for code, _, _ in ended] == [0, 0], ended[0][2]
    for rank, (_, said, _) in enumerate(ended):
        alone = ["rank 1: lost"] if rank else []
        mean = [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]
        wrong = [None, "rank 1: no", "disk: full"]
        whole = [[0, 1], [2, 3], [10, 11], [12, 13]]
        slope = [[8, 10], [12, 14]] if rank else [[0, 2], [4, 6]]  # twice its own: the mean over ranks takes half of it
        pooled = [[12, 15], [18, 21]] if rank else [[0, 3], [6, 9]]  # the first rank's loss, and twice that on the second
        assert json.loads(said) == [
            *(rank, 2, rank == 0, False, True, "a", mean, 0.5), whole, slope, True, pooled, *wrong, *alone,
            None if rank else [5, 6],
        ]  # fmt: skip


def test_alone_nothing_is_set_up():
    assert join(torch.device("cpu")) is ALONE
    assert (ALONE.first, ALONE.any(True), ALONE.any(False), ALONE.told(3)) == (True, True, False, 3)
    assert ALONE.gathered(3) == [3]
    value = torch.ones(2)
    ALONE.mean_([value])
    assert ALONE.mean(value) is value
    assert ALONE.gather(value) is value
    assert ALONE.pool(value) is value
    assert value.tolist() == [1, 1]
    for section in (ALONE.agreed, ALONE.alone):
        with pytest.raises(UserError, match=r"^no$"), section():
            raise UserError("no")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, 0),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 3),
        ({"RANK": "3"}, 0),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, 1),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "there is no such rank"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, "should be whole numbers"),
    ],
)
def test_the_environment_says_who_one_is(monkeypatch, environment, found):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if isinstance(found, int):
        assert rank_here() == found
    else:
        with pytest.raises(UserError, match=found):
            rank_here()


def test_ranks_on_several_machines_must_know_where_to_meet(monkeypatch):
    for name, value in (("RANK", "1"), ("SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_SIZE", "2")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    if not torch.distributed.is_initialized():
        with pytest.raises(UserError, match="MASTER_ADDR"):
            join(torch.device("cpu"))


def words(run, *assignments, preset="grid25-qua"):
    return ["train", preset, "--run-dir", str(run), "--set", *POINTS, *assignments]


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("training.batch_size=15", "training.batch_size 15 does not divide into 1 x 2 equal micro-batches"),
        ("training.batchsize=15", "did you mean 'batch_size'"),
    ],
)
def test_a_mistake_is_told_once(tmp_path, assignment, line):
    ended = ranks.finish(ranks.start(2, "-m", "fastgan", *words(tmp_path / "run", assignment)))
    assert [code for code, _, _ in ended] == [2, 2]
    assert line in ended[0][2]
    assert ended[0][2].count("\n") == 1
    assert not ended[1][2]
    assert not (tmp_path / "run").exists()


def wait_for(condition, *processes):
    """Wait until something is so, as long as the processes live."""
    until = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < until
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.05)


def test_a_signal_to_any_rank_stops_all_and_the_run_goes_on_with_another_number(tmp_path):
    """Two ranks stop in the middle and one process goes on, with the images that it would have been shown."""
    stopped, whole = Folder(tmp_path / "stopped"), Folder(tmp_path / "whole")
    processes = ranks.start(2, "-m", "fastgan", *words(stopped.path, "training.steps=100000"))
    wait_for(lambda: stopped.newest_checkpoint() is not None, *processes)
    processes[1].send_signal(signal.SIGTERM)
    (first, shown, said), (second, nothing, _) = ranks.finish(processes)
    assert (first, second) == (0, 0), said
    assert "shared by 2 ranks" in shown
    assert f"to go on: fastgan train --run-dir {stopped.path} --resume" in " ".join(shown.split())
    assert not nothing
    reached = checkpoint.load(stopped.newest_checkpoint())
    assert reached["environment"]["ranks"] == "2"
    rounds = reached["round"] + 5

    config = fastgan.config.from_yaml(stopped.config)
    for folder, resume in ((stopped, True), (whole, False)):
        assert fastgan.train(config, folder.path, rounds, resume=resume, quiet=True).images == 32 * rounds
    one, other = (checkpoint.load(place.newest_checkpoint()) for place in (stopped, whole))
    assert one["stream"] == other["stream"]
    recorded, expected = ([record["round"] for record in telemetry.read(place.metrics)] for place in (stopped, whole))
    assert recorded == expected


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_killed_rank_ends_the_launcher_and_nothing_is_lost(tmp_path):
    """ZeRO-1 under the deepspeed launcher; two plain ranks resume at its last checkpoint and one process goes on after them."""
    run = Folder(tmp_path / "run")
    asked = words(run.path, "training.steps=100000", "engine.kind=deepspeed", "engine.zero_stage=1")
    command = ["deepspeed", "--num_gpus", "2", "--master_port", str(ranks.free_port()), "--module", "fastgan", *asked]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": os.environ | {"DS_ACCELERATOR": "cpu"}}
    launcher = subprocess.Popen(command, **options)
    wait_for(lambda: run.newest_checkpoint() is not None, launcher)
    first = int((run.path / ".lock").read_text())
    parent = int(Path(f"/proc/{first}/stat").read_text().split()[3])
    (second,) = (pid for pid in children(parent) if pid != first)
    os.kill(second, signal.SIGKILL)
    launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert not Path(f"/proc/{first}").exists()

    left = checkpoint.load(run.newest_checkpoint())
    on = ["train", "--run-dir", run.path, "--resume", "--steps", left["round"] + 4, "--set", "engine.kind=local"]
    ended = ranks.finish(ranks.start(2, "-m", "fastgan", *on, "engine.zero_stage=0"))
    assert [code for code, _, _ in ended] == [0, 0], ended[0][2]
    assert f"goes on from round {left['round']}" in ended[0][1]
    assert "good samples" in ended[0][1]
    assert not ended[1][1]
    assert fastgan.load_run(run.path).round == left["round"] + 4
    recorded = [record["round"] for record in telemetry.read(run.metrics)]
    assert recorded == sorted({*range(5, left["round"] + 1, 5), left["round"] + 4})


def test_nan_on_one_rank_brings_all_back_and_stops_them_in_the_end(tmp_path):
    """As in one process, to the same weights, measurements and evaluations."""
    asked = ("objective=hinge", "training.steps=20", "training.spectra_every=5", "collapse.rollbacks=1")
    asked += ("evaluation.every=320", "evaluation.num=100", "evaluation.best=good-samples")
    shared, whole = Folder(tmp_path / "shared"), Folder(tmp_path / "whole")
    processes = (  # two and one
        *ranks.start(2, "-c", SPOILED, *words(shared.path, *asked)),
        *ranks.start(1, "-c", SPOILED, *words(whole.path, *asked)),
    )
    (first, shown, said), (second, silence, nothing), (alone, _, line) = ranks.finish(processes)
    assert (first, second, alone) == (1, 1, 1), said
    assert "NaN or infinite by round 10: back to round 5, with rates times 0.5" in " ".join(shown.split())
    assert "NaN or infinite by round 15: training has stopped after 1 rollback" in said
    assert said.count("\n") == 1
    assert said == line.replace(str(whole.path), str(shared.path))
    assert not nothing
    assert not silence

    found, expected = (checkpoint.load(folder.newest_checkpoint()) for folder in (shared, whole))
    assert found["round"] == 10
    assert found["rollbacks"] == expected["rollbacks"] == {"count": 1, "rate": 0.5, "to": 5, "saved": (5, 10)}
    for name, tensor in expected["game"].items():
        assert (found["game"][name] - tensor).norm() <= 1e-5 * tensor.norm() + 1e-7, name
    one, other = telemetry.read(shared.metrics), telemetry.read(whole.metrics)
    judged = [[r.pop("evaluation/good-samples") for r in rs if "evaluation/good-samples" in r] for rs in (one, other)]
    assert judged[0] == judged[1]
    assert len(judged[0]) == 2  # the untrained generator, and round 10, the second time
    assert checkpoint.best(shared.checkpoints).name == checkpoint.best(whole.checkpoints).name == "best-00000010.pt"
    one, other = ([r for r in rs if "D/loss" in r or "rollback" in r] for rs in (one, other))
    assert [(r["round"], r.get("rollback")) for r in one] == [(5, None), (5, 1), (10, None)]
    assert one[1] == other[1]
    for record, reference in ((one[0], other[0]), (one[2], other[2])):
        assert record.keys() == reference.keys()
        for name in record.keys() - set(telemetry.TIMINGS) - {"D/separation"}:
            assert record[name] == pytest.approx(reference[name], rel=1e-3, abs=1e-5), name


def test_terms_that_couple_samples_are_not_shared(monkeypatch):
    config = fastgan.preset("digits-r1")
    check_shares(config, 2)
    monkeypatch.setattr(R1, "couples", True)
    with pytest.raises(UserError, match="r1 couples the samples of a batch, so 2 ranks can't share it"):
        check_shares(config, 2)
