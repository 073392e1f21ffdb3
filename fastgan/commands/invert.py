"""Latents of given images."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastgan.checked import UserError
from fastgan.commands.options import Metavar, Settings, assignments, numbers
from fastgan.commands.printing import OUT


def invert(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    images: Annotated[str, Metavar(metavar="DIR|FILE|train|held-out|all")],
    out: Annotated[Path, Metavar(metavar="DIR")],
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
    latents: Literal["npz", "safetensors"] = "npz",
    pictures: int = 64,
    thresholds: str = "0.001,0.01,0.1",
    checkpoint: str = "newest",
    json: Annotated[Path | None, Metavar(metavar="FILE")] = None,
) -> None:
    """Find latents from which a run's averaged generator draws given images (docs/inversion.md). The same line goes on where it
    was stopped.

    Args:
        run: The run's folder.
        images: A folder of images or of class folders, a packed set, an .npz or .npy file; or train, held-out or all of the
            run's own data. They are resized to the run's resolution.
        out: The folder for latents, errors and a picture of originals above reconstructions.
        steps: Iterations of each start (default: 200).
        rate: Of Adam and RMSprop; of L-BFGS how far its first iteration moves (default: 0.1).
        optimiser: lbfgs, adam, which wants 1,000 iterations, or rmsprop (default: lbfgs).
        starts: Latents from which each image is sought, the best one kept (default: 1).
        nearest: Start from the nearest of so many samples in the place of plain draws (default: 0, plain draws).
        seed: Of the starts.
        invert_set: Further settings, such as loss=bce prior_weight=0.01 stop_error=0.001 (docs/inversion.md).
        labels: Of class-conditional runs: the number of a class for all images, folders (the class that a folder's name tells),
            or search (all are tried; the default, but for the run's own data, whose labels are known).
        on_bad_image: Refuse a folder with images that do not decode, or skip these.
        weights: The generator's moving average, or its weights as last stepped.
        precision: What networks compute in, fp32 or bf16, which leaves larger errors.
        batch_size: Images inverted together, and kept when they are done (default: 256).
        latents: The format of the file of latents.
        pictures: Images in the picture, evenly spaced over all; 0 for no picture.
        thresholds: Errors below which images are counted.
        checkpoint: Which: newest, best (of runs with evaluation.best), or the number of a round.
        json: Write the summary here as one JSON object.
    """
    from fastgan.data.folder import counted
    from fastgan.training import load_run
    from fastgan.training.files import make_room_for, write_json
    from fastgan.training.inverting import invert_images
    from fastgan.training.targets import Targets

    limits = sorted(set(numbers(thresholds, "--thresholds")))
    if not all(0 < limit < float("inf") for limit in limits):
        raise UserError(f"--thresholds takes numbers above 0, not {thresholds!r}")
    manner = manner_of(
        {"steps": steps, "rate": rate, "optimiser": optimiser, "starts": starts, "nearest": nearest, "seed": seed},
        invert_set,
        labels=labels,
        raw_weights=weights == "raw",
        precision=precision,
        batch_size=batch_size,
        form=latents,
        pictured=pictures,
    )
    loaded = load_run(run, checkpoint=checkpoint)
    if json is not None:
        make_room_for(json)
    targets = Targets.of(loaded, images, on_bad_image, quiet=False)
    found = invert_images(loaded, targets, out, manner, limits, quiet=False, begun=lambda: say_targets(targets))
    mse = found["mse"]
    OUT.print(f"mean squared error: mean {mse['mean']:.4g}, median {mse['median']:.4g}, largest {mse['largest']:.4g}")
    for limit, share in found["share_below"].items():
        OUT.print(f"below {limit}: {share:.1%}")
    if found["by_class"]:
        worst = sorted(found["by_class"].items(), key=lambda item: item[1]["mean"], reverse=True)[:5]
        told = ", ".join(f"{name} {own['mean']:.4g}" for name, own in worst)
        OUT.print(f"worst classes by mean: {told}", markup=False)
    steps = found["steps"]
    iterations = f"{steps['mean']:.4g} {'iteration' if steps['mean'] == 1 else 'iterations'}"
    how = f"{counted(found['starts'], 'start')} of {iterations} each"
    OUT.print(
        f"{counted(found['count'], 'image')} of round {loaded.round}, {how}, {found['seconds']:.1f} s -> {out}", markup=False
    )
    if json is not None:
        write_json(json, found)


def manner_of(settings: dict[str, object], further: Settings, **options: object):
    """The `Manner` of `invert` and `anomaly`: settings of the inversion that were given, by name and as name=value."""
    from fastgan.training.inverting import Manner, inversion

    given = [f"{name}={value}" for name, value in settings.items() if value is not None]
    chosen = inversion(given + assignments(further, "--invert-set"))
    return Manner(inversion=chosen, **{name: value for name, value in options.items() if value is not None})


def say_targets(targets) -> None:
    """What images there are, and what was found about them."""
    for line in targets.told():
        OUT.print(line, markup=False)
