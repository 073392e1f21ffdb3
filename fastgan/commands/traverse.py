"""Walks through latents."""

from pathlib import Path
from typing import Annotated

import tyro

from fastgan.commands.options import Metavar, Settings, assignments, whole_numbers
from fastgan.commands.printing import OUT


def traverse(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    out: Annotated[Path, Metavar(metavar="FILE.png")],
    sweep: str = "latents",
    kind: str = "linear",
    rows: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    refine_steps: int = 0,
    step_size: float = 0.05,
    refine_set: Settings = (),
    truncation: float | None = None,
    labels: str | None = None,
    images: Annotated[Path | None, Metavar(metavar="DIR")] = None,
    split: str | None = None,
    attributes: Annotated[Path | None, Metavar(metavar="FILE")] = None,
    attribute: str | None = None,
    directions: str = "least-squares",
    reach: float = 1.0,
    precision: str | None = None,
    batch_size: int = 64,
    checkpoint: str = "newest",
) -> None:
    """Walk through the latents of a run's averaged generator, a walk a row (docs/traverse.md).

    Args:
        run: The run's folder.
        out: The picture.
        sweep: What changes along a row: latents (from one sample to another), truncation (of one latent) or classes (of one
            latent; class-conditional runs). Of autoencoders also drawings (a column is an image and what the networks make of
            it), interpolations (from the code of one image to another's) or attributes (around the code of an image).
        kind: How a row of latents goes: linear, or spherical, as lengths of latents in many dimensions hardly differ.
        rows: Walks (default: 8); of attributes images, each with a walk an attribute (default: 8 walks or fewer).
        steps: Images of each, both ends included (default: 8; of attributes 9, of classes the first 16).
        seed: Of the latents: row i begins with sample 2i of `fastgan sample`, and ends with sample 2i + 1. Of the order of real
            images.
        refine_steps: K iterations of I-FGSM on every latent shown (AdvLatGAN-z).
        step_size: How far one iteration moves each coordinate of a latent.
        refine_set: Further settings of refinement, such as radius=0.5 keep_best=true.
        truncation: Draw the ends from a normal prior, coordinates beyond this many standard deviations drawn again.
        labels: Classes of the rows in turn, such as 0,1,2, or those that a sweep of classes shows.
        images: Walks through codes begin at images of this folder, in the place of the run's data.
        split: Of the run's data, where they begin: train, held-out or all (default: train).
        attributes: A table of the training images' attributes, a CSV file or CelebA's (default: their classes).
        attribute: Which to walk along, names divided by commas (default: all that vary).
        directions: How they are found: means (of codes with and without the attribute) or least-squares.
        reach: How far a walk goes to either side, in directions.
        precision: What networks compute in, fp32 or bf16 (default: the run's).
        batch_size: Images drawn together.
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
    """
    from fastgan.training import load_run
    from fastgan.training.code_walks import SWEEPS, Start
    from fastgan.training.traversal import write_traversal

    names = [name.strip() for name in attribute.split(",")] if attribute is not None else ()
    start = Start(images=images, split=split, table=attributes, names=names, directions=directions, reach=reach)
    options = {"refine_steps": refine_steps, "step_size": step_size, "refine": assignments(refine_set, "--refine-set")}
    options |= {"seed": seed, "truncation": truncation, "precision": precision, "batch_size": batch_size}
    options["labels"] = whole_numbers(labels, "--labels") if labels is not None else None
    loaded = load_run(run, checkpoint=checkpoint)
    options["start"] = start if sweep in SWEEPS or start != Start() else None
    found = write_traversal(loaded, out, rows, steps, sweep=sweep, kind=kind, quiet=False, **options)
    rows, columns = found.images.shape[:2]
    OUT.print(f"{rows} walks of {columns} images of round {loaded.round} -> {out}", markup=False)
    if found.titles:
        OUT.print(f"rows, in turns: {'; '.join(found.titles)}", markup=False)
