"""Anomalies: images that a generator can't draw, or that its discriminator sees otherwise than what it draws (AnoGAN).

    A(x) = (1 - w) R(x) + w D(x),     R = sum over pixels |x - G(z*)|,     D = sum over features |f(x) - f(G(z*))|,     w = 0.1

Schlegl, Seebock, Waldstein, Schmidt-Erfurth, Langs, "Unsupervised anomaly detection with generative adversarial networks to
guide marker discovery" (IPMI 2017), sections 2.2 and 2.3; f is what D's last linear layer is given, or the code of a D that is
an autoencoder. There z* descends A itself, for 500 steps; here it is what `fastgan.latent.invert` finds by G alone.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.checked import UserError, nearest
from fastgan.latent.inversion import Inverted
from fastgan.networks import WithFeatures
from fastgan.networks.coding import Redrawing
from fastgan.training.files import write_json
from fastgan.training.inverting import Job, Look, Manner, digest
from fastgan.training.parts import write_csv
from fastgan.training.run import Run
from fastgan.training.sampling import write_image
from fastgan.training.targets import Targets

WEIGHT = 0.1
SCORES, PICTURE, SUMMARY = "scores.csv", "anomalies.png", "summary.json"
NORMAL, ANOMALOUS = ("normal", "good"), ("anomalous", "anomaly", "abnormal")
"""What class folders may be called for the others to be their opposite."""

_COLUMNS = ("number", "file", "class", "anomalous", "score", "residual", "features", "error")
_SHOWN = 8  # of the most anomalous images, and of the least
_INCH, _DPI = 1.1, 100
_COLOURS = {None: "black", True: "#d1391f", False: "#1f5fa8"}  # of titles: whether an image is anomalous


def score_images(
    run: Run,
    targets: Targets,
    out: str | Path | None = None,
    manner: Manner | None = None,
    weight: float = WEIGHT,
    normal: Sequence[str] = (),
    anomalous: Sequence[str] = (),
    quiet: bool = True,
    begun: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Score images by how badly a run knows them.

    Args:
        out: a folder for the table, the picture and what `Job` keeps there, as for `invert_images`; None keeps nothing.
        weight: w, of the distance of D's features, in [0, 1].
        normal, anomalous: classes that are the one or the other, where the images have classes. With one of them named, all
            others are its opposite; with both, others are not judged. With none, folders called by `NORMAL` or `ANOMALOUS`
            tell.
        quiet: show no progress.
        begun: called before the work, when nothing was refused.

    Returns:
        "scores", a dict an image in their order; "auroc", the probability that an anomalous image scores above a normal one,
        of the score and of each part of it, None where nobody says which are which; "by_class" and more.

    Raises:
        UserError: weight out of range, an unknown class, none that is normal or none that is anomalous, a discriminator
            without a last linear layer, and as `Job.work`.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"weight must be in [0, 1], not {weight}")
    truth = truth_of(targets, normal, anomalous)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out
        looks = {"discriminator": digest(run.discriminator)}
        job = Job(run, targets, folder, manner, _look(run), looks)
        job.work(quiet, begun)
        rows = [_scored(row, weight, truth) for row in job.rows()]
        summary = _summary(job, rows, truth, weight)
        if out is not None:
            write_csv(job.out / SCORES, _COLUMNS, ([row[name] for name in _COLUMNS] for row in rows))
            write_image(_picture(job, rows), job.out / PICTURE)
            summary["files"] = {"scores": str(job.out / SCORES), "picture": str(job.out / PICTURE), "latents": str(job.latents)}
            write_json(job.out / SUMMARY, {name: value for name, value in summary.items() if name != "scores"})
    return summary


def truth_of(targets: Targets, normal: Sequence[str] = (), anomalous: Sequence[str] = ()) -> np.ndarray | None:
    """1 for images of anomalous classes, 0 for those of normal ones, -1 for others, int8 (N,); None where nothing says so.

    Raises:
        UserError: an unknown class, one that is both, none that is normal or none that is anomalous.
    """
    classes = targets.source.classes
    if not normal and not anomalous:
        normal = [name for name in classes if name.lower() in NORMAL]
        anomalous = [name for name in classes if name.lower() in ANOMALOUS]
        if not (normal or anomalous) or len(classes) == 1:
            return None
    for name in (*normal, *anomalous):
        if name not in classes:
            raise UserError(f"{targets.where} has no class {name!r}: {nearest(name, classes)}")
        if name in normal and name in anomalous:
            raise UserError(f"class {name!r} can't be normal and anomalous")
    kinds = np.full(len(classes), -1 if normal and anomalous else 0 if anomalous else 1, np.int8)
    for names, kind in ((normal, 0), (anomalous, 1)):
        kinds[[classes.index(name) for name in names]] = kind
    truth = kinds[targets.source.labels]
    for kind, word in ((0, "normal"), (1, "anomalous")):
        if not (truth == kind).any():
            raise UserError(f"no image of {targets.where} is {word}: both are needed where classes are told apart")
    return truth


def anomaly_parts(discriminator: nn.Module, images: Tensor, found: Inverted) -> dict[str, Tensor]:
    """R and D of each image.

    Args:
        discriminator: in evaluation mode; with a linear last layer, or `Redrawing`.
        images: (B, C, H, W) in [-1, 1].
        found: what `invert` found for them.

    Returns:
        "residual" and "features", float32 (B,).

    Raises:
        ValueError: the network has no linear last layer.
    """
    features = _features_of(discriminator)
    labels = () if found.labels is None else (found.labels,)
    with torch.no_grad():
        ours, theirs = (features(x, *labels) for x in (images, found.reconstructions.to(images.dtype)))
    residual = (images - found.reconstructions).float().abs().flatten(1).sum(1)
    return {"residual": residual, "features": (ours - theirs).abs().sum(1)}


def _features_of(discriminator: nn.Module) -> Callable[..., Tensor]:
    """(images, or images and labels) -> D's features, (B, F)."""
    if isinstance(discriminator, Redrawing):
        return lambda x, *labels: torch.cat([part.flatten(1).float() for part in discriminator.autoencoder.encode(x)], dim=1)
    network = discriminator.network if isinstance(discriminator, WithFeatures) else discriminator
    judge = WithFeatures(
        network, projected=True
    )  # in training mode, in which it hands out features; the network stays as it is
    return lambda x, *labels: judge(x, *labels).features


