"""What is read of a run's folder."""

import json

import pytest

from fastgan.config import override, to_yaml
from fastgan.presets import preset
from fastgan.report.subject import Subject, differences


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text(
        to_yaml(override(preset("digits-sngan"), ["training.batch_size=8", "terms.r1.gamma=3"]))
    )
    return tmp_path


def record(folder, *records):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def test_seconds_add_up_over_resumes_and_rollbacks(folder):
    assert Subject.of(folder, "a").seconds == 0
    record(folder, *({"round": number, "images": number, "seconds": s} for number, s in enumerate([5.0, 9.0, 2.0, 4.0, 1.0])))
    assert Subject.of(folder, "a").seconds == pytest.approx(9 + 4 + 1)


def test_curves_are_numbers_by_name_over_images(folder):
    record(
        folder,
        {"round": 1, "images": 8, "D/loss": 1.0, "images_per_second": None, "seconds": 1.0},
        {"round": 2, "images": 16, "D/loss": 2, "note": "text", "flag": True},
        {"round": 2, "images": 16, "evaluation/fd-digits": 7.5},
        {"round": 1, "images": 8, "rollback": 1, "collapsed": 2, "reason": "x"},
        {"round": 3, "images": "many", "D/loss": 3.0},
    )
    subject = Subject.of(folder, "a")
    assert subject.curves == {"D/loss": [(8.0, 1.0), (16.0, 2.0), (3.0, 3.0)], "evaluation/fd-digits": [(16.0, 7.5)]}
    assert len(subject.rollbacks) == 1
    assert (subject.round, subject.images) == (3, 16)
    assert subject.typical("D/loss") == 2.0
    assert subject.typical("none") is None


def test_what_was_changed_of_the_preset(folder):
    said, changed = Subject.of(folder, "a").changed
    assert said == "the preset digits-sngan"
    base = preset("digits-sngan")
    assert ("training.batch_size", 8, base.training.batch_size) in changed
    assert ("terms.r1.gamma", 3.0, None) in changed
    assert not differences(base, base)


def test_evaluations_first_its_own_then_others_and_curves(folder):
    (folder / "evaluation").mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"metrics": {"a": {"value": 1}}, "sampler": {"name": "plain"}}))
    curve = [{"metrics": {"a": {"value": value}}, "truncation": value} for value in (0.5, 1.0)]
    (folder / "curve.json").write_text(json.dumps({"run": "r", "curve": curve}))
    (folder / "evaluation" / "b.json").write_text(json.dumps({"metrics": {"b": {"value": 2}}}))
    for name, content in {"list": "[1]", "none": "{}", "odd": '{"metrics": {"a": 3}}', "bad": "{", "bytes": "\x00"}.items():
        (folder / f"{name}.json").write_text(content)
    subject = Subject.of(folder, "a")
    assert [result.file for result in subject.results] == ["evaluation.json", "curve.json", "curve.json", "evaluation/b.json"]
    assert subject.results[0].settings == {"metrics.a.value": 1, "sampler.name": "plain"}
    assert subject.unread == ["bad.json", "bytes.json"]
