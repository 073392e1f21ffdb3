"""Judging a run: its samples against real images. The table of metrics is `METRICS`, below."""

import dataclasses
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.checked import UserError, nearest
from fastgan.data import DISTRIBUTIONS, Stream, open_source
from fastgan.engine import ALONE, Ranks
from fastgan.evaluation import (
    DigitsJudge,
    DigitsReport,
    Extractor,
    Features,
    Gathering,
    cached_classifier,
    classifier_accuracy_score,
    covered_classes,
    density_and_coverage,
    different_bins,
    diversity_within_classes,
    extractors,
    frechet_distance,
    frechet_within_classes,
    good_samples,
    inception_score,
    kernel_distance,
    manifold,
    parzen,
    precision_recall,
)
from fastgan.latent.samplers import name_of
from fastgan.training import reference
from fastgan.training.files import write_json
from fastgan.training.reference import FolderImages, RealImages
from fastgan.training.run import Run
from fastgan.training.sampling import Cost, Recipe, Samples, as_bytes

DEFAULT_NUM = 5000
SURE = 0.9
"""Probability of each of a stack's three digits from which on the classifier is called sure: of 90 % of real stacks it is."""
MODES_NUM = 26_000
"""Samples in which the 1,000 modes of stacked digits are counted, as in the literature since Metz et al. 2017."""


