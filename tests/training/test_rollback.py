"""What a run does about its collapse (`fastgan.training.keeping`)."""

import os
import signal

import pytest
import ranks
import torch
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.objectives import OBJECTIVES, Objective
from fastgan.training import checkpoint, telemetry
from fastgan.training.folder import Folder
from fastgan.training.keeping import Diverged, last_good
from fastgan.training.session import Rollbacks, Session

STEPS = ("training.steps=8", "training.precision=fp32", "training.sample_every=4")
EXPLODING = (
    "generator.rate=0.1", "generator.warmup=7", "generator.schedule=constant", "training.spectra_every=2",
    "training.keep_checkpoints=9", "collapse.sigma_growth=1.035", "collapse.rate_factor=0.8", "collapse.rollbacks=9",
)  # fmt: skip
"""G's steps are so large that sigma_0 grows by more than this again and again, until the rate has fallen."""


def train(folder, *assignments, **options):
    config = override(fastgan.preset("digits-sngan-qua"), [*TINY, *STEPS, *assignments])
    return fastgan.train(config, folder, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that went back several times, undisturbed."""
    folder = Folder(tmp_path_factory.mktemp("runs") / "run")
    train(folder.path, *EXPLODING, quiet=True)
    assert state(folder.path)["rollbacks"]["count"] > 1
    return folder


def spoil(monkeypatch, *spoiled):
    """Make D's loss NaN at these calls of it, counted from 1; a round calls it once."""
    hinge, calls = OBJECTIVES["hinge"], []

    def loss(real, fake):
        calls.append(1)
        return hinge.discriminator(real, fake) * (float("nan") if len(calls) in spoiled else 1.0)

    monkeypatch.setitem(OBJECTIVES, "hinge", Objective(loss, hinge.per_score))


def state(folder):
    return checkpoint.load(Folder(folder).newest_checkpoint())


def recorded(folder):
    records = telemetry.read(Folder(folder).metrics)
    return [{name: value for name, value in record.items() if name not in telemetry.TIMINGS} for record in records]


def test_after_nan_it_goes_back_and_on_in_another_way(tmp_path, monkeypatch, capsys):
    undisturbed = train(tmp_path / "a", quiet=True)
    spoil(monkeypatch, 4)
    run = train(tmp_path / "b", "collapse.rollbacks=1")
    line = "a loss or weight was NaN or infinite by round 4: back to round 2, with rates times 0.5 and other latents "
    assert capsys.readouterr().out.count(f"warning: {line}(rollback 1 of 1)\n") == 1
    assert [(r["round"], r.get("rollback")) for r in recorded(run.path)] == [(2, None), (2, 1), (4, None), (6, None), (8, None)]
    reason = "a loss or weight was NaN or infinite by round 4"
    assert recorded(run.path)[1] == {"round": 2, "images": 32, "rollback": 1, "collapsed": 4, "rate": 0.5, "reason": reason}
    assert state(run.path)["rollbacks"] == {"count": 1, "rate": 0.5, "to": 2, "saved": (6, 8)}
    assert recorded(run.path)[0] == recorded(undisturbed.path)[0]
    assert recorded(run.path)[2] != recorded(undisturbed.path)[1]
    assert all(tensor.isfinite().all() for tensor in state(run.path)["game"].values())
    assert run.images == 8 * 16


def test_where_nothing_collapses_nothing_changes(tmp_path):
    plain, ready = train(tmp_path / "a", quiet=True), train(tmp_path / "b", "collapse.rollbacks=3", quiet=True)
    one, other = state(plain.path), state(ready.path)
    ranks.assert_equal({**one, "config": None}, {**other, "config": None})
    assert recorded(plain.path) == recorded(ready.path)


def test_a_checkpoint_that_collapses_again_is_taken_for_spoiled(tmp_path, monkeypatch):
    spoil(monkeypatch, *range(6, 100))
    with pytest.raises(Diverged, match=r"NaN or infinite by round 4: .* stopped after 3 rollbacks, .*00000002\.pt"):
        train(tmp_path, "collapse.rollbacks=3", quiet=True)
    events = [(r["round"], r["collapsed"]) for r in recorded(tmp_path) if "rollback" in r]
    assert events == [(4, 6), (2, 6), (2, 4)]
    assert [path.name for path in checkpoint.listing(tmp_path / "checkpoints")] == ["00000002.pt"]
    assert state(tmp_path)["rollbacks"] == {"count": 3, "rate": 0.125, "to": 2, "saved": (2,)}


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path, monkeypatch):
    spoil(monkeypatch, 1)
    with pytest.raises(Diverged, match="training has stopped, there was no checkpoint yet"):
        train(tmp_path, "collapse.rollbacks=3", quiet=True)


def test_a_run_that_has_collapsed_may_be_given_rollbacks(whole, tmp_path):
    """Replayed it collapses once more, in the same way, and then goes on."""
    stopping = (*EXPLODING, "collapse.rollbacks=0")
    line = r"largest singular value of the generator's weights grew from [\d.]+ to [\d.]+ by round \d: training has stopped"
    with pytest.raises(Diverged, match=line):
        train(tmp_path, *stopping, quiet=True)
    train(tmp_path, *EXPLODING, resume=True, quiet=True)
    ranks.assert_equal(state(tmp_path), state(whole.path))
    assert recorded(tmp_path) == recorded(whole.path)


