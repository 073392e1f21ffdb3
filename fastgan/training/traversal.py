"""Walks through a generator's latents: from one to another, through truncation, through the classes; of autoencoders also
between the codes of real images, and along attributes (`code_walks`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastgan.checked import UserError, nearest
from fastgan.data import DISTRIBUTIONS
from fastgan.draw import Draw
from fastgan.latent.paths import KINDS, interpolate
from fastgan.latent.samplers import Plain, Truncation
from fastgan.training import code_walks
from fastgan.training.code_walks import USUAL_ROWS, Start, draw
from fastgan.training.files import make_room_for
from fastgan.training.run import Run
from fastgan.training.sampling import MOST_COLUMNS, Recipe, Samples, cycled, grid, write_image

Sweep = Literal["latents", "truncation", "classes", "drawings", "interpolations", "attributes"]
USUAL_STEPS = {"latents": 8, "truncation": 8, "classes": MOST_COLUMNS, "drawings": 8, "interpolations": 8, "attributes": 9}
"""Sweep -> images of a row, unless told otherwise."""
WIDEST = 2.0
"""Truncation of a sweep's last column, in standard deviations, as in the first of Brock et al. 2019, figure 2."""


@dataclass(frozen=True, eq=False)
class Walks:
    """Images of a walk a row."""

    images: Tensor
    """(rows, columns, C, H, W), float32 on the CPU, in [-1, 1]."""
    titles: tuple[str, ...]
    """What a row shows, or what rows show in turns; empty where they are alike."""


def traverse(run: Run, *arguments: Any, **options: Any) -> Tensor:
    """The images alone of `walks`: (rows, columns, C, H, W), float32 on the CPU, in [-1, 1]."""
    return walks(run, *arguments, **options).images


def walks(
    run: Run,
    rows: int | None = None,
    steps: int | None = None,
    *,
    sweep: Sweep = "latents",
    kind: Literal["linear", "spherical"] = "linear",
    refine_steps: int = 0,
    step_size: float = 0.05,
    start: Start | None = None,
    quiet: bool = True,
    **options: Any,
) -> Walks:
    """Images of a walk a row.

    Args:
        run: of images; the walk goes through its averaged generator.
        rows: walks; with sweep "attributes" images, of each as many walks as there are attributes. `USUAL_ROWS` where None,
            of attributes no more walks than that, of real images no more than there are.
        steps: images of each; with sweep "classes" at most so many classes. `USUAL_STEPS` where None, of drawings no more
            than there are images.
        sweep: "latents" goes from sample 2i of `fastgan.sample` to sample 2i + 1 in row i, of one class; "truncation" shows
            sample i with the prior cut at 2 k / steps standard deviations in column k = 1 ... steps (`thresholds`); "classes"
            shows sample i's latent under every class, or under those of `labels`. Of autoencoders also: "drawings" shows what
            they make of a real image, a column each (`fastgan.training.coding.drawings`); "interpolations" goes from the code
            of real image 2i to that of 2i + 1; "attributes" from -reach to +reach times an attribute's direction around the
            code of a real image.
        kind: of a way between latents: "linear", or "spherical" (`fastgan.latent.paths.interpolate`).
        refine_steps, step_size: every latent shown is refined by so many steps of I-FGSM, as samples are.
        start: of the sweeps of autoencoders: which real images, and which attributes.
        quiet: show no progress.
        options: further fields of `Recipe`: refine, seed, truncation, labels, raw_weights, precision, batch_size.

    Raises:
        UserError: a run of points; a number out of range; a sweep that this run or another option does not allow; images or
            attributes that can't be read.
    """
    recipe = Recipe(refine_steps=refine_steps, step_size=step_size, **options)
    _one_of("sweep", sweep, get_args(Sweep))
    _one_of("kind", kind, KINDS)
    usual, steps = steps is None, USUAL_STEPS[sweep] if steps is None else steps
    _check(run, rows, steps, sweep, recipe)
    if sweep in code_walks.SWEEPS:
        return Walks(*code_walks.walk(run, sweep, rows, steps, kind, recipe, start or Start(), quiet, fewer=usual))
    if start is not None:
        raise UserError(f"a sweep of {sweep} begins with no real images and takes no attributes")
    samples = Samples(run, rows or USUAL_ROWS, recipe)
    z, labels = _cells(samples, samples.num, steps, sweep, kind)
    return Walks(draw(run, recipe, z, labels, samples.prior, quiet), ())


def write_traversal(run: Run, out: Path, *arguments: Any, **options: Any) -> Walks:
    """`walks` as one picture, a walk a row.

    Raises:
        UserError: as `walks`, or `out` does not end in .png, or can't be written.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: traversals are written as .png")
    make_room_for(out)
    found = walks(run, *arguments, **options)
    write_image(grid(found.images.flatten(0, 1), found.images.shape[1]), out)
    return found


def thresholds(steps: int) -> list[float]:
    """The truncations of a sweep's columns, in standard deviations."""
    return [WIDEST * k / steps for k in range(1, steps + 1)]


def _cells(samples: Samples, rows: int, steps: int, sweep: Sweep, kind: str) -> tuple[Tensor, Tensor | None]:
    """Latents (rows, columns, dim), and labels int64 (rows, columns) where the run has classes."""
    of_rows = torch.arange(rows, device=samples.run.device)
    draw = Draw(samples.recipe.seed, "samples", 0, of_rows)
    labels = cycled(samples.classes, of_rows)[:, None] if samples.classes else None
    if sweep == "classes":
        classes = torch.tensor(samples.classes[:steps], device=of_rows.device)
        return samples.prior(draw)[:, None].expand(-1, len(classes), -1), classes.expand(rows, -1)
    if sweep == "truncation":
        z = torch.stack([Truncation(threshold=cut).prior_of(samples.prior)(draw) for cut in thresholds(steps)], dim=1)
    else:
        ends = samples.prior(Draw(samples.recipe.seed, "samples", 0, torch.arange(2 * rows, device=of_rows.device)))
        z = interpolate(ends[::2], ends[1::2], steps, kind)
    return z, None if labels is None else labels.expand(-1, steps)


def _check(run: Run, rows: int | None, steps: int, sweep: Sweep, recipe: Recipe) -> None:
    if rows is not None and rows < 1:
        raise UserError(f"rows must be at least 1, not {rows}")
    least = 2 if sweep in ("latents", "interpolations") else 1
    if steps < least:
        raise UserError(f"steps must be at least {least}, not {steps}")
    if run.config.data.source in DISTRIBUTIONS:
        raise UserError(f"walks are shown as images, and the run in {run.path} draws points")
    if sweep == "classes" and not run.config.network.classes:
        raise UserError(f"the run in {run.path} is not class-conditional: it has no classes to go through")
    if sweep == "truncation" and recipe.truncation is not None:
        raise UserError("a sweep of truncations takes no truncation of its own")
    if type(recipe.chosen) is not Plain or recipe.standing_statistics:
        raise UserError("walks are drawn from the prior by the plain sampler, with the run's own batch statistics")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {name} {value!r}: {nearest(value, known)}")
