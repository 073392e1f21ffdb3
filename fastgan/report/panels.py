"""What the page lets a run's networks draw: samples, their nearest real images, paths, samples before and after refinement."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgan.data import Stream, open_source
from fastgan.draw import Draw
from fastgan.engine.local import AUTOCAST
from fastgan.judgement import Judgement
from fastgan.latent.paths import interpolate
from fastgan.training.assess import digits_judge
from fastgan.training.coding import prior_of
from fastgan.training.run import Run
from fastgan.training.sampling import Recipe, cycled, sample

SEED = 0
"""Of everything that the page draws."""
MOST_REAL = 20_000
"""Real images that neighbours are looked for among, at most."""
NEAREST = 3
"""Neighbours that are shown."""
_BATCH = 64


@dataclass(frozen=True)
class Neighbours:
    """Samples and the real images nearest to them.

    Attributes:
        by: what distances are taken of: "pixels" or "features".
        images: (N, 1 + NEAREST, C, H, W) in [-1, 1], each sample before its neighbours, the nearest first; of fewer real images
            fewer neighbours.
        distances: float32 (N,), of each sample to its nearest.
        among_real: the median distance of a real image to its nearest other one: a sample much nearer than that is a copy.
        count: real images that were looked through.
        of: real images that there are.
    """

    by: str
    images: Tensor
    distances: Tensor
    among_real: float
    count: int
    of: int


def nearest_real(run: Run, samples: Tensor, by: Literal["pixels", "features"]) -> Neighbours:
    """The real training images, as the run was shown them but not mirrored and without noise, that are nearest to each sample.

    Args:
        samples: (N, C, H, W) in [-1, 1].
        by: distances of pixels (root mean square, on [-1, 1]), or of the features by which the digits' classifier tells them
            apart (Euclidean; their variance over the training images is 1).

    Raises:
        DataError: the data can't be opened.
        UserError: there are features for digits alone.
    """
    looked = _pixels if by == "pixels" else digits_judge(run.path, run.config.data.resolution).classifier.features
    seen = looked(samples)
    best = torch.full((len(seen), NEAREST), torch.inf)
    pictures = samples.new_zeros(len(seen), NEAREST, *samples.shape[1:])
    among, probes, count = None, None, 0
    with _real_images(run) as (total, batches):
        for images in batches:  # of each batch no more is kept than what is nearest: the set may not fit into memory
            real = looked(images)
            probes = real if probes is None else probes
            among = _smallest(torch.cdist(probes, real), among)
            both = torch.cat([best, torch.cdist(seen, real)], dim=1)
            best, order = both.topk(NEAREST, largest=False)
            old = pictures.gather(1, _rows(order.clamp(max=NEAREST - 1), pictures))
            new = images[(order - NEAREST).clamp(min=0)]
            pictures = torch.where(_rows(order, pictures) < NEAREST, old, new)
            count += len(images)
    kept = min(NEAREST, count)
    shown = torch.cat([samples[:, None], pictures[:, :kept]], dim=1)
    return Neighbours(by, shown, best[:, 0], float(among[:, -1].median()), count, total)


def _smallest(distances: Tensor, so_far: Tensor | None) -> Tensor:
    """The two smallest of each row: a real image's distance to itself, and to the nearest other."""
    both = distances if so_far is None else torch.cat([so_far, distances], dim=1)
    return both.topk(min(2, both.shape[1]), largest=False)[0]


def _rows(order: Tensor, pictures: Tensor) -> Tensor:
    """`order` (N, k), spread over what `pictures` (N, k, ...) has of each."""
    return order.view(*order.shape, *(1,) * (pictures.dim() - 2)).expand_as(pictures)


def _pixels(images: Tensor) -> Tensor:
    """Rows whose Euclidean distance is the root mean square difference of pixels."""
    rows = images.float().clamp(-1, 1).flatten(1)
    return rows / rows.shape[1] ** 0.5


@contextlib.contextmanager
def _real_images(run: Run) -> Iterator[tuple[int, Iterator[Tensor]]]:
    """How many training images there are, and the first of them in the order of a fixed seed, (B, C, H, W) in [-1, 1]."""
    data = run.config.data
    source = open_source(data.source, data.path, on_bad_image=data.on_bad_image, quiet=True)
    names = ("resolution", "channels", "crop", "min_area", "filter", "threads")
    count = min(MOST_REAL, len(source))
    stream = Stream(source, batch_size=_BATCH, seed=SEED, **{name: getattr(data, name) for name in names})
    with contextlib.closing(stream):
        yield len(source), (next(stream)["images"][: count - first] for first in range(0, count, _BATCH))


@torch.no_grad()
def paths(run: Run, count: int, steps: int, kind: Literal["linear", "spherical"]) -> Tensor:
    """What the averaged generator draws on the ways between pairs of latents, on the CPU: (count, steps, ...). In a run with
    classes each way stays in one."""
    rows = torch.arange(2 * count, device=run.device)
    ends = prior_of(run)(Draw(SEED, "paths", 0, rows))
    z = interpolate(ends[:count], ends[count:], steps, kind).flatten(0, 1)
    classes = run.config.network.classes
    labels = cycled(range(classes), rows[:count]).repeat_interleave(steps) if classes else None
    dtype = AUTOCAST[run.precision]
    drawn = []
    with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
        for first in range(0, len(z), _BATCH):
            part = slice(first, first + _BATCH)
            drawn.append(run.ema_generator(z[part], *(() if labels is None else (labels[part],))).float().cpu())
    return torch.cat(drawn).unflatten(0, (count, steps))


def refinements(run: Run) -> list[Recipe]:
    """Samples that show what refinement does: none, with the run's own settings of `latent`, and 20 steps of them. A run that
    was trained without refinement is refined as the command does it, 20 x 0.05."""
    settings = run.config.latent
    names = ("direction", "momentum", "radius", "radius_norm", "stop_score", "keep_best")
    options = {name: getattr(settings, name) for name in names}
    steps = [0, *dict.fromkeys((settings.refine_steps, 20))] if settings.refine_steps else [0, 20]
    size = settings.step_size if settings.refine_steps else 0.05
    return [Recipe(refine_steps=count, step_size=size, refine=options, seed=SEED) for count in steps]


@torch.no_grad()
def mean_score(run: Run, samples: Tensor) -> float:
    """The discriminator's mean score of samples (N, ...) on the CPU, drawn by a recipe with every class in turn."""
    classes, found = run.config.network.classes, []
    dtype = AUTOCAST[run.precision]
    for first in range(0, len(samples), _BATCH):
        part = samples[first : first + _BATCH].to(run.device)
        rows = torch.arange(first, first + len(part), device=run.device)
        labels = (cycled(range(classes), rows),) if classes else ()
        with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
            score = Judgement.of(run.discriminator(part, *labels)).score
        found.append(score.float().reshape(len(part), -1).mean(1).cpu())
    return float(torch.cat(found).mean())


def drawn(run: Run, num: int, recipe: Recipe | None = None) -> Tensor:
    """Samples by a recipe, (num, ...) on the CPU.

    Raises:
        UserError: as `fastgan.sample`.
    """
    recipe = recipe or Recipe(seed=SEED)
    return sample(run, num, recipe.refine_steps, recipe.step_size, refine=recipe.refine, seed=recipe.seed)
