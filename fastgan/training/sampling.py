"""Samples from a trained generator, refined (AdvLatGAN-z) or not."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
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


def sample(
    run: Run,
    num: int = 64,
    refine_steps: int = 0,
    step_size: float = 0.05,
    *,
    seed: int = 0,
    truncation: float | None = None,
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
        truncation: draw from the normal prior cut at this many standard deviations instead of the run's own prior.
        labels: classes to draw in turn, image i of class labels[i % len(labels)], for class-conditional runs; every class
            where None.
        raw_weights: use the generator as last stepped instead of its moving average.

    Returns:
        float32 on the CPU: images (num, C, H, W) in [-1, 1], points (num, 2), unbounded.

    Raises:
        UserError: a number is out of range, or the run has no such class, or none at all.
    """
    options = {"seed": seed, "truncation": truncation, "labels": labels, "raw_weights": raw_weights}
    batches = stream(run, num, refine_steps, step_size, **options)
    return torch.cat([batch.cpu() for batch in batches])


def stream(
    run: Run,
    num: int,
    refine_steps: int = 0,
    step_size: float = 0.05,
    *,
    seed: int = 0,
    truncation: float | None = None,
    labels: Sequence[int] | Literal["uniform"] | None = None,
    raw_weights: bool = False,
    batch_size: int = 64,
) -> Iterator[Tensor]:
    """The samples of `sample`, batch by batch, on the run's device; with labels "uniform" each one's class is drawn."""
    check_range(num, refine_steps, step_size, truncation)
    classes = classes_in_turn(run, labels)
    prior = Prior.of(run.config.latent)
    if truncation is not None and prior.kind == "uniform":
        raise UserError("truncation cuts a normal prior; this run's is uniform")
    if truncation is not None:
        prior = replace(prior, kind="truncated-normal", truncation=truncation)
    generator = run.generator if raw_weights else run.ema_generator
    dtype = AUTOCAST[run.precision]
    for first in range(0, num, batch_size):
        rows = torch.arange(first, min(first + batch_size, num), device=run.device)
        draw = Draw(seed, "samples", 0, rows)
        z = prior(draw)
        given = None if not classes else draw.integers("labels", len(classes)) if labels == "uniform" else cycled(classes, rows)
        with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
            if refine_steps:
                options = {"steps": refine_steps, "step_size": step_size, "objective": run.config.objective}
                z = refine(generator, run.discriminator, z, given, **options)
            with torch.no_grad():
                yield generator(z) if given is None else generator(z, given)


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


def check_range(num: int, refine_steps: int, step_size: float, truncation: float | None) -> None:
    """Refuse numbers that no sampling can follow."""
    if num < 1:
        raise UserError(f"num must be at least 1, not {num}")
    if refine_steps < 0 or not 0 <= step_size < float("inf"):
        raise UserError(f"refine_steps and step_size must be at least 0, not {refine_steps} and {step_size}")
    if truncation is not None and not 0 < truncation < float("inf"):
        raise UserError(f"truncation must be above 0, not {truncation}")


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
