"""Judging a run: its samples against real images."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
    Tally,
    cached_classifier,
    covered_classes,
    diversity_within_classes,
    good_samples,
    manifold,
)
from fastgan.evaluation.manifold import NEAREST
from fastgan.latent.samplers import name_of
from fastgan.training.files import write_json
from fastgan.training.run import Run
from fastgan.training.sampling import Cost, Recipe, Samples

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
    ranks: Ranks = ALONE,
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Judge samples of a run's averaged generator.

    Args:
        metrics: names of `METRICS`; where None, those that fit the run's data.
        num: samples that are judged; where None, as many as is usual for these metrics.
        refine_steps, step_size: of the samples.
        ranks: the processes that draw them; the first one judges.
        quiet: show no progress.
        options: of the samples, as in `fastgan.sample`; classes are drawn uniformly unless "labels" names some.

    Returns:
        What was judged, on every rank, and under "metrics" one dict a metric with its "value" and all that the value depends
        on; under "cost" the passes through the networks. For points that are refined or chosen by a sampler plain ones of the
        same seed are judged too, under "plain".

    Raises:
        UserError: an unknown metric, or one that can't judge this run's data; a number out of range; what the sampler finds.
    """
    recipe = Recipe(refine_steps=refine_steps, step_size=step_size, **{"labels": "uniform", **options})
    if num is not None and num < 2:
        raise UserError(f"num must be at least 2 to be judged, not {num}")
    for name in metrics or ():
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}: {nearest(name, METRICS)}")
    chosen = list(metrics) if metrics is not None else suitable_metrics(run)
    if not chosen:
        raise UserError(f"no metric fits data.source {run.config.data.source} yet; known: {', '.join(METRICS)}")
    num = num or max(METRICS[name].num for name in chosen)

    def judge(recipe: Recipe) -> tuple[dict[str, Any], Cost]:
        seen = {}
        for look in dict.fromkeys(METRICS[name].look for name in chosen):
            samples = Samples(run, num, recipe, ranks, quiet)
            if ranks.first:
                with ranks.alone():
                    seen[look] = look(run, samples.gathered())
            else:
                deque(samples.gathered(), maxlen=0)
            cost = samples.cost()
        if not ranks.first:
            return {}, cost
        with ranks.alone():
            return {name: METRICS[name].judge(run, seen[METRICS[name].look]) for name in chosen}, cost

    found, cost = judge(recipe)
    result = {
        "run": str(run.path),
        "round": run.round,
        "images": run.images,
        "num": num,
        "samples": recipe.title,
        "refine_steps": refine_steps,
        "step_size": step_size,
        "refinement": dataclasses.asdict(recipe.refinement),
        "sampler": {"name": name_of(recipe.chosen), **dataclasses.asdict(recipe.chosen)},
        "seed": recipe.seed,
        "truncation": recipe.truncation,
        "standing_statistics": recipe.standing_statistics,
        "precision": recipe.precision or run.precision,
        "metrics": found,
        "cost": dataclasses.asdict(cost),
    }
    if not recipe.plain and run.config.data.source in DISTRIBUTIONS:
        result["plain"], _ = judge(recipe.baseline)
    return ranks.told(result)


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


def _look_at_digits(run: Run, samples: Iterator[Tensor]) -> Tally:
    """Features of a classifier of digits (see `fastgan.evaluation.digits`)."""
    if run.config.data.source != "digits":
        raise UserError(f"digits are judged of runs trained on digits; this one's data.source is {run.config.data.source}")
    return digits_judge(run.path, run.config.data.resolution).look(samples)


def _fd_digits(run: Run, seen: Tally) -> dict[str, Any]:
    report = digits_judge(run.path, run.config.data.resolution)(seen)
    return {**dataclasses.asdict(report), "title": report.title}


