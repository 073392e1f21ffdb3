"""Evaluation in the loop: what it logs, what it keeps, and when it ends a run."""

import os
import signal

import pytest
import ranks
import torch

import fastgan
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.evaluation import good_samples
from fastgan.objectives import OBJECTIVES, Objective
from fastgan.training import checkpoint, telemetry
from fastgan.training.assess import METRICS
from fastgan.training.folder import Folder
from fastgan.training.session import Session
from fastgan.training.watching import is_higher_better, scalars

SMALL = (
    "network.width=16", "training.batch_size=16", "training.log_every=4", "training.checkpoint_every=4",
    "training.precision=fp32", "training.sample_every=0", "training.steps=12",
    "generator.rate=0.1", "discriminator.rate=0.1", "evaluation.num=200",
)  # fmt: skip
WATCHED = ("evaluation.every=30", "evaluation.best=good-samples")  # after rounds 2, 4, 6, 8, 10 (160 > 150), 12


def train(folder, *assignments, preset="grid25", **options):
    return fastgan.train(override(fastgan.preset(preset), [*SMALL, *assignments]), folder, **{"quiet": True, **options})


def state(folder):
    return checkpoint.load(Folder(folder).newest_checkpoint())


def recorded(folder):
    records = telemetry.read(Folder(folder).metrics)
    return [{name: value for name, value in record.items() if name not in telemetry.TIMINGS} for record in records]


def judged(folder):
    """Round -> the metric there."""
    name = "evaluation/good-samples"
    return {record["round"]: record[name] for record in recorded(folder) if name in record}


def bests(folder):
    return [path.name for path in sorted((folder / "checkpoints").glob("best-*"))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run", *WATCHED, "training.keep_checkpoints=1")


def test_samples_are_judged_every_so_many_images_and_before_training(run):
    assert list(judged(run.path)) == [0, 2, 4, 6, 8, 10, 12]
    (event,) = [r for r in recorded(run.path) if r["round"] == 2]
    assert event["images"] == 32
    assert judged(run.path)[12] == fastgan.training.evaluate(run, num=200)["metrics"]["good-samples"]["value"]
    assert judged(run.path)[0] == fastgan.training.evaluate(run.untrained(), num=200)["metrics"]["good-samples"]["value"]


def test_they_are_in_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder.tensorboard)).Reload().Scalars("evaluation/good-samples")
    assert {event.step: event.value for event in events} == pytest.approx(judged(run.path))


def test_the_best_checkpoint_is_kept_beside_the_newest(run):
    trained = {number: value for number, value in judged(run.path).items() if number}
    number = max(trained, key=trained.get)
    assert 0 < number < 12  # or the test tells nothing
    assert bests(run.path) == [f"best-{number:08d}.pt"]
    best = fastgan.load_run(run.path, checkpoint="best")
    assert best.round == number
    assert good_samples_of(best) == trained[number]
    assert fastgan.load_run(run.path).round == fastgan.load_run(run.path, checkpoint=12).round == 12
    with pytest.raises(UserError, match="no checkpoint of round 7, but of 12"):
        fastgan.load_run(run.path, checkpoint=7)
    with pytest.raises(UserError, match="checkpoint takes newest, best or the number of a round, not 'worst'"):
        fastgan.load_run(run.path, checkpoint="worst")


def good_samples_of(run):
    distribution = fastgan.training.assess.DISTRIBUTIONS["grid25"]
    return good_samples(fastgan.sample(run, 200), distribution.modes, distribution.sigma).value


def test_nothing_in_the_training_depends_on_it(run, tmp_path):
    plain = train(tmp_path, "training.keep_checkpoints=1")
    for name, tensor in plain.game.state_dict().items():
        assert torch.equal(tensor, run.game.state_dict()[name]), name
    assert recorded(plain.path) == [r for r in recorded(run.path) if "D/loss" in r]
    with pytest.raises(UserError, match=r"has no best checkpoint: it is kept where evaluation\.best names a metric"):
        fastgan.load_run(tmp_path, checkpoint="best")


def test_stopped_and_resumed_it_ends_as_if_nobody_had_touched_it(run, tmp_path, monkeypatch):
    play, played = Session.play_round, []

    def play_and_stop(session):
        play(session)
        played.append(session.round)
        if len(played) in (3, 6):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Session, "play_round", play_and_stop)
    while not train(tmp_path, *WATCHED, "training.keep_checkpoints=1", resume=(tmp_path / "config.yaml").exists()).finished:
        pass
    ranks.assert_equal(state(run.path), state(tmp_path))
    assert judged(run.path) == judged(tmp_path)
    assert bests(run.path) == bests(tmp_path)


class Killed(BaseException):
    """In the place of SIGKILL."""


