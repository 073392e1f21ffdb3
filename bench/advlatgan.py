"""The experiments of docs/advlatgan.md, each one command:

    python -m bench.advlatgan toys            Grid-25 and Ring-8: baseline and -qua, every sampler on top
    python -m bench.advlatgan plane           real digits with a 2-D latent: where -z moves z, and what lies between two modes
    python -m bench.advlatgan digits          real digits, two backbones: baseline, -qua, -z, -qua+
    python -m bench.advlatgan conditional     real digits by class: baseline, MSGAN, -div, div+
    python -m bench.advlatgan sweep           K and eps of -z: quality against cost

Runs are trained where they are missing, into `--runs` (one folder a preset and seed, resumed where it was interrupted), and
judged by `fastgan.training.evaluate`. Results are one JSON file each; `docs/make_advlatgan.py` makes the tables of them.
"""

from pathlib import Path
from typing import Any

from bench.experiments import METRICS, RESULTS, Seeds, judged, main, say, trained, write
from fastgan.checked import UserError, nearest
from fastgan.latent.samplers import DOT, Hubness
from fastgan.training import evaluate

# What each method is on a toy: options of `evaluate`. -z as in the paper's experiment, 20 steps of 0.01.
_Z = {"refine_steps": 20, "step_size": 0.01}
TOY_SAMPLERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "-z": _Z,
    "DRS": {"sampler": "drs"},
    "MH-GAN": {"sampler": "mh"},
    "DDLS": {"sampler": "ddls"},
    "DOT": {"sampler": DOT(projection="none")},  # a sphere's tangent, which keeps z's length, is a line in the plane
    "hubness": {"sampler": Hubness(threshold=8)},  # the usual 50 is for hundreds of dimensions: none of two is such a hub
    "DRS, then -z": {"sampler": "drs", **_Z},
    "MH-GAN, then -z": {"sampler": "mh", **_Z},
}

# Backbone -> (preset without, preset with -qua).
BACKBONES = {"SN cnn": ("digits-sngan", "digits-sngan-qua"), "SN ResNet": ("digits-resnet", "digits-resnet-qua")}
# -z on digits: K x eps as on CIFAR-10, and a gentler one, chosen by `sweep` on seed 0.
DIGITS_Z = {"20 x 0.05": {"refine_steps": 20, "step_size": 0.05}, "5 x 0.005": {"refine_steps": 5, "step_size": 0.005}}
CONDITIONAL = {
    "baseline": "digits-cdcgan",
    "MSGAN": "digits-cdcgan-msgan",
    "-div": "digits-cdcgan-div",
}


def toys(seeds: Seeds = (0, 1, 2), num: int = 5000, runs: Path = Path("runs/advlatgan"), out: Path = RESULTS) -> None:
    """Good-sample rate, modes and passes of every sampler on Grid-25 and Ring-8.

    Args:
        seeds: Of training.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of toys.json.
    """
    rows = []
    for source in ("grid25", "ring8"):
        for training in (source, f"{source}-qua"):
            for seed in seeds:
                run = trained(training, seed, runs)
                for name, options in TOY_SAMPLERS.items():
                    found = evaluate(run, num=num, **options)
                    rows.append({"data": source, "training": training, "sampler": name, "seed": seed} | _points(found))
                    say(rows[-1])
    write(out / "toys.json", {"num": num, "seeds": seeds, "rows": rows})


