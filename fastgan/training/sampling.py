"""Samples from a trained generator, refined (AdvLatGAN-z) or not, truncated, with standing statistics."""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import make_grid

from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.engine.local import AUTOCAST
from fastgan.latent import Prior, refine
from fastgan.training.files import make_room_for
from fastgan.training.run import Run

_OTHER_FORMATS = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".npz"}
MOST_COLUMNS = 16
"""Columns of a grid with one class a column, at most."""
BATCH = 64
"""Samples that are drawn together."""


def sample(
    run: Run,
    num: int = 64,
    refine_steps: int = 0,
    step_size: float = 0.05,
    *,
    seed: int = 0,
    truncation: float | None = None,
    standing_statistics: int = 0,
    labels: Sequence[int] | None = None,
    raw_weights: bool = False,
) -> Tensor:
    """Draw samples: images, or points where the run was trained on points.

    Args:
        run: from `train` or `load_run`.
        num: how many.
        refine_steps: K of I-FGSM on the latents before G draws them (AdvLatGAN-z); 0 for plain samples.
        step_size: eps of a refinement step.
        seed: sample i is the same for every `num` and batch size.
        truncation: draw from the normal prior with every coordinate outside +-truncation drawn again (Brock et al. 2019,
            section 3.1), in the place of the run's own prior: closer to the mode, better images of less variety.
        standing_statistics: batches of 64 samples from which the generator's batch-norm statistics are computed anew, under the
            same truncation (Brock et al. 2019, appendix E); 0 leaves those of training. The run's own stay as they are.
        labels: classes to draw in turn, image i of class labels[i % len(labels)], for class-conditional runs; every class
            where None.
        raw_weights: use the generator as last stepped instead of its moving average.

    Returns:
        float32 on the CPU: images (num, C, H, W) in [-1, 1], points (num, 2), unbounded.

    Raises:
        UserError: a number is out of range, the run has no such class, or none at all, its prior is uniform where it is to be
            truncated, or its generator has no batch norm where standing statistics are asked for.
    """
    options = {"seed": seed, "truncation": truncation, "standing_statistics": standing_statistics, "labels": labels}
    batches = stream(run, num, refine_steps, step_size, raw_weights=raw_weights, **options)
    return torch.cat([batch.cpu() for batch in batches])


def stream(
    run: Run,
    num: int,
    refine_steps: int = 0,
    step_size: float = 0.05,
    *,
    seed: int = 0,
    truncation: float | None = None,
    standing_statistics: int = 0,
    labels: Sequence[int] | Literal["uniform"] | None = None,
    raw_weights: bool = False,
    batch_size: int = BATCH,
) -> Iterator[Tensor]:
    """The samples of `sample`, batch by batch, on the run's device; with labels "uniform" each one's class is drawn."""
    check_range(num, refine_steps, step_size, truncation, standing_statistics)
    classes = classes_in_turn(run, labels)
    prior = _prior(run, truncation)
    generator = run.generator if raw_weights else run.ema_generator
    if standing_statistics:
        generator = with_standing_statistics(run, generator, prior, standing_statistics, seed)
    for first in range(0, num, batch_size):
        rows = torch.arange(first, min(first + batch_size, num), device=run.device)
        draw = Draw(seed, "samples", 0, rows)
        z = prior(draw)
        given = None if not classes else draw.integers("labels", len(classes)) if labels == "uniform" else cycled(classes, rows)
        with _autocast(run):
            if refine_steps:
                options = {"steps": refine_steps, "step_size": step_size, "objective": run.config.objective}
                z = refine(generator, run.discriminator, z, given, **options)
            with torch.no_grad():
                yield generator(z) if given is None else generator(z, given)