def test_killed_before_a_checkpoint_knows_of_the_best_one_it_comes_to_the_same(run, tmp_path, monkeypatch):
    save, left = checkpoint.save_best, [2]

    def killed(*arguments):
        save(*arguments)
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(checkpoint, "save_best", killed)
    with pytest.raises(Killed):
        train(tmp_path, *WATCHED, "training.keep_checkpoints=1")
    train(tmp_path, *WATCHED, "training.keep_checkpoints=1", resume=True)
    ranks.assert_equal(state(run.path), state(tmp_path))
    assert judged(run.path) == judged(tmp_path)
    assert bests(run.path) == bests(tmp_path)


def test_a_run_that_goes_back_forgets_the_best_of_the_rounds_undone(tmp_path, monkeypatch):
    hinge, calls = OBJECTIVES["hinge"], []

    def loss(real, fake):
        calls.append(1)
        return hinge.discriminator(real, fake) * (float("nan") if len(calls) == 7 else 1.0)

    monkeypatch.setitem(OBJECTIVES, "hinge", Objective(loss, hinge.per_score))
    run = train(tmp_path, *WATCHED, "collapse.rollbacks=1", "objective=hinge")
    assert state(run.path)["rollbacks"]["to"] == 4
    trained = {number: value for number, value in judged(run.path).items() if number}
    assert list(trained) == [2, 4, 6, 8, 10, 12]
    kept = state(run.path)["evaluation"]
    assert (kept["round"], kept["value"]) == (max(trained, key=trained.get), max(trained.values()))
    assert fastgan.load_run(tmp_path, checkpoint="best").round == kept["round"]


def test_a_run_that_does_not_improve_ends_early_and_may_go_on(tmp_path, capsys):
    still = ("generator.rate=1e-12", "training.ema_half_life=0", "evaluation.patience=2")
    run = train(tmp_path, *WATCHED, *still, quiet=False)
    assert run.round == 6  # 2 is the first, 4 and 6 are no better
    assert run.finished
    assert sorted(path.name for path in run.folder.samples.iterdir()) == ["00000006.png"]
    line = r"good-samples has not improved on its best, [\d.]+ at round 2, for 2 evaluations"
    ranks_line = capsys.readouterr().out
    assert "stopped after round 6: good-samples has not improved on its best" in ranks_line
    before = (run.path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=line + "; a larger evaluation.patience, or 0, trains it longer"):
        train(tmp_path, *WATCHED, *still, resume=True)
    assert (run.path / "config.yaml").read_bytes() == before
    longer = train(tmp_path, *WATCHED, *still[:2], "evaluation.patience=3", resume=True)
    assert (longer.round, longer.finished) == (8, True)


def test_settings_that_can_not_be(tmp_path):
    for assignments, line in (
        (("evaluation.best=fid",), "evaluation.best needs evaluation.every"),
        (("evaluation.every=9", "evaluation.patience=2"), "evaluation.patience needs evaluation.best"),
        (("evaluation.every=9", "evaluation.best=fud"), "unknown metric 'fud'"),
        (("evaluation.every=9", "evaluation.metrics=[kid, foo]"), "unknown metric 'foo'"),
        (("evaluation.every=9", "evaluation.best=kid-none"), "unknown metric 'kid-none'"),
        (("evaluation.num=1",), "evaluation.num should be greater than or equal to 2"),
    ):
        with pytest.raises(UserError, match=line):
            train(tmp_path / "run", *assignments)
    assert not (tmp_path / "run").exists()


def test_metrics_that_can_not_judge_the_data_are_refused_before_the_first_round(tmp_path):
    with pytest.raises(UserError, match=r"digits|images"):
        train(tmp_path, "evaluation.every=1000000", "evaluation.metrics=[fd-digits]")
    assert not bests(tmp_path)
    assert train(tmp_path, "training.steps=1", resume=True).round == 1


def test_the_better_direction_of_every_metric_is_known():
    assert {name for name in METRICS if not is_higher_better(name)} <= {"fid", "fd-digits", "kid", "ndb", "intra-fid"}
    for name, higher in (("fid", 0), ("fd-digits", 0), ("kid-digits", 0), ("intra-fid", 0), ("is", 1), ("prdc-digits", 1)):
        assert is_higher_better(name) == bool(higher), name
    with pytest.raises(UserError, match="unknown metric 'issue'"):
        is_higher_better("issue")


def test_finite_numbers_are_logged():
    found = {"prdc-digits": {"value": 0.5, "recall": 0.25, "coverage": (1, 2), "num": 7}, "kid": {"value": float("nan")}}
    assert scalars(found) == {"evaluation/prdc-digits": 0.5, "evaluation/prdc-digits/recall": 0.25}
