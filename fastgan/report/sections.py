"""What the page shows, one function a section, in its order. A part that can't be had is a sentence in its place."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastgan import config as configuration
from fastgan.checked import UserError
from fastgan.report import panels
from fastgan.report.chart import Line, chart
from fastgan.report.markup import Markup, details, exact, figure, joined, plain, table, tag
from fastgan.report.pictures import Album
from fastgan.report.subject import Result, Subject, differences
from fastgan.training.picture import picture, usual_number
from fastgan.training.run import Run
from fastgan.training.sampling import columns_for, grid

GRIDS_THROUGH_TIME = 6
PICTURES_OF_A_RUN = GRIDS_THROUGH_TIME + 8
"""As many as a run's part of the page may hold, the grids through time included."""
_LOOKED_AT, _NEIGHBOURED = 16, 8
_WAYS, _STEPS = 6, 9
_FEW_PIXELS = 400
_MOST_RESULTS, _MOST_SPECTRA = 20, 24
_WAYS_OF_POINTS, _STEPS_OF_POINTS = 40, 60

Section = Callable[[Sequence[Subject], Album], Markup]


def summary(subjects: Sequence[Subject], album: Album) -> Markup:
    """The runs beside each other, a column each."""
    del album
    rows = [(name, *(_or_dash(of(subject)) for subject in subjects)) for name, of in _SUMMARY.items()]
    metrics = list(dict.fromkeys(name for subject in subjects for name in _headline(subject)))
    for name in metrics:
        rows.append((name, *(_or_dash(_headline(subject).get(name)) for subject in subjects)))
    rows = [row for row in rows if any(cell != _DASH for cell in row[1:])]
    columns = ("", *(subject.name for subject in subjects)) if len(subjects) > 1 else ()
    return joined([table(rows, columns, "The runs side by side" if len(subjects) > 1 else "The run"), _not_judged(subjects)])


def settings(subjects: Sequence[Subject], album: Album) -> Markup:
    """What differs first, everything below."""
    del album
    parts: list[object] = []
    if len(subjects) > 1:
        found = _between(subjects)
        columns = ("setting", *(subject.name for subject in subjects))
        same = tag("p", "The runs have the same settings.")
        parts.append(tag("h3", "What differs between the runs"))
        parts.append(table(found, columns, "Settings that differ between the runs") if found else same)
    for subject in subjects:
        with_what, changed = subject.changed
        caption = f"Settings that differ from {with_what}"
        rows = [(name, exact(mine), exact(other)) for name, mine, other in changed]
        few = table(rows, ("setting", "this run", with_what), caption) if rows else tag("p", f"All settings are {with_what}'s.")
        everything = [(name, exact(value)) for name, value in configuration.flatten(subject.config).items()]
        whole = details("All settings", table(everything, ("setting", "value"), "All settings"))
        counted = f"{len(rows)} setting{'s differ' if len(rows) != 1 else ' differs'} from {with_what}"
        parts += [_heading(subject, subjects), details(counted, few, whole, open_=len(subjects) == 1 and len(rows) <= 12)]
    return joined(parts)


def curves(subjects: Sequence[Subject], album: Album) -> Markup:
    """Everything that metrics.jsonl has, over the real images shown: one run's in charts of kin, several runs' name by name."""
    del album
    empty = [subject for subject in subjects if not subject.curves]
    parts: list[object] = [_sentence(subject, "has recorded no metrics.", subjects) for subject in empty]
    across = "real images shown"
    if len(subjects) == 1:
        kin: dict[str, dict[str, Line]] = {}
        for name, line in subjects[0].curves.items():
            kin.setdefault(_kin(name), {})[name] = line
        charts = [(title, lines) for title, lines in kin.items() if title != _SPECTRA]
        spectra = kin.get(_SPECTRA, {})
    else:
        names = list(dict.fromkeys(name for subject in subjects for name in subject.curves))
        of_all = {name: {subject.name: subject.curves.get(name, []) for subject in subjects} for name in names}
        charts = [(name, lines) for name, lines in of_all.items() if _kin(name) != _SPECTRA]
        spectra = {name: lines for name, lines in of_all.items() if _kin(name) == _SPECTRA}
    ordered = sorted(charts, key=lambda named: _place(named[0]))
    drawn = [chart(_TITLES.get(title, title), lines, across, title.startswith(_PERHAPS_LOG)) for title, lines in ordered]
    parts.append(tag("div", *drawn, class_="charts"))
    if spectra:
        parts.append(_spectra(spectra, across, len(subjects) == 1))
    for subject in subjects:
        if subject.rollbacks:
            where = ", ".join(f"{plain(event['round'])} ({event.get('reason', 'unknown')})" for event in subject.rollbacks)
            parts.append(_sentence(subject, f"went back to earlier rounds: {where}.", subjects))
    return joined(parts)


