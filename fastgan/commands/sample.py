"""Samples."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastgan.commands.options import Settings, choices, load_shared, whole_numbers
from fastgan.commands.printing import OUT, say_cost


def sample(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Path,
    num: int | None = None,
    seed: int = 0,
    sampler: str = "plain",
    sampler_set: Settings = (),
    refine_steps: int = 0,
    step_size: float = 0.05,
    refine_set: Settings = (),
    truncation: float | None = None,
    standing_statistics: int = 0,
    labels: str | None = None,
    weights: Literal["average", "raw"] = "average",
    precision: str | None = None,
    batch_size: int | None = None,
    format: Literal["files", "shards"] = "files",
    checkpoint: str = "newest",
) -> None:
    """Draw samples from a run's averaged generator. Started by torchrun, every process draws its share.

    Args:
        run: The run's folder.
        out: A name ending in .png for one picture, anything else for a folder of numbered images (of points: points.npy).
        num: How many (default: 64 images, 5000 points).
        seed: Of the latents.
        sampler: How latents are chosen: plain, truncation, drs, mh, ddls, dot or hubness (docs/samplers.md).
        sampler_set: Settings of the sampler, such as percentile=95.
        refine_steps: K iterations of I-FGSM on the sampler's latents (AdvLatGAN-z).
        step_size: How far one iteration moves each coordinate of a latent.
        refine_set: Further settings of refinement, such as radius=0.5 keep_best=true.
        truncation: Draw from a normal prior, coordinates beyond this many standard deviations drawn again.
        standing_statistics: Compute the generator's batch-norm statistics anew from this many batches of 64 samples, for this
            command alone (BigGAN, for averaged or truncated samples); 0 keeps those of training.
        labels: Classes to draw in turn, such as 0,1,2, for class-conditional runs; every class where none are given.
        weights: The generator's moving average, or its weights as last stepped.
        precision: What networks compute in, fp32 or bf16 (default: the run's).
        batch_size: Samples drawn together (default: 64).
        format: Of a folder: numbered files, or shards with the classes, as `fastgan data pack` writes.
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
    """
    from fastgan.training.picture import write_samples
    from fastgan.training.sampling import Recipe

    asked = whole_numbers(labels, "--labels") if labels is not None else None
    options = {"seed": seed, "truncation": truncation, "standing_statistics": standing_statistics, "precision": precision}
    options |= choices(sampler, sampler_set, refine_set, batch_size) | {"raw_weights": weights == "raw"}
    recipe = Recipe(refine_steps=refine_steps, step_size=step_size, labels=asked, **options)
    loaded, ranks = load_shared(run, checkpoint)
    cost = write_samples(loaded, out, num, recipe, ranks, quiet=False, shards=format == "shards")
    if ranks.first:
        OUT.print(f"{cost.num} samples of round {loaded.round} -> {out}", markup=False)
        say_cost(cost)
