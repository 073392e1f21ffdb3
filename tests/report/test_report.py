"""The page of tiny runs, as a parser sees it."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from toys import TINY

import fastgan
from fastgan.checked import UserError
from fastgan.config import override, to_yaml
from fastgan.presets import preset
from fastgan.report import MOST_BYTES, MOST_RUNS, write_report
from fastgan.report.sections import GRIDS_THROUGH_TIME, PICTURES_OF_A_RUN, SECTIONS
from fastgan.training.assess import compare_with_untrained

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """A page's elements, in order, and its text by the section that it stands in; AssertionError where tags do not match."""

    def __init__(self, path):
        super().__init__()
        self.open, self.elements, self.texts, self.size = [], [], {}, path.stat().st_size
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        where = next((attrs["id"] for tag, attrs in self.open if tag == "section"), None)
        self.texts[where] = self.texts.get(where, "") + data

    def all(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]


def train(folder, name="digits-sngan-qua", *settings, rounds=4):
    config = override(preset(name), [*TINY, "training.sample_every=2", *settings])
    return fastgan.train(config, folder, steps=rounds, quiet=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of digits that was judged."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    compare_with_untrained(train(folder), num=40)
    return folder


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """A run of points that was not."""
    folder = tmp_path_factory.mktemp("runs") / "points"
    settings = ["network.width=8", "training.batch_size=16", "training.log_every=2"]
    fastgan.train(override(preset("grid25"), settings), folder, steps=4, quiet=True)
    return folder


@pytest.fixture(scope="module")
def both(digits, points, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "both.html"
    write_report([digits, points], out)
    return Page(out)


@pytest.fixture(scope="module")
def one(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "new" / "one.html"
    write_report([digits], out)
    return Page(out)


def copied(run, folder):
    shutil.copytree(run, folder)
    return folder


def test_every_section_is_there_and_linked(one, both):
    for page in (one, both):
        assert [attrs["id"] for attrs in page.all("section")] == list(SECTIONS)
        assert {attrs["href"] for attrs in page.all("a")} == {f"#{anchor}" for anchor in SECTIONS}
        assert len(re.findall("<h1>", page.source)) == 1


def test_it_loads_nothing_and_is_small(one, both):
    for page in (one, both):
        assert page.size < MOST_BYTES
        assert not page.all("script", "link", "iframe", "object", "embed")
        assert "http:" not in page.source
        assert "https:" not in page.source
        assert "@import" not in page.source
        assert "url(" not in page.source
        assert all(attrs["src"].startswith("data:image/") for attrs in page.all("img"))


def test_a_runs_pictures_are_no_more_than_the_page_has_room_for(one):
    assert len(one.all("img")) - 2 + GRIDS_THROUGH_TIME <= PICTURES_OF_A_RUN  # it has two grids through time


def test_every_picture_says_what_it_shows(one, both):
    for page in (one, both):
        assert len(page.all("img")) > 6
        assert all(len(attrs["alt"]) > 15 for attrs in page.all("img"))
        assert all(attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in page.all("svg"))


def test_a_run_of_digits_has_all_of_its_parts(one, digits):
    config = fastgan.load_run(digits).config
    texts = one.texts
    assert "4 of 4" in texts["summary"]
    assert "FD-digits (train, 1442 real, 40 generated)" in texts["summary"]
    assert "untrained" in texts["summary"]
    assert re.search(r"network\.width\s*2\s*16", texts["settings"])
    assert "collapse.rate_factor" in texts["settings"]  # in all settings
    assert [title for title in ("D/loss", "G/loss", "scores of D", "D/separation") if title not in texts["curves"]] == []
    assert re.findall(r"round (\d)", texts["through-time"]) == ["2", "4"]
    assert "64 samples of round 4" in texts["final"]
    assert "By pixels" in texts["neighbours"]
    assert "By the digits classifier's features" in texts["neighbours"]
    assert "Linear" in texts["interpolations"]
    assert "Spherical" in texts["interpolations"]
    shown = f"Refined, {config.latent.refine_steps} x {config.latent.step_size:g}"
    assert all(part in texts["refinement"] for part in ("Before: mean score", shown, "Refined, 20 x"))
    assert "refinement.direction" in texts["metrics"]
    assert "metrics.fd-digits.accuracy" in texts["metrics"]
    assert "weights of the generator" in texts["cost"]
    assert "missing" not in {attrs.get("class") for attrs in one.all("p")}


def test_runs_stand_side_by_side(both):
    heads = re.findall(r'<th scope="col">([^<]*)</th>', both.source)
    assert heads[:3] == ["", "a", "points"]
    assert "network.family" in both.texts["settings"]
    for anchor in ("through-time", "final", "refinement", "metrics"):
        section = both.source.split(f'<section id="{anchor}">')[1].split("</section>")[0]
        assert re.findall("<h3>([^<]*)</h3>", section) == ["a", "points"]
    assert both.texts["curves"].count("points") >= 4  # a line of each chart


def test_points_are_drawn_and_have_no_neighbours(both):
    alts = [attrs["alt"] for attrs in both.all("img")]
    assert "5000 points drawn by points after round 4" in alts
    assert sum("of points" in alt or "by points" in alt for alt in alts) >= 5
    assert "no stored neighbours" in both.texts["neighbours"]


def test_what_a_run_does_not_have_is_said(tmp_path, digits):
    run = copied(digits, tmp_path / "bare")
    for name in ("evaluation.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "samples")
    shutil.rmtree(run / "checkpoints")
    (run / "broken.json").write_text("{")
    (run / "other.json").write_text('{"metrics": 3}')
    write_report([run], tmp_path / "page.html")
    texts = Page(tmp_path / "page.html").texts
    assert "has not been evaluated yet" in texts["summary"]
    assert "no metrics" in texts["curves"]
    assert "no pictures in samples/" in texts["through-time"]
    for anchor in ("final", "neighbours", "interpolations", "refinement"):
        assert "the run has no checkpoint yet" in texts[anchor]
    assert "no evaluation yet" in texts["metrics"]
    assert "broken.json can't be read" in texts["metrics"]
    assert "other.json" not in texts["metrics"]


def test_data_that_is_gone_and_files_that_are_no_pictures_are_said(tmp_path):
    pixels = torch.randint(0, 256, (40, 16, 16), dtype=torch.uint8).numpy()
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(photos / f"{number}.png")
    settings = ["data.source=folder", f"data.path={photos}"]
    run = train(tmp_path / "of-photos", "digits-sngan-qua", *settings, rounds=2)
    write_report([run.path], tmp_path / "page.html")
    texts = Page(tmp_path / "page.html").texts
    assert "By pixels" in texts["neighbours"]
    assert "classifier" not in texts["neighbours"]
    shutil.rmtree(photos)
    (run.path / "samples" / "00000002.png").write_bytes(b"no picture")
    write_report([run.path], tmp_path / "page.html")
    texts = Page(tmp_path / "page.html").texts
    assert re.search(r"Not to be had: .*photos.*\.", texts["neighbours"])
    assert "00000002.png is no picture" in texts["through-time"]
    assert "samples of round 2" in texts["final"]


def test_a_folder_that_keeps_no_classifier_is_said(tmp_path, digits):
    run = copied(digits, tmp_path / "run")
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").write_text("in the way")
    write_report([run], tmp_path / "page.html")
    texts = Page(tmp_path / "page.html").texts
    assert re.search(r"Not to be had: .*evaluation", texts["neighbours"])
    assert "Linear" in texts["interpolations"]


def test_names_and_files_add_no_markup(tmp_path, digits):
    evil = "<script>alert(1)</script>\"'&"
    run = copied(digits, tmp_path / evil.replace("/", "\N{DIVISION SLASH}"))
    found = json.loads((run / "evaluation.json").read_text())
    found["metrics"] = {evil: {"value": 1.0, "title": evil, evil: evil}}
    found["samples"] = evil
    (run / "evaluation.json").write_text(json.dumps(found))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"round": 4, "images": 64, evil: 1.0}) + "\n")
        file.write(json.dumps({"round": 4, "images": 64, "rollback": 1, "reason": evil}) + "\n")
    (run / "config.yaml").write_text(to_yaml(override(fastgan.load_run(run).config, ["description=<b onload=x>"])))
    shutil.rmtree(run / "checkpoints")  # nothing to draw: this test is about words
    write_report([run], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert not page.all("script", "b")
    assert "<script" not in page.source
    assert page.texts["metrics"].count(evil) >= 3
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_two_folders_of_one_name_are_told_apart(tmp_path, digits):
    runs = [copied(digits, tmp_path / name / "run") for name in ("x", "y")]
    for run in runs:
        shutil.rmtree(run / "checkpoints")
    write_report(runs, tmp_path / "page.html")
    heads = re.findall(r'<th scope="col">([^<]*)</th>', (tmp_path / "page.html").read_text())
    assert heads[1:3] == [str(run) for run in runs]


def test_bad_runs_are_one_line(tmp_path, digits):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    bad = copied(digits, tmp_path / "bad")
    (bad / "config.yaml").write_text("seed: [")
    damaged = copied(digits, tmp_path / "damaged")
    next((damaged / "checkpoints").glob("*4.pt")).write_bytes(b"damaged")
    for runs, out, said in (
        ([], "page.html", "at least one run"),
        ([tmp_path / "empty"], "page.html", "there is no run in .*empty"),
        ([bad], "page.html", "not a YAML document"),
        ([damaged], "page.html", "damaged"),
        ([digits, digits], "page.html", "named twice"),
        ([tmp_path / str(number) for number in range(MOST_RUNS + 1)], "page.html", "at most"),
        ([digits], "page.png", "must end in .html"),
        ([digits], "folder.html", "can't be written"),
    ):
        with pytest.raises(UserError, match=said) as found:
            write_report(runs, tmp_path / out)
        assert "\n" not in str(found.value)
    assert not (tmp_path / "page.html").exists()


def luminance(colour):
    """WCAG 2.1, relative luminance of #rrggbb."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast_of_both_schemes(one):
    style = one.source.split("<style>")[1].split("</style>")[0]
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in re.findall(r":root \{([^}]*)\}", style))
    assert set(light) == set(dark)
    for scheme in (light, dark):
        assert {f"c{number}" for number in range(8)} <= set(scheme)
        for ground in ("ground", "panel"):
            for name, colour in scheme.items():
                lighter, darker = sorted((luminance(colour), luminance(scheme[ground])), reverse=True)
                least = 4.5 if name in ("text", "muted", "link") else 3.0 if re.fullmatch(r"c\d", name) else 1.0
                assert (lighter + 0.05) / (darker + 0.05) >= least, (name, ground)