def through_time(subjects: Sequence[Subject], album: Album) -> Markup:
    """The pictures that training has written, of the same latents throughout."""

    def of(subject: Subject) -> Markup:
        if not subject.grids:
            return _missing("There are no pictures in samples/: training.sample_every says how often one is written.")
        last = len(subject.grids) - 1
        shown = sorted({round(number * last / (GRIDS_THROUGH_TIME - 1)) for number in range(GRIDS_THROUGH_TIME)})
        found = []
        for number, path in (subject.grids[place] for place in shown):
            what = "points over the modes" if subject.draws_points else "a grid of images"
            alt = f"Samples of {subject.name} at round {number}: {what}"
            try:
                found.append(figure(album.picture(path, alt), f"round {number:,}"))
            except OSError:
                found.append(_missing(f"{path.name} is no picture."))
        left_out = f" {len(shown)} of {last + 1} are shown." if len(shown) <= last else ""
        what = tag("p", f"The same latents at every round, drawn by the averaged generator.{left_out}")
        return joined([what, tag("div", *found, class_="grids wide" if subject.draws_points else "grids")])

    return _of_each(subjects, of)


def final(subjects: Sequence[Subject], album: Album) -> Markup:
    """Samples of the newest checkpoint."""

    def of(subject: Subject) -> Markup:
        run = _run(subject)
        num = _number(run)
        shown = picture(panels.drawn(run, num), run.config.data.source, columns_for(range(run.config.network.classes)))
        alt = f"{num} {'points' if subject.draws_points else 'images'} drawn by {subject.name} after round {run.round}"
        asked = "" if num == usual_number(run.config.data.source) else f"--num {num} "
        command = tag("code", f"fastgan sample RUN {asked}--out FILE.png")
        caption = joined([f"{num:,} samples of round {run.round:,}, not chosen: ", command])
        return figure(album.picture(shown, alt, _kind(subject, shown)), caption, "large")

    return _of_each(subjects, of)


def neighbours(subjects: Sequence[Subject], album: Album) -> Markup:
    """Samples beside the nearest real images."""

    def of(subject: Subject) -> Markup:
        run = _run(subject)
        if subject.draws_points:
            return _missing("Points of a distribution that is drawn anew have no stored neighbours.")
        samples = panels.drawn(run, _LOOKED_AT)
        kinds = ["pixels"]
        if run.config.data.source == "digits" and run.config.data.resolution % 8 == 0:
            kinds.append("features")
        return tag("div", *(_nearest(subject, panels.nearest_real(run, samples, kind), album) for kind in kinds), class_="pair")

    return _of_each(subjects, of)


def _nearest(subject: Subject, found: panels.Neighbours, album: Album) -> Markup:
    images = found.images[:_NEIGHBOURED].transpose(0, 1).flatten(0, 1)  # a column a sample, its neighbours below it
    by = "pixels" if found.by == "pixels" else "the digits classifier's features"
    rows = found.images.shape[1] - 1
    alt = (
        f"First row: {_NEIGHBOURED} samples of {subject.name}. Below each one the {rows} training images nearest to it by "
        f"{by}; distances to the first of them "
        + ", ".join(f"{distance:.2f}" for distance in found.distances[:_NEIGHBOURED].tolist())
    )
    among = "" if found.count == found.of else f" (the first {found.count:,} of {found.of:,} in a shuffled order)"
    median = float(found.distances.median())
    caption = (
        f"By {by}: samples in the first row, below each its {rows} nearest training images{among}. The median distance of "
        f"{_LOOKED_AT} samples to the nearest is {median:.3g}; of real images to the nearest other one {found.among_real:.3g}. "
        "Samples much nearer than that would be copies."
    )
    shown = grid(images, _NEIGHBOURED)
    side = images.shape[2] + 2
    shown[:, side : side + 2] = torch.tensor([1.0, 0.6, 0.0])[:, None, None]  # between samples and real images
    return figure(album.picture(shown, alt, _kind(subject, shown)), caption)