def evaluate(
    run: Run,
    metrics: Sequence[str] | None = None,
    num: int | None = None,
    refine_steps: int = 0,
    step_size: float = 0.05,
    *,
    features: str | None = None,
    feature_weights: Path | None = None,
    split: str = "train",
    real: Path | None = None,
    ranks: Ranks = ALONE,
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Judge samples of a run's averaged generator.

    Args:
        run: or whatever has a `Run`'s attributes.
        metrics: names of `METRICS`, alone or with the features that they look at, such as "kid-digits"; where None, those that
            fit the run's data.
        num: samples that are judged; where None, as many as is usual for these metrics.
        refine_steps, step_size: of the samples.
        features: what metrics without features in their names look at: a name of `extractors.known`; where None Inception's,
            or, of digits without its weights at hand, those of a classifier of digits.
        feature_weights: their weights file.
        split: the real images that samples are compared with, "train", "held-out" or "all".
        real: a folder of images, or statistics that an earlier evaluation has kept, in the place of the run's data.
        ranks: the processes that draw and look at samples and at real images; the first one judges.
        quiet: show no progress.
        options: of the samples, as in `fastgan.sample`; classes are drawn uniformly unless "labels" names some.

    Returns:
        What was judged, on every rank, and under "metrics" one dict a metric with its "value" and all that the value depends
        on; under "cost" the passes through the networks, under "seconds" and "peak_memory" (bytes) what was spent here. For
        points that are refined or chosen by a sampler plain ones of the same seed are judged too, under "plain".

    Raises:
        UserError: an unknown metric, or one that can't judge this run's data; features or a split that can't be had; a number
            out of range; what the sampler finds.
    """
    recipe = Recipe(refine_steps=refine_steps, step_size=step_size, **{"labels": "uniform", **options})
    if num is not None and num < 2:
        raise UserError(f"num must be at least 2 to be judged, not {num}")
    chosen = list(metrics) if metrics is not None else suitable_metrics(run)
    points = run.config.data.source in DISTRIBUTIONS
    usual = usual_features(run.config.data.source == "digits", feature_weights)
    asked = [wanted(name, features, usual) for name in chosen]
    if not asked:
        source = run.config.data.source
        ask = "give --metrics fid,kid,prc with Inception's weights or --features random (docs/evaluation.md)"
        raise UserError(f"data.source {source} has no metric of its own" + ("" if points else f": {ask}"))
    if split not in reference.SPLITS:
        raise UserError(f"unknown split {split!r}: {nearest(split, reference.SPLITS)}")
    for metric, _ in asked:
        _check_fits(run, metric, points)
    num = num or max(METRICS[metric].num for metric, _ in asked)
    clock = Clock()
    with clock.stage("extractors"):
        found = _opened(dict.fromkeys(name for _, name in asked if name), run, feature_weights, ranks)
    material = _Material(run, split, real, found, ranks, quiet)
    with clock.stage("real"):
        material.gather(asked)

    def judge(recipe: Recipe) -> tuple[dict[str, Any], Cost]:
        samples = Samples(run, num, recipe, ranks, quiet)
        seen = _seen(samples, asked, [one.extractor for one in found.values()], clock)
        cost = samples.cost()
        if not ranks.first:
            return {}, cost
        results = {}
        with ranks.alone():
            for metric, name in asked:
                key = key_for(metric, found.get(name))
                with clock.stage(key):
                    results[key] = _judged(metric, key, material.judged(metric, found.get(name), seen))
        return results, cost

    results, cost = judge(recipe)
    result = {
        "run": str(run.path),
        "round": run.round,
        "images": run.images,
        "num": num,
        "samples": recipe.title,
        "weights": "raw" if recipe.raw_weights else "average",
        "refine_steps": refine_steps,
        "step_size": step_size,
        "refinement": dataclasses.asdict(recipe.refinement),
        "sampler": {"name": name_of(recipe.chosen), **dataclasses.asdict(recipe.chosen)},
        "seed": recipe.seed,
        "truncation": recipe.truncation,
        "standing_statistics": recipe.standing_statistics,
        "precision": recipe.precision or run.precision,
        "features": {one.extractor.name: one.extractor.digest for one in found.values()},
        "metrics": results,
        "cost": dataclasses.asdict(cost),
    }
    if not recipe.plain and points:
        result["plain"], _ = judge(recipe.baseline)
    return ranks.told(result | clock.spent())


def truncation_curve(run: Run, truncations: Sequence[float], *arguments: Any, **options: Any) -> dict[str, Any]:
    """`evaluate` at several truncations of the prior (Brock et al. 2019, section 3.1): fidelity against variety, under "curve"
    one result for each."""
    return {
        "run": str(run.path),
        "curve": [evaluate(run, *arguments, truncation=truncation, **options) for truncation in truncations],
    }


def evaluate_images(
    real: Path,
    generated: Path,
    metrics: Sequence[str] | None = None,
    *,
    features: str | None = None,
    feature_weights: Path | None = None,
    resolution: int | None = None,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
    quiet: bool = True,
) -> dict[str, Any]:
    """Judge a folder of images, whoever has made them, against another folder or against statistics kept of one.

    Args:
        real: a folder (of images, class folders or a packed set), or a statistics file.
        generated: a folder.
        metrics: as for `evaluate`, where they need no run; fid, kid and prc where None.
        features, feature_weights: as for `evaluate`.
        resolution: the side that images of both are brought to; None takes them as they are, of one size.
        device: what features are computed on.

    Returns:
        As `evaluate`, as far as it applies; under "statistics" where the real set's lie.

    Raises:
        UserError: a folder or file that can't be used, images of different sizes where no resolution is given, and as
            `evaluate`.
    """
    if resolution is not None and resolution < 1:
        raise UserError(f"resolution must be at least 1, not {resolution}")
    asked = [wanted(name, features, "inception") for name in metrics or ("fid", "kid", "prc")]
    for metric, _ in asked:
        if METRICS[metric].needs & {"run", "points"}:
            raise UserError(f"{metric} judges runs, not folders of images")
    clock = Clock()
    with ranks.agreed():
        theirs = FolderImages(generated, resolution, quiet or not ranks.first)
        ours = FolderImages(real, resolution, quiet or not ranks.first) if not real.is_file() else None
        if ours is not None and ours.size != theirs.size:
            sizes = " and ".join(f"{width}x{height}" for height, width in (ours.size, theirs.size))
            raise UserError(f"images in {real} and {generated} differ in size, {sizes}: give --resolution")
    names = dict.fromkeys(name for _, name in asked)
    with clock.stage("extractors"):
        found = _opened(names, None, feature_weights, ranks, side=theirs.size[0], device=device)
    looking = [one.extractor for one in found.values()]
    cache = reference.user_cache() / "evaluation"
    with clock.stage("real"):
        if ours is not None:
            first = reference.features_of(ours, looking, cache, ranks, quiet)
        else:
            with ranks.agreed():
                first = {one.name: reference.load_statistics(real, one, theirs.size) for one in looking}
    with clock.stage("generated"):
        second = reference.features_of(theirs, looking, None, ranks, quiet)
    results = {}
    if ranks.first:
        with ranks.alone():
            for metric, name in asked:
                one = found[name]
                key = key_for(metric, one)
                with clock.stage(key):
                    sets = {"features": second[one.extractor.name], "real": first[one.extractor.name]}
                    results[key] = _judged(metric, key, Judged(None, one, **sets))
    result = {
        "real": str(real),
        "generated": str(generated),
        "num": len(theirs),
        "resolution": resolution,
        "features": {one.extractor.name: one.extractor.digest for one in found.values()},
        "statistics": {one.name: str(reference.path_of(ours, one, cache) if ours is not None else real) for one in looking},
        "metrics": results,
    }
    return ranks.told(result | clock.spent())


def compare_with_untrained(run: Run, num: int | None = None) -> dict[str, Any]:
    """`evaluate`, with the metrics of the generator before its first round under "untrained"; written to evaluation.json."""
    result = evaluate(run, num=num)
    result["untrained"] = evaluate(run.untrained(), num=num)["metrics"]
    write_json(run.folder.evaluation, result)
    return result


def suitable_metrics(run: Run) -> list[str]:
    """The metrics that can judge the data that this run was trained on."""
    source = run.config.data.source
    if source in DISTRIBUTIONS:
        return ["good-samples"] if DISTRIBUTIONS[source].modes else []
    return {"digits": ["fd-digits"], "stacked-digits": ["modes-stacked-digits"]}.get(source, [])


def usual_features(digits: bool, weights: Path | None = None) -> str:
    """What is looked at where nobody says: Inception, but for digits only where its weights are at hand."""
    return "digits" if digits and weights is None and not extractors.has_inception() else "inception"


def wanted(name: str, features: str | None, usual: str) -> tuple[str, str | None]:
    """The metric of `METRICS` that a name asks for, and its features, if it looks at any: "kid" and "kid-digits" and "fd".

    Raises:
        UserError: there is no such metric.
    """
    for metric in METRICS:
        for spelled in (metric, metric.replace("fid", "fd")):
            if name == spelled:
                return metric, features or METRICS[metric].features or usual if METRICS[metric].needs & LOOKS else None
    for metric in sorted(METRICS, key=len, reverse=True):
        for spelled in (metric, metric.replace("fid", "fd")):
            of = name.removeprefix(f"{spelled}-")
            if of != name and METRICS[metric].needs & LOOKS and extractors.is_known(of):
                return metric, of
    raise UserError(f"unknown metric {name!r}: {nearest(name, METRICS)}")


def key_for(metric: str, opened: "Opened | None") -> str:
    """A result's key: "fid" and "kid" of Inception's features, "fd-digits" and "kid-digits" of others."""
    if opened is None or opened.asked == METRICS[metric].features or opened.extractor.published:
        return metric
    if opened.asked == "inception":  # other weights than the published ones
        return f"{metric.replace('fid', 'fd')}-{opened.extractor.name}"
    return f"{metric.replace('fid', 'fd')}-{opened.asked}"


class Clock:
    """What stages take, in seconds by name, and the most memory that the process has held."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def spent(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"seconds": {name: round(took, 3) for name, took in self.seconds.items()}, "peak_memory": peak}


@dataclass(frozen=True)
class Opened:
    """An extractor as it was asked for; with features of digits, who judges these."""

    asked: str
    extractor: Extractor
    digits: DigitsJudge | None = None


@dataclass(frozen=True)
class Seen:
    """What one pass over the samples has found, on the first rank."""

    features: dict[str, Features]
    samples: Tensor | None = None
    """Points (N, 2), or images uint8 (N, C, H, W), where a metric asks for them."""
    labels: Tensor | None = None


@dataclass(frozen=True)
class Judged:
    """What a metric is given."""

    run: Run | None
    opened: Opened | None
    features: Features | None = None
    """Of the generated images."""
    real: Features | None = None
    samples: Tensor | None = None
    labels: Tensor | None = None

    @property
    def title(self) -> str:
        """The reference and the counts, for a metric's title."""
        split = self.real.about["split"] if self.run is not None and self.real.about["data"] != "folder" else "folder"
        return f"({split}, {self.real.count} real, {self.features.count} generated)"


def _seen(samples: Samples, asked: list[tuple[str, str | None]], looking: list[Extractor], clock: Clock) -> Seen:
    """Draw all samples, and look at each once with whatever the metrics ask for."""
    ranks, points = samples.ranks, samples.run.config.data.source in DISTRIBUTIONS
    kept = any(METRICS[metric].needs & {"points", "images"} for metric, _ in asked)
    began = time.perf_counter()

    def look(numbers: Tensor, images: Tensor) -> tuple[dict[str, Any], Tensor | None, Tensor | None]:
        nonlocal began
        if images.is_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        clock.seconds["draw"] += now - began
        with ranks.alone():
            shown = images if points else as_bytes(images)
            found = {one.name: reference.looked(one, shown) for one in looking}
        labels = samples.labels(numbers)
        began = time.perf_counter()
        clock.seconds["features"] += began - now
        return found, shown.cpu() if kept else None, None if labels is None else labels.cpu()

    gatherings = {one.name: Gathering(samples.num, samples.num) for one in looking} if ranks.first else {}
    parts: list[tuple[Tensor | None, Tensor | None]] = []
    for found, shown, labels in samples.looked_at(look):
        for name, (features, logits) in found.items():
            gatherings[name].add(features, logits, labels)
        parts.append((shown, labels))
    whole = {name: gathering.finish() for name, gathering in gatherings.items()}
    joined = (torch.cat(column) if column and column[0] is not None else None for column in zip(*parts, strict=True))
    return Seen(whole, *(joined if parts else (None, None)))


class _Material:
    """The real images of one evaluation."""

    def __init__(self, run: Run, split: str, real: Path | None, opened: dict[str, Opened], ranks: Ranks, quiet: bool) -> None:
        self.run, self.split, self.path, self.opened, self.ranks, self.quiet = run, split, real, opened, ranks, quiet
        self.features: dict[tuple[str, str], Features] = {}

    def gather(self, asked: list[tuple[str, str | None]]) -> None:
        """Features of all the splits that the metrics compare with; every rank must call."""
        needed: dict[str, dict[str, Extractor]] = {}
        for metric, name in asked:
            if METRICS[metric].needs & {"real"}:
                needed.setdefault(self._split(metric), {})[name] = self.opened[name].extractor
        for split, looking in needed.items():
            for name, features in self._look(split, looking).items():
                self.features[name, split] = features

    def judged(self, metric: str, opened: Opened | None, seen: Seen) -> Judged:
        if opened is None:
            return Judged(self.run, None, samples=seen.samples, labels=seen.labels)
        real = self.features.get((opened.asked, self._split(metric))) if METRICS[metric].needs & {"real"} else None
        return Judged(self.run, opened, seen.features[opened.extractor.name], real, seen.samples, seen.labels)

    def _split(self, metric: str) -> str:
        """Held-out images where a metric is about such, and there are some."""
        held_out = METRICS[metric].held_out and self.path is None and reference.has_split(self.run, "held-out")
        return "held-out" if held_out else self.split

    def _look(self, split: str, looking: dict[str, Extractor]) -> dict[str, Features]:
        """By the names that the extractors were asked for by; on the first rank."""
        side = self.run.config.data.resolution
        with self.ranks.agreed():
            if self.path is not None and self.path.is_file():
                return {name: reference.load_statistics(self.path, one, (side, side)) for name, one in looking.items()}
            folder = self.path is not None
            images = FolderImages(self.path, side, self.quiet) if folder else RealImages.of_run(self.run, split)
        cache = self.run.path / "evaluation"
        found = reference.features_of(images, looking.values(), cache, self.ranks, self.quiet)
        return {name: found[one.name] for name, one in looking.items() if one.name in found}


def _opened(
    names: Sequence[str],
    run: Run | None,
    weights: Path | None,
    ranks: Ranks,
    side: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Opened]:
    """Extractors by the name that each was asked for by; the digits' classifier is trained by the first rank alone."""
    found = {}
    for name in names:
        if name != "digits":
            with ranks.agreed():
                found[name] = Opened(name, extractors.make(name, weights, run.device if run is not None else device))
            continue
        with ranks.agreed():
            if run is not None and run.config.data.source != "digits":
                source = run.config.data.source
                raise UserError(f"digits are judged of runs trained on digits; this one's data.source is {source}")
        judge = None
        if ranks.first:
            with ranks.alone():
                folder = run.path if run is not None else reference.user_cache()
                try:
                    judge = digits_judge(folder, run.config.data.resolution if run is not None else side)
                except ValueError as error:
                    raise UserError(f"digits features can't be had: {error}") from None
        judge = ranks.told(judge)
        found[name] = Opened(name, extractors.of_digits(judge.classifier), judge)
    return found


def _check_fits(run: Run, metric: str, points: bool) -> None:
    needs, source = METRICS[metric].needs, run.config.data.source
    if "points" in needs:
        if not points or not DISTRIBUTIONS[source].modes:
            raise UserError(f"{metric} judges points with modes; this run's data.source is {source}")
    elif "stacks" in needs:
        data = run.config.data
        if (data.source, data.channels) != ("stacked-digits", 3):
            raise UserError(
                f"{metric} judges runs trained on stacked-digits in three channels; this one's data.source is {source}, "
                f"data.channels {data.channels}"
            )
    elif points:
        raise UserError(f"{metric} judges images; this run's data.source is {source}")
    if "labels" in needs and not run.config.network.classes:
        raise UserError(f"{metric} judges class-conditional runs; this one's network has no classes")
    if {"images", "labels"} <= needs and not reference.has_split(run, "held-out"):
        raise UserError(f"{metric} is tested on held-out images; this run's data, {source}, has none")


def _judged(metric: str, key: str, judged: Judged) -> dict[str, Any]:
    try:
        return METRICS[metric].judge(judged)
    except ValueError as error:  # too few samples for it, most often
        raise UserError(f"{key}: {error}") from None


def _fid(judged: Judged) -> dict[str, Any]:
    value = frechet_distance(judged.real.gaussian, judged.features.gaussian)
    if judged.opened.digits is not None:
        report = _digits_report(judged, value)
        return {**dataclasses.asdict(report), "title": report.title}
    name = judged.opened.extractor.title("FID")
    return {"value": value, "name": name, **_reference(judged), "title": f"{name} {judged.title}"}


def _digits_report(judged: Judged, value: float) -> DigitsReport:
    """What the classifier says of the digits beside their distance."""
    judge = judged.opened.digits
    confidences, predictions = judged.features.logits.softmax(1).max(1)
    return DigitsReport(
        value=value,
        floor=judge.floor,
        reference=judged.real.about["split"] if judged.real.about["data"] != "folder" else "folder",
        reference_count=judged.real.count,
        generated_count=judged.features.count,
        accuracy=judge.accuracy,
        confidence=float(confidences.double().mean()),
        coverage=tuple((predictions.bincount(minlength=10).double() / len(predictions)).tolist()),
        classifier=judge.classifier.digest(),
    )


def _reference(judged: Judged) -> dict[str, Any]:
    """What a comparison's value depends on beside its own settings."""
    about = judged.real.about
    return {
        "reference": about["split"] if about["data"] != "folder" else "folder",
        "data": about["data"],
        "fingerprint": about["fingerprint"],
        "reference_count": judged.real.count,
        "generated_count": judged.features.count,
        "extractor": judged.opened.extractor.digest,
    }


def _of_features(name: str, compare: Callable[[Tensor, Tensor], Any]) -> Callable[[Judged], dict[str, Any]]:
    """A metric that compares two sets of features; its value is the report's "value", or its first number."""

    def judge(judged: Judged) -> dict[str, Any]:
        report = compare(judged.real.features, judged.features.features)
        said = dataclasses.asdict(report)
        named = judged.opened.extractor.title(name)
        value = said.get("value", next(iter(said.values())))
        title = f"{named} {judged.title}"
        return {**_reference(judged), **said, "value": value, "name": named, "title": title, "shown": report.shown}

    return judge


def _inception_score(judged: Judged) -> dict[str, Any]:
    if judged.features.logits is None:
        raise ValueError(f"{judged.opened.extractor.name} features come without the logits that an inception score is made of")
    report = inception_score(judged.features.logits)
    named = judged.opened.extractor.title("IS")
    title = f"{named} ({report.generated_count} generated)"
    return {**dataclasses.asdict(report), "name": named, "title": title, "shown": report.shown}


def _intra_fid(judged: Judged) -> dict[str, Any]:
    if judged.real.labels is None:
        raise ValueError("the real images have no classes")
    report = frechet_within_classes(judged.real.features, judged.real.labels, judged.features.features, judged.features.labels)
    named = judged.opened.extractor.title("intra-FID")
    title = f"{named} {judged.title}"
    return {**_reference(judged), **dataclasses.asdict(report), "name": named, "title": title, "shown": report.shown}


def _diversity(judged: Judged) -> dict[str, Any]:
    """Within the classes that a classifier of digits sees; elsewhere within those that were asked for."""

    def spread(found: Features) -> float:
        labels = found.logits.argmax(1) if judged.opened.digits is not None else found.labels
        if labels is None:
            raise ValueError("images have no classes to be diverse in")
        return diversity_within_classes(found.features, labels)

    value, of_real = spread(judged.features), spread(judged.real)
    what = "digits" if judged.opened.digits is not None else "classes"
    return {"value": value, "real": of_real, "title": f"diversity within {what}", "shown": f"{value:.3f} (real {of_real:.3f})"}


def _classifier_accuracy(judged: Judged) -> dict[str, Any]:
    run = judged.run
    train, test = (reference.whole(RealImages.of_run(run, split)) for split in ("train", "held-out"))
    generated = judged.samples, judged.labels
    report = classifier_accuracy_score(generated, train, test, run.config.network.classes)
    title = f"CAS (held-out, {report.real_count} real, {report.generated_count} generated)"
    return {**dataclasses.asdict(report), "name": "CAS", "title": title, "shown": report.shown}


def _good_samples(judged: Judged) -> dict[str, Any]:
    """The good-sample rate and the modes covered (see `fastgan.evaluation.modes`)."""
    distribution = DISTRIBUTIONS[judged.run.config.data.source]
    report = good_samples(judged.samples, distribution.modes, distribution.sigma)
    return {**dataclasses.asdict(report), "title": "good samples", "shown": report.shown}


def _modes_stacked_digits(judged: Judged) -> dict[str, Any]:
    """The modes covered, and their divergence from even shares (see `fastgan.evaluation.modes`); and the modes among samples
    of which the classifier is sure, as by the first count noise covers nine of ten; and FD-digits of the channels."""
    judge = digits_judge(judged.run.path, judged.run.config.data.resolution)
    batches = judged.samples.flatten(0, 1)[:, None].split(3000)
    seen = judge.look(batch.float() / 127.5 - 1 for batch in batches)
    modes = seen.predictions.view(-1, 3) @ torch.tensor([100, 10, 1])
    report = covered_classes(modes, 1000)
    sure = seen.confidences.view(-1, 3).amin(1) >= SURE
    digits = judge(seen)
    found = {"sure_modes": len(modes[sure].unique()), "sure": sure.double().mean().item()}
    found |= {"fd": digits.value, "fd_floor": digits.floor, "confidence": digits.confidence, "classifier": digits.classifier}
    shown = f"{report.shown}, {found['sure_modes']} among the {found['sure']:.1%} of samples that are sure"
    return {**dataclasses.asdict(report), **found, "title": "modes of stacked digits", "shown": shown}


@lru_cache(maxsize=1)
def digits_judge(run: Path, side: int) -> DigitsJudge:
    """The judge of a run's digits of so many pixels: its classifier is trained once a run, and kept in its folder."""
    fingerprint, train, train_labels = _whole_split("train", side)
    _, held_out, held_out_labels = _whole_split("held-out", side)
    path = run / "evaluation" / f"digits-classifier-{side}.pt"
    classifier = cached_classifier(path, train, train_labels, fingerprint, side=side)
    return DigitsJudge(classifier, train, held_out, held_out_labels)


def _whole_split(split: str, side: int) -> tuple[str, Tensor, Tensor]:
    """Fingerprint, images and labels of one pass over the digits, without noise."""
    source = open_source("digits", split=split)
    images = Stream(source, resolution=side, channels=1, batch_size=len(source), seed=0)
    batch = next(images)
    images.close()
    return source.fingerprint, batch["images"], batch["labels"]


class Metric(NamedTuple):
    """A line of `METRICS`.

    judge: from what was seen to a result with its "value".
    needs: of "features", "real" (those of real images too), "labels" (a class-conditional run), "images" (themselves),
        "points", "stacks" (of digits), "run".
    features: whose it looks at where nobody says.
    held_out: it is about real images that were not trained on.
    num: samples that are usual.
    """

    judge: Callable[[Judged], dict[str, Any]]
    needs: frozenset[str]
    features: str | None = None
    held_out: bool = False
    num: int = DEFAULT_NUM


LOOKS = frozenset({"features", "real"})
_COMPARED, _BY_CLASS = frozenset({"features", "real"}), frozenset({"features", "real", "labels", "run"})

METRICS = {
    "fid": Metric(_fid, _COMPARED),
    "kid": Metric(_of_features("KID", kernel_distance), _COMPARED),
    "is": Metric(_inception_score, frozenset({"features"})),
    "prc": Metric(_of_features("PRC", precision_recall), _COMPARED),
    "prdc": Metric(_of_features("PRDC", manifold), _COMPARED),
    "density-coverage": Metric(_of_features("density-coverage", density_and_coverage), _COMPARED),
    "ndb": Metric(_of_features("NDB", different_bins), _COMPARED),
    "kde": Metric(_of_features("KDE", parzen), _COMPARED, "pixels", held_out=True),
    "diversity": Metric(_diversity, _COMPARED | {"run"}),
    "intra-fid": Metric(_intra_fid, _BY_CLASS),
    "cas": Metric(_classifier_accuracy, frozenset({"images", "labels", "run"})),
    "modes-stacked-digits": Metric(_modes_stacked_digits, frozenset({"images", "stacks", "run"}), num=MODES_NUM),
    "good-samples": Metric(_good_samples, frozenset({"points", "run"})),
}
"""Name -> metric; docs/evaluation.md says what each is. Those that look at features take these in their names, too:
"kid-digits", "ndb-pixels"; a Fréchet distance of other features than Inception's is "fd-...", and never an FID."""
