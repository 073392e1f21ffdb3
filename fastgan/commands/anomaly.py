"""Anomaly scores."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastgan.checked import UserError
from fastgan.commands.invert import manner_of, say_targets
from fastgan.commands.options import Metavar, Settings
from fastgan.commands.printing import OUT


def anomaly(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    images: Annotated[str, Metavar(metavar="DIR|FILE|train|held-out|all")],
    out: Annotated[Path | None, Metavar(metavar="DIR")] = None,
    weight: float = 0.1,
    normal: Annotated[str | None, Metavar(metavar="CLASS,...")] = None,
    anomalous: Annotated[str | None, Metavar(metavar="CLASS,...")] = None,
    steps: int | None = None,
    rate: float | None = None,
    optimiser: Literal["lbfgs", "adam", "rmsprop"] | None = None,
    starts: int | None = None,
    nearest: int | None = None,
    seed: int = 0,
    invert_set: Settings = (),
    labels: str | None = None,
    on_bad_image: Literal["refuse", "skip"] = "refuse",
    weights: Literal["average", "raw"] = "average",
    precision: str = "fp32",
    batch_size: int | None = None,
    checkpoint: str = "newest",
    json: Annotated[Path | None, Metavar(metavar="FILE")] = None,
) -> None:
    """Score images by how badly a run's generator draws them and its discriminator knows them (AnoGAN; docs/inversion.md).

    Args:
        run: The run's folder; trained on normal images alone.
        images: A folder of images or of class folders, a packed set, an .npz or .npy file; or train, held-out or all of the
            run's own data. They are resized to the run's resolution.
        out: A folder for scores.csv, a picture of the most and the least anomalous images, and the latents; the same line goes
            on where it was stopped. Without it scores are in the JSON alone.
        weight: Of the distance of the discriminator's features, 0 to 1; the rest is the distance of pixels.
        normal: Classes that are normal, the others anomalous (default: folders called normal or good).
        anomalous: Classes that are anomalous, the others normal (default: folders called anomalous, anomaly or abnormal).
            Where both are given, classes that neither names are scored but not judged.
        steps: Iterations of each start (default: 200).
        rate: Of Adam and RMSprop; of L-BFGS how far its first iteration moves (default: 0.1).
        optimiser: lbfgs, adam, which wants 1,000 iterations, or rmsprop (default: lbfgs).
        starts: Latents from which each image is sought, the best one kept (default: 1).
        nearest: Start from the nearest of so many samples in the place of plain draws (default: 0, plain draws).
        seed: Of the starts.
        invert_set: Further settings of the inversion, such as stop_error=0.001 (docs/inversion.md).
        labels: Of class-conditional runs: the number of a class for all images, folders (the class that a folder's name tells),
            or search (all are tried; the default, but for the run's own data, whose labels are known).
        on_bad_image: Refuse a folder with images that do not decode, or skip these.
        weights: The generator's moving average, or its weights as last stepped.
        precision: What networks compute in, fp32 or bf16, which leaves larger errors.
        batch_size: Images inverted together, and kept when they are done (default: 256).
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
        json: Write the scores and the summary here as one JSON object.
    """
    from fastgan.data.folder import counted
    from fastgan.training import load_run
    from fastgan.training.anomaly import score_images
    from fastgan.training.files import make_room_for, write_json
    from fastgan.training.targets import Targets

    sides = {"normal": _names(normal, "--normal"), "anomalous": _names(anomalous, "--anomalous")}
    manner = manner_of(
        {"steps": steps, "rate": rate, "optimiser": optimiser, "starts": starts, "nearest": nearest, "seed": seed},
        invert_set,
        labels=labels,
        raw_weights=weights == "raw",
        precision=precision,
        batch_size=batch_size,
        pictured=0,
    )
    loaded = load_run(run, checkpoint=checkpoint)
    if json is not None:
        make_room_for(json)
    targets = Targets.of(loaded, images, on_bad_image, quiet=False)
    found = score_images(loaded, targets, out, manner, weight, **sides, quiet=False, begun=lambda: say_targets(targets))
    if found["auroc"] is None:
        score = found["score"]
        OUT.print(f"anomaly score: mean {score['mean']:.4g}, median {score['median']:.4g}")
    else:
        for side in ("normal", "anomalous"):
            of = found[side]
            OUT.print(f"{side}: {counted(of['count'], 'image')}, score {of['mean']:.4g} in the mean, median {of['median']:.4g}")
        OUT.print(
            f"AUROC: {found['auroc']['score']:.3f} (pixels {found['auroc']['residual']:.3f}, "
            f"features {found['auroc']['features']:.3f}, mean squared error {found['auroc']['error']:.3f})"
        )
    worst = sorted(found["scores"], key=lambda row: row["score"], reverse=True)[:5]
    OUT.print("most anomalous: " + ", ".join(f"{row['file']} {row['score']:.4g}" for row in worst), markup=False)
    if out is not None:
        OUT.print(
            f"{counted(found['count'], 'image')} of round {loaded.round}, {found['seconds']:.1f} s -> {out}", markup=False
        )
    if json is not None:
        write_json(json, found)


def _names(text: str | None, option: str) -> list[str]:
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if "" in names:
        raise UserError(f"{option} takes classes divided by commas, not {text!r}")
    return names