def interpolations(subjects: Sequence[Subject], album: Album) -> Markup:
    """Ways between latents, linear and spherical."""

    def of(subject: Subject) -> Markup:
        run = _run(subject)
        kinds = ["linear"] if run.config.latent.prior == "uniform" else ["linear", "spherical"]
        points = subject.draws_points
        count, steps = (_WAYS_OF_POINTS, _STEPS_OF_POINTS) if points else (_WAYS, _STEPS)
        found = []
        for kind in kinds:
            drawn = panels.paths(run, count, steps, kind)
            flat = drawn.flatten(0, 1)
            shown = picture(flat, run.config.data.source) if points else grid(flat, steps)
            alt = f"{kind.capitalize()} interpolations of {subject.name}: {count} pairs of latents, {steps} steps each"
            caption = f"{kind.capitalize()}: {count} pairs, {steps} steps{'' if points else ', one way a row'}."
            found.append(figure(album.picture(shown, alt, _kind(subject, shown)), caption))
        return tag("div", *found, class_="pair")

    return _of_each(subjects, of)


def refinement(subjects: Sequence[Subject], album: Album) -> Markup:
    """The same latents before and after I-FGSM on D's score (AdvLatGAN-z)."""

    def of(subject: Subject) -> Markup:
        run = _run(subject)
        num = _number(run)
        found = []
        for recipe in panels.refinements(run):
            samples = panels.drawn(run, num, recipe)
            shown = picture(samples, run.config.data.source, columns_for(range(run.config.network.classes)))
            title = "before" if recipe.plain else recipe.title
            caption = f"{title.capitalize()}: mean score of D {panels.mean_score(run, samples):.3g}."
            alt = f"{num} samples of {subject.name}, {title}"
            found.append(figure(album.picture(shown, alt, _kind(subject, shown)), caption))
        latent = run.config.latent
        whose = "the run's own step" if latent.refine_steps else "trained without it: the command's usual step"
        said = f"The same latents, moved by I-FGSM to where D takes their images for real ({whose}; {plain(_asked(latent))})."
        return joined([tag("p", said), tag("div", *found, class_="pair")])

    return _of_each(subjects, of)


def metrics(subjects: Sequence[Subject], album: Album) -> Markup:
    """Every evaluation, each with all that its values depend on."""
    del album

    def of(subject: Subject) -> Markup:
        parts: list[object] = [_missing(f"{name} can't be read as JSON.") for name in subject.unread]
        if not subject.results:
            said = "There is no evaluation yet. This writes one that the page takes: "
            parts.append(tag("p", said, tag("code", "fastgan evaluate RUN --json RUN/evaluation.json"), class_="missing"))
        parts += [_evaluation(result) for result in subject.results[:_MOST_RESULTS]]
        if len(subject.results) > _MOST_RESULTS:
            parts.append(_missing(f"{_MOST_RESULTS} of {len(subject.results)} evaluations are shown."))
        return joined(parts)

    return _of_each(subjects, of)


def _evaluation(result: Result) -> Markup:
    untrained = result.content.get("untrained")
    plain_ones = result.content.get("plain")
    others = {"plain": plain_ones, "untrained": untrained}
    others = {name: found for name, found in others.items() if isinstance(found, dict)}
    rows = [
        (found.get("title", name), _value(found), *(_value(other.get(name)) for other in others.values()))
        for name, found in result.metrics.items()
    ]
    content = result.content
    caption = f"{result.file}: round {content.get('round', 'unknown')}, samples {content.get('samples', 'plain')}"
    if content.get("truncation") is not None:
        caption += f", truncation {plain(content['truncation'])}"
    everything = [(name, exact(value)) for name, value in result.settings.items()]
    whole = table(everything, ("setting", "value"), f"Everything in {result.file}")
    return joined([table(rows, ("metric", "value", *others), caption), details("All that these values depend on", whole)])


def cost(subjects: Sequence[Subject], album: Album) -> Markup:
    """What the runs have taken."""
    del album
    rows = [(name, *(_or_dash(of(subject)) for subject in subjects)) for name, of in _COST.items()]
    rows = [row for row in rows if any(cell != _DASH for cell in row[1:])]
    columns = ("", *(subject.name for subject in subjects)) if len(subjects) > 1 else ()
    return table(rows, columns, "What training has taken")