class Killed(BaseException):
    """In the place of SIGKILL: nothing that the run would do afterwards is done."""


def test_killed_at_any_moment_of_it_a_run_ends_as_if_nobody_had_touched_it(whole, tmp_path, monkeypatch):
    killed, left = Folder(tmp_path), [0]

    def counted(step):
        def either_side(*args, **options):
            for part in (lambda: None, lambda: step(*args, **options)):
                found = part()
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
            return found

        return either_side

    for module, name in ((checkpoint, "save"), (checkpoint, "drop_after"), (telemetry, "truncate")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    lives = 0
    for left[0] in range(7, 60, 4):  # the first one with a rollback recorded and not yet in a checkpoint
        lives += 1
        try:
            train(killed.path, *EXPLODING, resume=killed.config.exists(), quiet=True)
        except Killed:
            continue
        break
    assert lives > 2
    ranks.assert_equal(state(whole.path), state(killed.path))
    assert recorded(whole.path) == recorded(killed.path)
    for picture in whole.samples.iterdir():
        assert picture.read_bytes() == (killed.samples / picture.name).read_bytes()


def test_a_signal_in_between_changes_neither_where_it_goes_back_to(whole, tmp_path, monkeypatch):
    stopped, play, played = Folder(tmp_path), Session.play_round, []

    def play_and_stop(session):
        play(session)
        played.append(session.round)
        if len(played) in (3, 8):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Session, "play_round", play_and_stop)
    while train(stopped.path, *EXPLODING, resume=stopped.config.exists(), quiet=True).round < 8:
        pass
    one, other = state(whole.path), state(stopped.path)
    ranks.assert_equal(one, other)

    def told(folder):  # a collapse may be seen a round earlier, where the run was stopped
        return [{k: v for k, v in r.items() if k not in ("collapsed", "reason")} for r in recorded(folder.path)]

    assert told(whole) == told(stopped)


def test_the_last_good_checkpoint(tmp_path):
    folder = Folder(tmp_path)
    folder.checkpoints.mkdir()

    def last(*rounds, to=None, regular=(10, 20)):
        for path in folder.checkpoints.iterdir():
            path.unlink()
        for number in rounds:
            (folder.checkpoints / f"{number:08d}.pt").touch()
        found = last_good(folder, Rollbacks(to=to, saved=regular))
        return found and int(found.stem)

    assert last() is None
    assert last(10, 20) == 20
    assert last(10, 20, 25) == 20  # a signal has left the last one
    assert last(7) == 7
    assert last(10, 20, to=10) == 20
    assert last(10, 20, to=20) == 10
    assert last(20, to=20) == 20
    assert last(500, 1000, 1400, to=1400, regular=(1000, 1400)) == 1000  # whatever checkpoint_every has become
    assert last(5, 10, to=10, regular=()) == 5  # a run of an older fastgan


def test_the_last_two_rounds_saved_in_their_turn_are_known():
    rollbacks = Rollbacks()
    for number, expected in ((10, (10,)), (20, (10, 20)), (20, (10, 20)), (30, (20, 30)), (25, (20, 25))):
        rollbacks = rollbacks.saving(number)
        assert rollbacks.saved == expected


def test_waiting_is_counted_from_the_rollback_on(tmp_path):
    """`Session.waited` goes on over a rollback: what was waited before it is not the next interval's."""
    folder = Folder(tmp_path)
    event = {"rollback": 1, "collapsed": 2, "rate": 0.5, "reason": "a test"}
    with telemetry.Telemetry(folder, 0, 10, True) as log:
        log.begin_clock(0, 0.0)
        log.go_back(0, 0, event, 100.0)
        log.record(2, 16, {}, 100.0)
    assert telemetry.read(folder.metrics)[-1]["data_wait"] == 0


def test_settings_that_can_not_be(tmp_path):
    for assignment, line in (
        ("training.spectra_every=3", "spectra_every 3 is not a multiple of training.log_every 2"),
        ("collapse.sigma_growth=2", "collapse.sigma_growth needs training.spectra_every"),
        ("collapse.rate_factor=0", "collapse.rate_factor should be greater than 0"),
        ("collapse.rollbacks=-1", "collapse.rollbacks should be greater than or equal to 0"),
    ):
        with pytest.raises(UserError, match=line):
            train(tmp_path / "run", assignment)


def test_what_is_measured_stands_in_the_metrics_of_its_rounds(tmp_path):
    plain, run = train(tmp_path / "a", quiet=True), train(tmp_path / "b", "training.spectra_every=4", quiet=True)
    ranks.assert_equal({**state(plain.path), "config": None, "guard": None}, {**state(run.path), "config": None, "guard": None})
    names = {"D/gradient_norm", "G/gradient_norm", "weight_norm/generator", "sigma_0/generator.linear.weight"}
    assert [(r["round"], names <= r.keys()) for r in recorded(run.path)] == [(2, False), (4, True), (6, False), (8, True)]
    layer = run.generator.linear.weight.detach()
    found = [recorded(run.path)[-1][f"sigma_{k}/generator.linear.weight"] for k in range(3)]
    assert found == pytest.approx(torch.linalg.svdvals(layer)[:3].tolist(), rel=1e-4)
