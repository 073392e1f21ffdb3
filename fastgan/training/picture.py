"""What a run's samples look like: a grid of images, or points over the modes that they should lie on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgan.checked import UserError
from fastgan.data import DISTRIBUTIONS, Distribution, PointStream
from fastgan.engine import ALONE, Ranks
from fastgan.evaluation import good_samples, is_good
from fastgan.evaluation.modes import REACH
from fastgan.training.files import make_room_for
from fastgan.training.run import Run
from fastgan.training.sampling import Cost, Recipe, Samples, columns_for, grid, write_image, write_images, write_shards

IMAGES, POINTS = 64, 5000
"""How many samples a picture shows, unless told otherwise."""

_SIDE, _TITLE, _DPI = 4.5, 0.3, 100  # inches of a panel, of its title, and pixels of an inch
_GOOD, _STRAY, _REAL = "#1f5fa8", "#d1391f", "#b8b8b8"


def usual_number(source: str) -> int:
    """How many samples a picture of a run on the data `source` shows."""
    return POINTS if source in DISTRIBUTIONS else IMAGES


def picture(samples: Tensor | Mapping[str, Tensor], source: str, columns: int | None = None) -> Tensor:
    """Samples of a run on the data `source` as one picture (3, h, w) in [0, 1].

    Args:
        samples: images (N, C, H, W) in [-1, 1], or points (N, 2); points also by title, a panel each.
        columns: of a grid of images; nearly square where None.
    """
    if source not in DISTRIBUTIONS:
        return grid(samples, columns)
    return scatter(samples if isinstance(samples, Mapping) else {"": samples}, DISTRIBUTIONS[source])


def scatter(panels: Mapping[str, Tensor], distribution: Distribution) -> Tensor:
    """Points (N, 2) by title, side by side on the same axes, as one picture (3, h, w) in [0, 1].

    Where the distribution has modes each gets its circle of 4 sigma, samples outside are red, and the titles tell the rates of
    good samples; elsewhere real points lie below in grey. Points beyond the axes are not seen.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import; no window system is asked for
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIDE * len(panels), _SIDE + _TITLE), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    extent = max((abs(x) for mode in distribution.modes for x in mode), default=2.0) + 0.5
    for axes, (title, samples) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        samples = samples.detach().float().cpu()
        axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
        axes.tick_params(labelsize=8, color="#888888", labelcolor="#555555")
        for spine in axes.spines.values():
            spine.set_color("#bbbbbb")
        said = [title] if title else []
        if distribution.modes:
            _circles(axes, distribution)
            good, _ = is_good(samples, distribution.modes, distribution.sigma)
            _dots(axes, samples[good], _GOOD)
            _dots(axes, samples[~good], _STRAY)
            report = good_samples(samples, distribution.modes, distribution.sigma)
            said.append(f"{100 * report.value:.2f} % good, {report.modes} of {report.of} modes")
        else:
            _dots(axes, next(PointStream(distribution, batch_size=len(samples), seed=0))["images"], _REAL)
            _dots(axes, samples, _GOOD)
        axes.set_title(": ".join(said), fontsize=10)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).float() / 255


def write_samples(
    run: Run,
    out: Path,
    num: int | None = None,
    recipe: Recipe | None = None,
    ranks: Ranks = ALONE,
    quiet: bool = True,
    shards: bool = False,
) -> Cost:
    """Draw samples and write them: as one picture where `out` ends in .png, else into the folder `out`, images as numbered
    files and points as points.npy. Points by a sampler or refined are drawn beside plain ones of the same seed.

    Args:
        num: how many; the usual number where None.
        ranks: the processes that share the work; images in a folder are written by whoever has drawn them.
        quiet: show no progress.
        shards: write images as a packed set in the folder `out`, in the place of numbered files.

    Returns:
        What the samples have cost, on the first rank.

    Raises:
        UserError: a number is out of range, `out` can't be written, or what the sampler finds.
    """
    source, recipe = run.config.data.source, recipe or Recipe()
    samples = Samples(run, usual_number(source) if num is None else num, recipe, ranks, quiet)
    if shards and (source in DISTRIBUTIONS or out.suffix.lower() == ".png"):
        raise UserError("shards are written of images, into a folder")
    if shards:
        write_shards(samples, out)
        return samples.cost()
    if source not in DISTRIBUTIONS:
        write_images(samples, out, columns_for(samples.classes))
        return samples.cost()
    as_picture = out.suffix.lower() == ".png"
    path = out if as_picture else out / "points.npy"
    with ranks.agreed():
        make_room_for(path)
    panels = {recipe.title: _whole(samples)}
    if as_picture and not recipe.plain:
        panels = {"plain": _whole(Samples(run, samples.num, recipe.baseline, ranks)), **panels}
    cost = samples.cost()
    if ranks.first and as_picture:
        write_image(picture(panels if len(panels) > 1 else panels[recipe.title], source), path)
    elif ranks.first:
        _write_points(panels[recipe.title], path)
    return cost


def _whole(samples: Samples) -> Tensor | None:
    """All of them, on the first rank."""
    batches = [batch.cpu() for batch in samples.gathered()]
    return torch.cat(batches) if batches else None


def _write_points(points: Tensor, path: Path) -> None:
    try:
        np.save(path, points.numpy())
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None


def _dots(axes, points: Tensor, colour: str) -> None:
    axes.scatter(*points.T.numpy(), s=2.5, c=colour, alpha=0.35, linewidths=0)


def _circles(axes, distribution: Distribution) -> None:
    from matplotlib.patches import Circle

    for mode in distribution.modes:
        axes.add_patch(Circle(mode, REACH * distribution.sigma, fill=False, edgecolor="#333333", linewidth=0.6))
