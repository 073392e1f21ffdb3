"""Walks through the codes of real images, of an autoencoder's run: what the players draw, interpolations, attributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fastgan.checked import UserError, nearest
from fastgan.engine import resolve_precision
from fastgan.engine.local import AUTOCAST
from fastgan.latent.directions import KINDS
from fastgan.latent.mixing import Mixtures
from fastgan.latent.paths import interpolate
from fastgan.latent.prior import Prior
from fastgan.latent.samplers import Pair
from fastgan.latent.samplers.sampler import Drawn
from fastgan.objectives import chosen
from fastgan.progress import progress
from fastgan.training.attributes import codes_of, known
from fastgan.training.coding import Shown, drawings, images_of
from fastgan.training.run import Run
from fastgan.training.sampling import Recipe, classes_in_turn

SWEEPS = ("drawings", "interpolations", "attributes")
USUAL_ROWS = 8
"""Walks, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where walks through codes begin, and along what they go.

    Raises:
        UserError: an unknown kind of directions, a reach that is not above 0, an attribute named twice, or both images and a
            split.
    """

    images: Path | None = None
    """A folder of images, or a packed set, in the place of the run's data."""
    split: str | None = None
    """Of the run's data; "train" where None."""
    table: Path | None = None
    """Attributes of the training images, as `fastgan.data.attributes` reads them; their classes where None."""
    names: Sequence[str] = ()
    """Attributes to walk along; all that are not the same in all images where empty."""
    directions: Literal["means", "least-squares"] = "least-squares"
    """How these are found."""
    reach: float = 1.0
    """How far a walk goes to either side, in directions: 1 is from without an attribute to with it."""

    def __post_init__(self) -> None:
        if self.directions not in KINDS:
            raise UserError(f"unknown directions {self.directions!r}: {nearest(self.directions, KINDS)}")
        if not 0 < self.reach < float("inf"):
            raise UserError(f"reach must be above 0, not {self.reach}")
        twice = next((name for name in self.names if list(self.names).count(name) > 1), None)
        if twice is not None:
            raise UserError(f"the attribute {twice!r} is named twice")
        if self.images is not None and self.split is not None:
            raise UserError("walks begin at a split of the run's data or at images of a folder, not at both")


def walk(
    run: Run,
    sweep: str,
    rows: int | None,
    steps: int,
    kind: str,
    recipe: Recipe,
    start: Start,
    quiet: bool,
    fewer: bool,
) -> tuple[Tensor, tuple[str, ...]]:
    """Images (rows, columns, C, H, W) of a sweep of `SWEEPS`, float32 on the CPU, and what the rows show in turns. With `fewer`
    drawings are of less than `steps` images where no more are there; so are rows that are None.

    Raises:
        UserError: no run of autoencoders, options that do not fit, fewer images than are shown, or none that can be read.
    """
    _check(run, sweep, rows, recipe, start)
    if sweep == "drawings":
        return _drawings(run, _images(run, steps, start, recipe, 1 if fewer else None).images, recipe)
    if sweep == "interpolations":
        shown = _images(run, 2 * (rows or USUAL_ROWS), start, recipe, 2 if rows is None else None)
        codes = codes_of(run, shown)[: len(shown.images) // 2 * 2]
        z, titles = interpolate(codes[::2], codes[1::2], steps, kind), ()
    else:
        there = known(run, start.table)
        _check_names(there.names, start.names)
        there = there.varying(start.names)
        if not there.names:
            raise UserError("every attribute is the same in all images: there is none to walk along")
        names = start.names or there.names
        along = there.directions(start.directions).to(there.codes)[[there.names.index(name) for name in names]]
        count = max(1, USUAL_ROWS // len(names)) if rows is None else rows
        codes = codes_of(run, _images(run, count, start, recipe, 1 if rows is None else None))
        t = torch.linspace(-start.reach, start.reach, steps).to(codes)
        z = (codes[:, None, None] + t[:, None] * along[:, None]).flatten(0, 1)
        titles = tuple(f"{name} from -{start.reach:g} to {start.reach:g}" for name in names)
    prior = Mixtures(codes, run.config.gaia.mix_mean, run.config.gaia.mix_deviation)
    return draw(run, recipe, z, None, prior, quiet), titles


def draw(run: Run, recipe: Recipe, z: Tensor, labels: Tensor | None, prior: Prior | Mixtures, quiet: bool) -> Tensor:
    """Images (rows, columns, C, H, W) of latents (rows, columns, dim), refined as the recipe says, float32 on the CPU."""
    dtype = AUTOCAST[resolve_precision(recipe.precision or run.precision, run.device)]
    pair = Pair(
        run.generator if recipe.raw_weights else run.ema_generator,
        run.discriminator,
        prior,
        classes=run.config.network.classes,
        objective=chosen(run.config.objective, run.config.objective_options),
        device=run.device,
    )
    flat, flat_labels = z.flatten(0, 1), None if labels is None else labels.flatten()
    images = []
    with progress("drawing", len(flat), quiet=quiet, announced=False) as advance:
        for first in range(0, len(flat), recipe.batch_size):
            part = slice(first, first + recipe.batch_size)
            with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
                drawn = recipe.refinement(pair, Drawn(flat[part], None if flat_labels is None else flat_labels[part]))
                images.append(pair.generate(drawn.z, drawn.labels).float().cpu())
            advance(len(images[-1]))
    return torch.cat(images).unflatten(0, z.shape[:2])


def _drawings(run: Run, images: Tensor, recipe: Recipe) -> tuple[Tensor, tuple[str, ...]]:
    networks = run.game.played() | dict(run.average.networks.items())
    dtype = AUTOCAST[resolve_precision(recipe.precision or run.precision, run.device)]
    with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
        found = drawings(networks["generator"], networks.get("discriminator"), images.to(run.device))
    return torch.stack([drawn.float().cpu() for drawn in found.values()]), tuple(found)


def _images(run: Run, count: int, start: Start, recipe: Recipe, least: int | None) -> Shown:
    """So many images, or fewer where that are all; not fewer than `least`, or `count` where None."""
    shown, count = images_of(run, start.split or "train", count, start.images, recipe.seed), least or count
    if len(shown.images) < count:
        of = start.images or f"the data of the run in {run.path}"
        raise UserError(f"{count} images are to be shown, and {of} has {len(shown.images)}: give fewer rows or steps")
    return shown


def _check_names(there: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in there:
            raise UserError(f"there is no attribute {name!r}: {nearest(name, there)}")


def _check(run: Run, sweep: str, rows: int | None, recipe: Recipe, start: Start) -> None:
    if not run.codes_images:
        raise UserError(f"the run in {run.path} has no autoencoder: a sweep of {sweep} is of codes of images")
    if recipe.truncation is not None:
        raise UserError(f"a sweep of {sweep} draws from no prior: there is nothing to truncate")
    if recipe.raw_weights:
        raise UserError(f"a sweep of {sweep} is of codes of the averaged generator: it takes no raw weights")
    classes_in_turn(run, recipe.labels)
    if sweep == "drawings" and rows is not None:
        raise UserError("rows of drawings are what the networks make of the images: steps says how many images")
    if sweep == "drawings" and recipe.refine_steps:
        raise UserError("drawings are of codes as they are: nothing is refined")
    if sweep != "attributes" and (start.table is not None or start.names):
        raise UserError(f"a sweep of {sweep} goes along no attributes")