SECTIONS: dict[str, tuple[str, Section]] = {
    "summary": ("Summary", summary),
    "settings": ("Settings", settings),
    "curves": ("Curves", curves),
    "through-time": ("Samples through time", through_time),
    "final": ("Final samples", final),
    "neighbours": ("Nearest real images", neighbours),
    "interpolations": ("Interpolations", interpolations),
    "refinement": ("Before and after refinement", refinement),
    "metrics": ("Metrics", metrics),
    "cost": ("Cost", cost),
}
"""Anchor -> title and what fills it."""

_DASH = "\N{EN DASH}"
_SPECTRA = "singular values"
_TITLES = {
    "gradient_norm": "gradient norms",
    "images_per_second": "images per second",
    "data_wait": "share of waiting for data",
}
_PERHAPS_LOG = ("evaluation/", "gradient", "weight")
_LAST = "gradient norms", "weight norms", "images per second", "share of waiting for data"


def _kin(name: str) -> str:
    """The chart that a recorded number belongs in."""
    last = name.rpartition("/")[2]
    if name.startswith("sigma_"):
        return _SPECTRA
    if name.startswith("weight_norm/"):
        return "weight norms"
    return _TITLES.get(last, "scores of D" if last in ("score_real", "score_fake") else name)


def _place(title: str) -> int:
    """Where a chart stands among the others: a title is a name, or already that of its kin."""
    kin = _kin(title)
    return _LAST.index(kin) + 1 if kin in _LAST else -title.startswith("evaluation/")


def _spectra(spectra: dict[str, Any], across: str, alone: bool) -> Markup:
    """Singular values of every weight are many: folded away, one run's by the network, several runs' weight by weight for the
    largest alone."""
    if alone:
        kin: dict[str, dict[str, Line]] = {}
        for name, line in spectra.items():
            which, _, weight = name.partition("/")
            if which == "sigma_0":
                network, _, place = weight.partition(".")
                kin.setdefault(f"sigma_0, {network}", {})[place or network] = line
    else:
        kin = {name: lines for name, lines in spectra.items() if name.startswith("sigma_0/")}
    charts = [chart(title, lines, across, may_be_log=True) for title, lines in list(kin.items())[:_MOST_SPECTRA]]
    cut = _missing(f"{_MOST_SPECTRA} of {len(kin)} weights are shown.") if len(kin) > _MOST_SPECTRA else None
    return details("Largest singular value of each weight", tag("div", *charts, class_="charts"), cut)