def digits(
    seeds: Seeds = (0, 1, 2),
    num: int = 5000,
    runs: Path = Path("runs/advlatgan"),
    out: Path = RESULTS,
    backbones: tuple[str, ...] = tuple(BACKBONES),
) -> None:
    """FD-digits, precision and recall of two backbones: baseline, -qua, and -z on top of both.

    Args:
        seeds: Of training.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of digits.json.
        backbones: Which of them.
    """
    rows = []
    for backbone in backbones:
        if backbone not in BACKBONES:
            raise UserError(f"unknown backbone {backbone!r}: {nearest(backbone, BACKBONES)}")
        presets = BACKBONES[backbone]
        for method, name in zip(("baseline", "-qua"), presets, strict=True):
            for seed in seeds:
                run = trained(name, seed, runs)
                for sampling, options in {"plain": {}, **{f"-z {z}": o for z, o in DIGITS_Z.items()}}.items():
                    found = evaluate(run, METRICS, num=num, **options)
                    rows.append({"backbone": backbone, "method": method, "sampling": sampling, "seed": seed} | judged(found))
                    say(rows[-1])
    write(out / "digits.json", {"num": num, "seeds": seeds, "rows": rows})


def conditional(seeds: Seeds = (0, 1, 2), num: int = 5000, runs: Path = Path("runs/advlatgan"), out: Path = RESULTS) -> None:
    """FD-digits and diversity within classes of the conditional DCGAN: baseline, MSGAN, -div, and each with -z on top (of -div
    it is div+). Arguments as of `toys`."""
    rows = []
    for method, name in CONDITIONAL.items():
        for seed in seeds:
            run = trained(name, seed, runs)
            for sampling, options in {"plain": {}, **{f"-z {z}": o for z, o in DIGITS_Z.items()}}.items():
                found = evaluate(run, METRICS, num=num, **options)
                rows.append({"method": method, "sampling": sampling, "seed": seed} | judged(found))
                say(rows[-1])
    write(out / "conditional.json", {"num": num, "seeds": seeds, "rows": rows})


def sweep(
    seed: int = 0,
    steps: tuple[int, ...] = (0, 5, 10, 20, 50),
    sizes: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1),
    num: int = 2000,
    runs: Path = Path("runs/advlatgan"),
    out: Path = RESULTS,
) -> None:
    """K and eps of -z, on Grid-25 (good-sample rate) and on digits (FD-digits).

    Args:
        seed: Of training.
        steps: K.
        sizes: eps.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of sweep.json.
    """
    rows = []
    for name, judge in (("grid25", _points), ("digits-sngan", judged)):
        run = trained(name, seed, runs)
        for count in steps:
            for size in sizes if count else sizes[:1]:
                found = evaluate(run, None if name == "grid25" else METRICS, num=num, refine_steps=count, step_size=size)
                rows.append({"preset": name, "K": count, "eps": size if count else None} | judge(found))
                say(rows[-1])
    write(out / "sweep.json", {"num": num, "seed": seed, "rows": rows})


def plane(
    seed: int = 0,
    refine_steps: int = 20,
    step_size: float = 0.02,
    runs: Path = Path("runs/advlatgan"),
    out: Path = RESULTS,
    picture: Path = Path("docs/images/advlatgan-plane.png"),
) -> None:
    """Real digits with a latent of two coordinates: z before and after -z, the images over the plane, D's score and a digits
    classifier's confidence against the density of the refined z, and equal steps from one mode to another.

    Args:
        seed: Of training.
        refine_steps: K.
        step_size: eps.
        runs: Where runs lie.
        out: Folder of plane.json.
        picture: The picture.
    """
    from bench.plane import Plane

    drawn = Plane(trained("digits-sngan", seed, runs, "latent.dim=2"), refine_steps, step_size)
    write(out / "plane.json", {"seed": seed, "refine_steps": refine_steps, "step_size": step_size} | drawn.numbers())
    drawn.draw(picture)


def _points(found: dict[str, Any]) -> dict[str, Any]:
    report = found["metrics"]["good-samples"]
    return {"good": report["value"], "modes": report["modes"], "of": report["of"], "cost": found["cost"]}


if __name__ == "__main__":
    commands = {"toys": toys, "plane": plane, "digits": digits, "conditional": conditional, "sweep": sweep}
    main("bench.advlatgan", __doc__.splitlines()[0], commands)
