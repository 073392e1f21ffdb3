"""Metrics."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastgan.checked import UserError
from fastgan.commands.options import Metavar, Settings, choices, load_shared, make_room, numbers
from fastgan.commands.printing import OUT, say_metrics


def evaluate(
    run: Annotated[Path | None, tyro.conf.Positional, Metavar(metavar="RUN")] = None,
    /,
    *,
    metrics: str | None = None,
    num: int | None = None,
    seed: int = 0,
    features: str | None = None,
    feature_weights: Annotated[Path | None, Metavar(metavar="FILE")] = None,
    split: Literal["train", "held-out", "all"] = "train",
    real: Annotated[Path | None, Metavar(metavar="DIR|STATISTICS")] = None,
    generated: Annotated[Path | None, Metavar(metavar="DIR")] = None,
    resolution: int | None = None,
    weights: Literal["average", "raw"] = "average",
    sampler: str = "plain",
    sampler_set: Settings = (),
    refine_steps: int = 0,
    step_size: float = 0.05,
    refine_set: Settings = (),
    truncation: str | None = None,
    standing_statistics: int = 0,
    precision: str | None = None,
    batch_size: int | None = None,
    checkpoint: str = "newest",
    json: Annotated[Path | None, Metavar(metavar="FILE")] = None,
) -> None:
    """Judge a run's samples, or two folders of images. Started by torchrun, every process does its share.

    Args:
        run: The run's folder; none where --real and --generated name what is judged.
        metrics: Names divided by commas; what fits the data where none are given. Known: fid, kid, is, prc, prdc,
            density-coverage, ndb, kde, diversity, intra-fid, cas, modes-stacked-digits, good-samples; with their features,
            such as kid-digits (docs/evaluation.md).
        num: How many samples are judged (default: 5000; 26000 for modes-stacked-digits).
        seed: Of the samples.
        features: What metrics look at: inception, digits, pixels, random, or another extractor of torch-fidelity's (default:
            inception; for digits, where its weights are not at hand, digits).
        feature_weights: The extractor's weights file (default: what FASTGAN_FEATURE_WEIGHTS names). Nothing is downloaded.
        split: The real images that samples are compared with.
        real: A folder of real images, or statistics kept by an earlier evaluation, in the place of the run's data.
        generated: A folder of images to be judged without a run.
        resolution: The side that images of two folders are resized to, where they differ in size.
        weights: The generator's moving average, or its weights as last stepped.
        sampler: How latents are chosen: plain, truncation, drs, mh, ddls, dot or hubness (docs/samplers.md).
        sampler_set: Settings of the sampler, such as percentile=95.
        refine_steps: K iterations of I-FGSM on the sampler's latents (AdvLatGAN-z).
        step_size: How far one iteration moves each coordinate of a latent.
        refine_set: Further settings of refinement, such as radius=0.5 keep_best=true.
        truncation: Draw from a normal prior, coordinates beyond this many standard deviations drawn again; several, divided by
            commas, give a curve.
        standing_statistics: Compute the generator's batch-norm statistics anew from this many batches of 64 samples, for this
            command alone (BigGAN, for averaged or truncated samples); 0 keeps those of training.
        precision: What networks compute in, fp32 or bf16 (default: the run's).
        batch_size: Samples drawn together (default: 64).
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
        json: Write the result here as one JSON object.
    """
    from fastgan.training import assess
    from fastgan.training.files import write_json

    if (run is None) == (generated is None) or (run is None and real is None):
        raise UserError("evaluate takes a run's folder, or --real DIR and --generated DIR")
    names = [name.strip() for name in metrics.split(",")] if metrics is not None else None
    judged = {"features": features, "feature_weights": feature_weights, "quiet": False}
    if generated is not None:
        from fastgan.engine import join, resolve_device

        of_runs = {
            "--num": num is not None,
            "--seed": bool(seed),
            "--split": split != "train",
            "--weights": weights != "average",
            "--sampler": sampler != "plain" or bool(sampler_set),
            "--refine-steps": bool(refine_steps or refine_set),
            "--truncation": truncation is not None,
            "--standing-statistics": bool(standing_statistics),
            "--precision": precision is not None,
            "--checkpoint": checkpoint != "newest",
        }
        if given := [name for name, is_given in of_runs.items() if is_given]:
            raise UserError(f"{given[0]} is for runs: of two folders all images are judged as they are")
        device = resolve_device("auto")
        ranks = join(device)
        make_room(json, ranks)
        result = assess.evaluate_images(real, generated, names, resolution=resolution, device=device, ranks=ranks, **judged)
        results = [result]
    else:
        if resolution is not None:
            raise UserError("--resolution is for two folders: a run's images have the run's resolution")
        cuts = numbers(truncation, "--truncation") if truncation is not None else [None]
        options = {"seed": seed, "standing_statistics": standing_statistics, "precision": precision}
        options |= choices(sampler, sampler_set, refine_set, batch_size) | {"raw_weights": weights == "raw"}
        loaded, ranks = load_shared(run, checkpoint)
        make_room(json, ranks)
        arguments = loaded, cuts, names, num, refine_steps, step_size
        result = assess.truncation_curve(*arguments, split=split, real=real, ranks=ranks, **judged, **options)
        results = result["curve"]
        result = results[0] if len(results) == 1 else result
    if not ranks.first:
        return
    for each in results:
        if len(results) > 1:
            OUT.print(f"truncation {each['truncation']:g}", markup=False)
        say_metrics(each)
    if json is not None:
        write_json(json, result)