def _between(subjects: Sequence[Subject]) -> list[tuple[str, ...]]:
    first = subjects[0].config
    names = dict.fromkeys(name for subject in subjects[1:] for name, _, _ in differences(subject.config, first))
    flat = [configuration.flatten(subject.config) for subject in subjects]
    rows = [(name, *(exact(leaves.get(name)) for leaves in flat)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _headline(subject: Subject) -> dict[str, str]:
    """The first evaluation's metrics by title, each with the untrained generator's."""
    if not subject.results:
        return {}
    result = subject.results[0]
    untrained = result.content.get("untrained")
    shown = {}
    for name, found in result.metrics.items():
        before = untrained.get(name) if isinstance(untrained, dict) else None
        said = f"; untrained {_value(before)}" if before else ""
        shown[str(found.get("title", name))] = _value(found) + said
    return shown


def _value(found: Any) -> str:
    if not isinstance(found, dict):
        return _DASH
    if isinstance(found.get("shown"), str):
        return found["shown"]
    return plain(found["value"]) if "value" in found else _DASH


def _not_judged(subjects: Sequence[Subject]) -> Markup:
    return joined(_sentence(s, "has not been evaluated yet.", subjects) for s in subjects if not s.results)


def _asked(latent: Any) -> dict[str, Any]:
    names = ("direction", "momentum", "radius", "stop_score", "keep_best")
    return {name.replace("_", " "): getattr(latent, name) for name in names}


def _kind(subject: Subject, shown: torch.Tensor) -> str | None:
    """How a picture (3, h, w) is enlarged: images of few pixels as squares."""
    return "pixels" if not subject.draws_points and shown.shape[2] <= _FEW_PIXELS else None


def _number(run: Run) -> int:
    """How many samples are shown: the usual number, or whole rows of a grid with a class a column."""
    usual, columns = usual_number(run.config.data.source), columns_for(range(run.config.network.classes))
    return usual // columns * columns if columns else usual


def _run(subject: Subject) -> Run:
    """The run's networks.

    Raises:
        UserError: it has no checkpoint yet.
    """
    if subject.run is None:
        raise UserError("the run has no checkpoint yet")
    return subject.run


def _of_each(subjects: Sequence[Subject], of: Callable[[Subject], Markup]) -> Markup:
    """What `of` makes of each run, side by side; of a mistake its sentence."""
    parts = []
    for subject in subjects:
        try:
            inside = of(subject)
        except (UserError, OSError) as error:
            said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
            inside = _missing(f"Not to be had: {said}{'' if said.endswith('.') else '.'}")
        parts.append(tag("div", _heading(subject, subjects), inside, class_="run"))
    return tag("div", *parts, class_="runs") if len(parts) > 1 else joined(parts)


def _heading(subject: Subject, subjects: Sequence[Subject]) -> Markup | None:
    return tag("h3", subject.name) if len(subjects) > 1 else None


def _missing(said: str) -> Markup:
    return tag("p", said, class_="missing")


def _sentence(subject: Subject, said: str, subjects: Sequence[Subject]) -> Markup:
    return _missing(f"{subject.name if len(subjects) > 1 else 'The run'} {said}")


def _or_dash(value: str | None) -> str:
    return _DASH if value is None else value


def _parameters(subject: Subject, name: str) -> str | None:
    if subject.run is None:
        return None
    count = sum(weight.numel() for weight in getattr(subject.run, name).parameters())
    return f"{count:,}"


def _of_curve(name: str, shape: str) -> Callable[[Subject], str | None]:
    def of(subject: Subject) -> str | None:
        value = subject.typical(name)
        return None if value is None else format(value, shape)

    return of


def _refined(subject: Subject) -> str:
    latent = subject.config.latent
    return f"{latent.refine_steps} x {latent.step_size:g}" if latent.refine_steps else "none"


def _duration(seconds: float) -> str | None:
    if not seconds:
        return None
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _judging(subject: Subject) -> str | None:
    """Passes through the networks for each judged sample."""
    found = subject.results[0].content.get("cost") if subject.results else None
    if not isinstance(found, dict):
        return None
    passes = {"G": found.get("generator"), "D": found.get("discriminator"), "backward": found.get("backward")}
    return plain({name: count for name, count in passes.items() if count is not None})


def _checkpoint_size(subject: Subject) -> str | None:
    newest = subject.folder.newest_checkpoint()
    return f"{newest.stat().st_size / 1e6:.1f} MB" if newest else None


def _data(subject: Subject) -> str:
    data = subject.config.data
    if subject.draws_points:
        return f"{data.source}, points"
    return f"{data.source}, {data.resolution}x{data.resolution}, {'grey' if data.channels == 1 else 'colour'}"


_SUMMARY: dict[str, Callable[[Subject], str | None]] = {
    "preset": lambda subject: subject.config.name,
    "method": lambda subject: subject.config.description or None,
    "data": _data,
    "objective": lambda subject: subject.config.objective if subject.config.game == "adversarial" else subject.config.game,
    "networks": lambda subject: f"{subject.config.network.family}, width {subject.config.network.width}",
    "terms": lambda subject: ", ".join(subject.config.terms) or "none",
    "refinement in training": _refined,
    "rounds": lambda subject: f"{subject.round:,} of {subject.config.training.steps:,}",
    "real images shown": lambda subject: f"{subject.images:,}",
    "training time": lambda subject: _duration(subject.seconds),
}
_COST: dict[str, Callable[[Subject], str | None]] = {
    "training time": lambda subject: _duration(subject.seconds),
    "rounds": lambda subject: f"{subject.round:,}",
    "real images shown": lambda subject: f"{subject.images:,}",
    "batch": lambda subject: f"{subject.config.training.batch_size:,}",
    "real images per second (median)": _of_curve("images_per_second", ",.0f"),
    "share of waiting for data (median)": _of_curve("data_wait", ".1%"),
    "weights of the generator": lambda subject: _parameters(subject, "generator"),
    "weights of the discriminator": lambda subject: _parameters(subject, "discriminator"),
    "precision": lambda subject: subject.config.training.precision,
    "a checkpoint": _checkpoint_size,
    "passes for each judged sample": _judging,
    "went back": lambda subject: f"{len(subject.rollbacks)} times" if subject.rollbacks else None,
}
