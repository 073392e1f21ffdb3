"""Samples from a trained generator, refined (AdvLatGAN-z) or not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid

from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.engine.local import AUTOCAST
from fastgan.latent import Prior, refine
from fastgan.training.run import Run


def sample(
    run: Run,
    num: int = 64,
    refine_steps: int = 0,
    step_size: float = 0.05,
    *,
    seed: int = 0,
    truncation: float | None = None,
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
        raw_weights: use the generator as last stepped instead of its moving average.

    Returns:
        float32 on the CPU: images (num, C, H, W) in [-1, 1], points (num, 2), unbounded.

    Raises:
        UserError: a number is out of range.
    """
    batches = stream(run, num, refine_steps, step_size, seed=seed, truncation=truncation, raw_weights=raw_weights)
    return torch.cat([batch.cpu() for batch in batches])


def stream(
    run: Run,
    num: int,
    refine_steps: int = 0,
    step_size: float = 0.05,
    *,
    seed: int = 0,
    truncation: float | None = None,
    raw_weights: bool = False,
    batch_size: int = 64,
) -> Iterator[Tensor]:
    """The samples of `sample`, batch by batch, on the run's device."""
    check_range(num, refine_steps, step_size, truncation)
    prior = Prior.of(run.config.latent)
    if truncation is not None:
        prior = replace(prior, kind="truncated-normal", truncation=truncation)
    generator = run.generator if raw_weights else run.ema_generator
    dtype = AUTOCAST[run.precision]
    for first in range(0, num, batch_size):
        rows = torch.arange(first, min(first + batch_size, num), device=run.device)
        z = prior(Draw(seed, "samples", 0, rows))
        with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
            if refine_steps:
                z = refine(
                    generator, run.discriminator, z, steps=refine_steps, step_size=step_size, objective=run.config.objective
                )
            with torch.no_grad():
                yield generator(z)


def check_range(num: int, refine_steps: int, step_size: float, truncation: float | None) -> None:
    """Refuse numbers that no sampling can follow."""
    if num < 1:
        raise UserError(f"num must be at least 1, not {num}")
    if refine_steps < 0 or not 0 <= step_size < float("inf"):
        raise UserError(f"refine_steps and step_size must be at least 0, not {refine_steps} and {step_size}")
    if truncation is not None and not 0 < truncation < float("inf"):
        raise UserError(f"truncation must be above 0, not {truncation}")


def grid(images: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] as one nearly square picture (3, h, w) in [0, 1]."""
    columns = max(1, round(len(images) ** 0.5))
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


def write_images(images: Tensor, out: Path) -> None:
    """Write images in [-1, 1] as one grid, where `out` ends in .png, or as numbered files into the folder `out`."""
    if out.suffix.lower() == ".png":
        write_image(grid(images), out)
        return
    for number, image in enumerate(images):
        write_image((image.float().clamp(-1, 1) + 1) / 2, out / f"{number:06d}.png")