def with_standing_statistics(run: Run, generator: nn.Module, prior: Prior, batches: int, seed: int) -> nn.Module:
    """A copy of `generator` whose batch-norm statistics are the mean of those of `batches` batches of 64 fresh samples.

    Brock et al. 2019, appendix E: the averages kept in training fit neither averaged weights nor a truncated prior. Latents are
    as `prior` gives them, not refined; classes are drawn uniformly. What is drawn is independent of the samples' own latents.

    Raises:
        UserError: the generator has no batch norm.
    """
    generator = deepcopy(generator)
    norms = [module for module in generator.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise UserError(f"the generator of the run in {run.path} has no batch norm: it takes no standing statistics")
    momenta = [norm.momentum for norm in norms]
    generator.train()
    for number in range(batches):
        draw = Draw(seed, "standing statistics", 0, torch.arange(number * BATCH, (number + 1) * BATCH, device=run.device))
        for norm in norms:
            norm.momentum = 1 / (number + 1)  # the mean so far; the first batch takes the place of what was there
        labels = (draw.integers("labels", classes),) if (classes := run.config.network.classes) else ()
        with _autocast(run), torch.no_grad():
            generator(prior(draw), *labels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return generator.eval()


def cycled(classes: Sequence[int], rows: Tensor) -> Tensor:
    """The class of each row, int64 (B,), when `classes` come in turn."""
    return torch.tensor(classes, device=rows.device)[rows % len(classes)]


def classes_in_turn(run: Run, labels: Sequence[int] | Literal["uniform"] | None) -> list[int]:
    """The classes that `labels` asks a run for: all of them where it names none, empty for a run without classes.

    Raises:
        UserError: the run has no such class, or none at all.
    """
    classes = run.config.network.classes
    if labels is None or labels == "uniform":
        return list(range(classes))
    if not classes:
        raise UserError(f"the run in {run.path} is not class-conditional: it takes no labels")
    for label in labels:
        if not 0 <= label < classes:
            raise UserError(f"label {label} is out of range: the classes of the run in {run.path} are 0 to {classes - 1}")
    if not labels:
        raise UserError("labels names no class")
    return list(labels)


def _prior(run: Run, truncation: float | None) -> Prior:
    """The run's own prior, or the normal one cut at +-truncation."""
    prior = Prior.of(run.config.latent)
    if truncation is None:
        return prior
    if prior.kind == "uniform":
        raise UserError("truncation cuts a normal prior; this run's is uniform")
    return replace(prior, kind="truncated-normal", truncation=truncation)


def _autocast(run: Run) -> torch.autocast:
    dtype = AUTOCAST[run.precision]
    return torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None)


def check_range(
    num: int, refine_steps: int, step_size: float, truncation: float | None = None, standing_statistics: int = 0
) -> None:
    """Refuse numbers that no sampling can follow."""
    if num < 1:
        raise UserError(f"num must be at least 1, not {num}")
    if refine_steps < 0 or not 0 <= step_size < float("inf"):
        raise UserError(f"refine_steps and step_size must be at least 0, not {refine_steps} and {step_size}")
    if truncation is not None and not 0 < truncation < float("inf"):
        raise UserError(f"truncation must be above 0, not {truncation}")
    if standing_statistics < 0:
        raise UserError(f"standing_statistics must be at least 0, not {standing_statistics}")


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """(N, C, H, W) in [-1, 1] as one picture (3, h, w) in [0, 1], row by row; nearly square where `columns` is None."""
    columns = columns or max(1, round(len(images) ** 0.5))
    return make_grid(images.float().cpu().clamp(-1, 1), nrow=columns, padding=2, normalize=True, value_range=(-1, 1))


def write_image(picture: Tensor, path: Path) -> None:
    """Write (C, h, w) in [0, 1] as a PNG.

    Raises:
        UserError: the file can't be written.
    """
    from torchvision.transforms.functional import to_pil_image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(picture.mul(255).round().to(torch.uint8)).save(path, format="PNG")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None


def columns_for(classes: Sequence[int]) -> int | None:
    """Columns of a grid that shows one class a column; None, the nearly square one, without classes or with too many."""
    return len(classes) if 0 < len(classes) <= MOST_COLUMNS else None


def write_images(batches: Iterable[Tensor], out: Path, columns: int | None = None) -> None:
    """Write images in [-1, 1] as one grid, where `out` ends in .png, or one by one into the folder `out`, numbered.

    Raises:
        UserError: the place can't be written, or is named after a format that is not written.
    """
    if out.suffix.lower() == ".png":
        make_room_for(out)
        write_image(grid(torch.cat([batch.cpu() for batch in batches]), columns), out)
        return
    if out.suffix.lower() in _OTHER_FORMATS:
        raise UserError(f"{out}: grids are written as .png")
    make_room_for(out / "000000.png")
    for number, image in enumerate(image for batch in batches for image in batch):
        write_image((image.float().clamp(-1, 1) + 1) / 2, out / f"{number:06d}.png")
