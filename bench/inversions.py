"""The experiments of docs/inversion.md, each one command:

    python -m bench.inversions recovered    images that a generator has drawn, searched for: the share that is found
    python -m bench.inversions compared     inversion errors of several generators on the same held-out digits
    python -m bench.inversions withheld     AUROC of digits of a class that was withheld from training

Runs are trained where they are missing, into `--runs` (one folder for each preset, settings and seed, resumed where it was
interrupted). Results are one JSON file each; `docs/make_inversion.py` makes the tables of them. What takes long is training:
`compared` trains five runs, `withheld` three.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import invert
from bench.experiments import OUT, RESULTS, main, say, trained, write
from fastgan.data import open_source
from fastgan.latent import Inversion
from fastgan.training.anomaly import score_images
from fastgan.training.inverting import Job, Manner, inversion
from fastgan.training.run import Run
from fastgan.training.targets import Targets

RUNS = Path("runs/inversion")

FEW = 16
_WGAN_GP = (
    "network.family=wgan-cnn", "objective=wasserstein", "terms.wgan_gp.weight=10", "training.n_dis=5", "generator.rate=4e-4",
    "discriminator.rate=4e-4",
)  # fmt: skip
GENERATORS = {
    "SN, 2,000 rounds": ("digits-sngan", ("training.steps=2000",), None),
    "SN, 100 rounds": ("digits-sngan", ("training.steps=100",), None),
    f"SN, 400 rounds on {FEW} digits": ("digits-sngan", ("training.steps=400", "data.source=arrays"), FEW),
    "WGAN-GP, 2,000 rounds": ("digits-sngan", ("training.steps=2000", *_WGAN_GP), None),
    "SN at 16x16, 2,000 rounds": ("digits-sngan", ("training.steps=2000", "data.resolution=16"), None),
}
"""Name -> preset, settings, and how many training digits it sees (None: all)."""


def recovered(run: Path, num: int = 256, settings: tuple[str, ...] = (), threshold: float = 1e-3, out: Path = RESULTS) -> None:
    """Images that a run's generator has drawn, searched for from other latents.

    Args:
        run: The run's folder.
        num: How many.
        settings: Of the inversion, "name=value".
        threshold: Mean squared error, of images in [-1, 1], below which one is found.
        out: Folder of inversion-recovered.json.
    """
    from fastgan.training import load_run

    how = inversion(settings)
    found = invert.recovered(load_run(run), num, how, threshold)
    share, steps = found["share"], found["steps"]
    OUT.print(f"{share:.1%} of {num} below {threshold:g}: {how.optimiser}, {steps:.4g} iterations, {how.starts} starts")
    row = {name: found[name] for name in ("share", "median", "largest", "steps")}
    write(out / "inversion-recovered.json", {"num": num, "threshold": threshold, "settings": _told(how), **row})


def compared(
    seed: int = 0,
    num: int | None = None,
    settings: tuple[str, ...] = (),
    further: tuple[str, ...] = (),
    runs: Path = RUNS,
    out: Path = RESULTS,
) -> None:
    """Mean squared errors of the digits that no generator has seen, by generator, digit and stroke.

    Args:
        seed: Of training.
        num: Digits, evenly spaced over the 355 held-out ones; all where not given.
        settings: Of the inversion, "name=value".
        further: Settings of all runs, such as network.width=8.
        runs: Where runs lie.
        out: Folder of inversion-runs.json.
    """
    how, rows = inversion(settings), []
    for name, (kind, own, seen) in GENERATORS.items():
        data = None if seen is None else digits_file(runs, "train", first=seen)
        run = trained(kind, seed, runs, *own, *further, data=data)
        held_out = digits_file(runs, "held-out", every=num)
        rows.append({"generator": name, "resolution": run.config.data.resolution} | _errors(run, held_out, how))
        if seen is not None:
            rows[-1]["of_its_own"] = _errors(run, data, how)["mean"]
        say({key: value for key, value in rows[-1].items() if not isinstance(value, dict)})
    write(out / "inversion-runs.json", {"seed": seed, "settings": _told(how), "rows": rows})


def withheld(
    classes: tuple[int, ...] = (0, 4, 7),
    seed: int = 0,
    name: str = "digits-sngan",
    weight: float = 0.1,
    num: int | None = None,
    settings: tuple[str, ...] = (),
    further: tuple[str, ...] = (),
    runs: Path = RUNS,
    out: Path = RESULTS,
) -> None:
    """AUROC of each digit as an anomaly, to a run that was trained on the nine others.

    Args:
        classes: Digits, withheld one at a time.
        seed: Of training.
        name: Of the preset.
        weight: Of the distance of features in the score.
        num: Held-out digits that are scored, evenly spaced; all 355 where not given.
        settings: Of the inversion, "name=value".
        further: Settings of all runs, such as network.width=8.
        runs: Where runs lie.
        out: Folder of inversion-anomaly.json.
    """
    how, rows = inversion(settings), []
    for digit in classes:
        data = digits_file(runs, "train", without=digit)
        run = trained(name, seed, runs / f"without-{digit}", "data.source=arrays", *further, data=data)
        targets = Targets.of(run, digits_file(runs, "held-out", every=num))
        found = score_images(run, targets, None, Manner(inversion=how, pictured=0), weight, anomalous=[str(digit)])
        sides = {side: found[side]["mean"] for side in ("normal", "anomalous")}
        rows.append({"digit": digit, **found["auroc"], **sides, "count": found["anomalous"]["count"]})
        say(rows[-1])
    mean = {part: float(np.mean([row[part] for row in rows])) for part in ("score", "residual", "features", "error")}
    OUT.print("  ".join(f"{part} {value:.3f}" for part, value in mean.items()))
    told = {"seed": seed, "weight": weight, "settings": _told(how), "rows": rows, "mean": mean}
    write(out / "inversion-anomaly.json", told)


def digits_file(
    folder: Path, split: str, *, first: int | None = None, without: int | None = None, every: int | None = None
) -> Path:
    """Embedded digits as they are, in a file of their own for `data.path`, with labels.

    Args:
        split: "train" or "held-out".
        first: This many of them.
        without: A class that is left out.
        every: This many of them, evenly spaced.
    """
    source = open_source("digits", split=split)
    rows = np.array([row for row in range(len(source)) if source.labels[row] != without][:first])
    rows = rows if every is None else rows[np.arange(every) * len(rows) // every]
    told = {"first": first, "without": without, "every": every}
    path = folder / (
        "-".join(["digits", split, *(f"{name}{value}" for name, value in told.items() if value is not None)]) + ".npz"
    )
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=np.stack([source.read(row) for row in rows]), labels=source.labels[rows])
    return path


def _errors(run: Run, digits: Path, how: Inversion) -> dict[str, Any]:
    """Of the digits in a file: mean and median, by digit, and of the quarters with the least and the most ink."""
    targets = Targets.of(run, digits)
    with tempfile.TemporaryDirectory() as out:
        job = Job(run, targets, out, Manner(inversion=how, pictured=0))
        job.work()
        summary = job.summary()
        errors = np.array([row["error"] for row in job.rows()])
    ink = torch.cat([batch.mean((1, 2, 3)) for batch in targets.batches(64, range(len(targets)))]).numpy()
    quarter = np.argsort(ink)[: max(1, len(ink) // 4)], np.argsort(ink)[-max(1, len(ink) // 4) :]
    return {
        "count": summary["count"],
        **{key: summary["mse"][key] for key in ("mean", "median")},
        "thin": float(errors[quarter[0]].mean()),
        "bold": float(errors[quarter[1]].mean()),
        "by_class": {digit: own["mean"] for digit, own in summary["by_class"].items()},
    }


def _told(how: Inversion) -> dict[str, Any]:
    return {name: getattr(how, name) for name in ("optimiser", "rate", "schedule", "steps", "starts", "prior_weight")}


if __name__ == "__main__":
    commands: Mapping[str, Callable] = {"recovered": recovered, "compared": compared, "withheld": withheld}
    main("bench.inversions", "The experiments of docs/inversion.md.", commands)