def _look(run: Run) -> Look:
    try:
        _features_of(run.discriminator)
    except ValueError as error:
        raise UserError(f"the run in {run.path} can't score anomalies: {error}") from None
    return lambda images, found: anomaly_parts(run.discriminator, images, found)


def _scored(row: dict[str, Any], weight: float, truth: np.ndarray | None) -> dict[str, Any]:
    known = None if truth is None or truth[row["number"]] < 0 else bool(truth[row["number"]])
    score = (1 - weight) * row["residual"] + weight * row["features"]
    return {name: row.get(name) for name in _COLUMNS} | {"anomalous": known, "score": score}


def _summary(job: Job, rows: list[dict[str, Any]], truth: np.ndarray | None, weight: float) -> dict[str, Any]:
    values = {name: np.array([row[name] for row in rows]) for name in ("score", "residual", "features", "error")}
    whole = job.summary()
    result = {name: whole[name] for name in ("run", "round", "images", "notes", "count", "mse", "seconds", "settings")}
    result |= {"weight": weight, "score": _spread(values["score"]), "auroc": None}
    if truth is not None:
        normal = truth == 0
        result["auroc"] = {name: auroc(found[truth >= 0], truth[truth >= 0]) for name, found in values.items()}
        result |= {"normal": _spread(values["score"][normal]), "anomalous": _spread(values["score"][truth == 1])}
    result["by_class"] = {}
    for name, own in job.targets.kinds():
        result["by_class"][name] = _spread(values["score"][own])
        if truth is not None and (truth[own] == 1).all():  # each kind of anomaly against all that is normal
            both = own | normal
            result["by_class"][name]["auroc"] = auroc(values["score"][both], own[both])
    return result | {"scores": rows}


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """The probability that an anomalous image scores above a normal one, ties counted half: the area under the ROC curve.

    Args:
        scores: (N,).
        anomalous: (N,), 1 or 0, of each at least one.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    return float(roc_auc_score(anomalous, scores))


def _spread(scores: np.ndarray) -> dict[str, float]:
    return {"count": len(scores), "mean": float(scores.mean()), "median": float(np.median(scores))}


def _picture(job: Job, rows: list[dict[str, Any]]) -> Tensor:
    """The most and the least anomalous images: original, what G draws, their difference. Above them class and score, red where
    an image is anomalous, blue where it is normal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import; no window system is asked for
    from matplotlib.figure import Figure

    order = sorted(range(len(rows)), key=lambda number: rows[number]["score"], reverse=True)
    most, least = order[:_SHOWN], order[: -_SHOWN - 1 : -1]
    numbers = sorted({*most, *least})
    originals, drawn = job.targets.take(numbers), job.reconstructions(numbers)
    place = {number: at for at, number in enumerate(numbers)}
    figure = Figure(figsize=(_INCH * (len(most) + 1), _INCH * 6.8), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(6, len(most), squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    for top, title, chosen in ((0, "most", most), (3, "least", least)):
        panels[top][0].set_ylabel(f"{title}\nanomalous", fontsize=8)
        panels[top + 1][0].set_ylabel("drawn", fontsize=8)
        panels[top + 2][0].set_ylabel("difference", fontsize=8)
        for column, number in enumerate(chosen):
            x, y = originals[place[number]], drawn[place[number]].clamp(-1, 1)
            told = f"{rows[number]['class']}: " if len(job.targets.source.classes) > 1 else ""
            colour = _COLOURS[rows[number]["anomalous"]]
            panels[top][column].set_title(f"{told}{rows[number]['score']:.3g}", fontsize=8, color=colour)
            for row, shown in enumerate(((x + 1) / 2, (y + 1) / 2, (x - y).abs() / 2)):
                pixels = shown.permute(1, 2, 0).numpy()
                panels[top + row][column].imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).float() / 255
