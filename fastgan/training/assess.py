"""Judging a run: its samples against real images."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from fastgan.checked import UserError, nearest
from fastgan.data import DISTRIBUTIONS, Stream, open_source
from fastgan.engine import ALONE, Ranks
from fastgan.evaluation import DigitsJudge, cached_classifier, good_samples
from fastgan.latent.samplers import name_of
from fastgan.training.files import write_json
from fastgan.training.run import Run
from fastgan.training.sampling import Cost, Recipe, Samples

DEFAULT_NUM = 5000


def evaluate(
    run: Run,
    metrics: Sequence[str] | None = None,
    num: int = DEFAULT_NUM,
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
        num, refine_steps, step_size: of the samples.
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
    if num < 2:
        raise UserError(f"num must be at least 2 to be judged, not {num}")
    for name in metrics or ():
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}: {nearest(name, METRICS)}")
    chosen = list(metrics) if metrics is not None else suitable_metrics(run)
    if not chosen:
        raise UserError(f"no metric fits data.source {run.config.data.source} yet; known: {', '.join(METRICS)}")

    def judge(recipe: Recipe) -> tuple[dict[str, Any], Cost]:
        found = {}
        for name in chosen:
            samples = Samples(run, num, recipe, ranks, quiet)
            if ranks.first:
                with ranks.alone():
                    found[name] = METRICS[name](run, samples.gathered())
            else:
                deque(samples.gathered(), maxlen=0)
            cost = samples.cost()
        return found, cost

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


def compare_with_untrained(run: Run, num: int = DEFAULT_NUM) -> dict[str, Any]:
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
    return ["fd-digits"] if source == "digits" else []


def _fd_digits(run: Run, samples: Iterator[Tensor]) -> dict[str, Any]:
    """Fréchet distance of a digits classifier's features (see `fastgan.evaluation.digits`)."""
    if run.config.data.source != "digits":
        raise UserError(f"fd-digits judges runs trained on digits; this one's data.source is {run.config.data.source}")
    report = _digits_judge(run.path, run.config.data.resolution)(samples)
    return {**dataclasses.asdict(report), "title": report.title}


@lru_cache(maxsize=1)
def _digits_judge(run: Path, side: int) -> DigitsJudge:
    """The judge of a run's samples, before and after training: its classifier is trained once a run."""
    fingerprint, train, train_labels = _whole_split("train", side)
    _, held_out, held_out_labels = _whole_split("held-out", side)
    path = run / "evaluation" / f"digits-classifier-{side}.pt"
    classifier = cached_classifier(path, train, train_labels, fingerprint, side=side)
    return DigitsJudge(classifier, train, held_out, held_out_labels)


def _good_samples(run: Run, samples: Iterator[Tensor]) -> dict[str, Any]:
    """The good-sample rate and the modes covered (see `fastgan.evaluation.modes`)."""
    distribution = DISTRIBUTIONS.get(run.config.data.source)
    if distribution is None or not distribution.modes:
        raise UserError(f"good-samples judges points with modes; this run's data.source is {run.config.data.source}")
    report = good_samples(samples, distribution.modes, distribution.sigma)
    return {**dataclasses.asdict(report), "title": "good samples", "shown": report.shown}


def _whole_split(split: str, side: int) -> tuple[str, Tensor, Tensor]:
    """Fingerprint, images and labels of one pass over the digits, without noise."""
    source = open_source("digits", split=split)
    images = Stream(source, resolution=side, channels=1, batch_size=len(source), seed=0)
    batch = next(images)
    images.close()
    return source.fingerprint, batch["images"], batch["labels"]


METRICS: dict[str, Callable[[Run, Iterator[Tensor]], dict[str, Any]]] = {
    "fd-digits": _fd_digits,
    "good-samples": _good_samples,
}