def _prdc_digits(run: Run, seen: Tally) -> dict[str, Any]:
    real = digits_judge(run.path, run.config.data.resolution).real
    if len(seen.features) <= NEAREST:
        raise UserError(f"num must be above {NEAREST} for prdc-digits, not {len(seen.features)}")
    report = manifold(real.features, seen.features)
    return {"value": report.precision, **dataclasses.asdict(report), "title": "among real digits", "shown": report.shown}


def _diversity_digits(run: Run, seen: Tally) -> dict[str, Any]:
    real = digits_judge(run.path, run.config.data.resolution).real
    value, of_real = (diversity_within_classes(tally.features, tally.predictions) for tally in (seen, real))
    return {"value": value, "real": of_real, "title": "diversity within digits", "shown": f"{value:.3f} (real {of_real:.3f})"}


def _look_at_stacks(run: Run, samples: Iterator[Tensor]) -> Tally:
    """The same of each channel of each image by itself: three rows an image."""
    data = run.config.data
    if (data.source, data.channels) != ("stacked-digits", 3):
        raise UserError(
            "modes-stacked-digits judges runs trained on stacked-digits in three channels; this one's data.source is "
            f"{data.source}, data.channels {data.channels}"
        )
    return digits_judge(run.path, data.resolution).look(batch.flatten(0, 1)[:, None] for batch in samples)


def _modes_stacked_digits(run: Run, seen: Tally) -> dict[str, Any]:
    """The modes covered, and their divergence from even shares (see `fastgan.evaluation.modes`); and the modes among samples
    of which the classifier is sure, as by the first count noise covers nine of ten; and FD-digits of the channels."""
    modes = seen.predictions.view(-1, 3) @ torch.tensor([100, 10, 1])
    report = covered_classes(modes, 1000)
    sure = seen.confidences.view(-1, 3).amin(1) >= SURE
    digits = digits_judge(run.path, run.config.data.resolution)(seen)
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


def _look_at_points(run: Run, samples: Iterator[Tensor]) -> Tensor:
    distribution = DISTRIBUTIONS.get(run.config.data.source)
    if distribution is None or not distribution.modes:
        raise UserError(f"good-samples judges points with modes; this run's data.source is {run.config.data.source}")
    return torch.cat([batch.cpu() for batch in samples])


def _good_samples(run: Run, seen: Tensor) -> dict[str, Any]:
    """The good-sample rate and the modes covered (see `fastgan.evaluation.modes`)."""
    distribution = DISTRIBUTIONS[run.config.data.source]
    report = good_samples(seen, distribution.modes, distribution.sigma)
    return {**dataclasses.asdict(report), "title": "good samples", "shown": report.shown}


def _whole_split(split: str, side: int) -> tuple[str, Tensor, Tensor]:
    """Fingerprint, images and labels of one pass over the digits, without noise."""
    source = open_source("digits", split=split)
    images = Stream(source, resolution=side, channels=1, batch_size=len(source), seed=0)
    batch = next(images)
    images.close()
    return source.fingerprint, batch["images"], batch["labels"]


class Metric(NamedTuple):
    """How samples are looked at, in one pass that metrics share, and what is made of it."""

    look: Callable[[Run, Iterator[Tensor]], Any]
    judge: Callable[[Run, Any], dict[str, Any]]
    num: int = DEFAULT_NUM
    """Samples that are usual."""


METRICS = {
    "fd-digits": Metric(_look_at_digits, _fd_digits),
    "prdc-digits": Metric(_look_at_digits, _prdc_digits),
    "diversity-digits": Metric(_look_at_digits, _diversity_digits),
    "modes-stacked-digits": Metric(_look_at_stacks, _modes_stacked_digits, MODES_NUM),
    "good-samples": Metric(_look_at_points, _good_samples),
}
"""Name -> metric. fd-digits: Fréchet distance of a digits classifier's features; prdc-digits: precision, recall, density and
coverage of the same; diversity-digits: their distances within the classes that the classifier sees; modes-stacked-digits: how
many of the 1,000 modes it sees; good-samples: of points."""
