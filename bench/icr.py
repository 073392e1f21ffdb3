"""The experiments of docs/icr.md, each one command:

    python -m bench.icr digits                real digits: baseline, CR, bCR, zCR, ICR, ICR + -qua
    python -m bench.icr artefacts             cutout as T: what of it generated digits show with CR, and with bCR
    python -m bench.icr sweep                 weight of zCR's generator half, from 0 on
    python -m bench.icr emoji --data FOLDER   a folder of images at 64 px: the six methods, judged by random features

Runs are trained where they are missing, into `--runs` (one folder for each preset, settings and seed, resumed where it was
interrupted). Results are one JSON file each; `docs/make_icr.py` makes the tables of them.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bench.cutouts import LARGEST, Detector, squares, with_cutouts
from bench.experiments import METRICS, RESULTS, Seeds, judged, main, say, trained, write
from fastgan.checked import UserError
from fastgan.data import Stream, open_source
from fastgan.engine import ALONE
from fastgan.evaluation import Features, extractors, frechet_distance, manifold
from fastgan.evaluation.features import gaussian
from fastgan.planning.work import Work
from fastgan.policies import POLICIES, PolicyName
from fastgan.training import evaluate, reference, sample
from fastgan.training.run import Run
from fastgan.training.sampling import grid, write_image

RUNS = Path("runs/icr")
IMAGES = Path("docs/images")
MANIFOLD = "precision", "recall", "density", "coverage"

METHODS = {"baseline": "sngan", "CR": "cr", "bCR": "bcr", "zCR": "zcr", "ICR": "icr", "ICR + -qua": "icr-qua"}
"""Method -> how the names of its presets end, after digits- and emoji64-."""
CUT = {
    "baseline": (),
    "CR, shifts": ("terms.cr.policy=shift", "terms.cr.weight={weight:g}"),
    "CR": ("terms.cr.policy={policy}", "terms.cr.weight={weight:g}"),
    "bCR": ("terms.bcr.policy={policy}", "terms.bcr.real={weight:g}", "terms.bcr.fake={weight:g}"),
}
"""Method -> settings on top of digits-sngan. What CR does whatever T is, CR with a T that cuts nothing out does too."""
_COLUMNS = 16  # of a picture's rows
_FEW = 12  # images of a row of 64 pixels each
_PAIRS = 2000  # of images, for their mean distance


def digits(seeds: Seeds = (0, 1, 2), num: int = 5000, runs: Path = RUNS, out: Path = RESULTS) -> None:
    """FD-digits, precision, recall and what a round costs, by method.

    Args:
        seeds: Of training.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of icr-digits.json.
    """
    rows, costs = [], {}
    for method, name in METHODS.items():
        found = [trained(f"digits-{name}", seed, runs) for seed in seeds]
        for seed, run in zip(seeds, found, strict=True):
            rows.append({"method": method, "seed": seed} | judged(evaluate(run, METRICS, num=num)))
            say(rows[-1])
        costs[method] = {"gflop": _work(found[0]), "seconds": _seconds(found)}
    write(out / "icr-digits.json", {"num": num, "seeds": seeds, "rows": rows, "costs": costs})


def artefacts(
    seeds: Seeds = (0,),
    settings: tuple[str, ...] = (),
    policy: PolicyName = "cutout",
    weight: float = 10.0,
    name: str = "icr-artefacts",
    num: int = 5000,
    runs: Path = RUNS,
    out: Path = RESULTS,
    pictures: Path = IMAGES,
) -> None:
    """Share of generated digits that hold a cutout, where T cuts out: baseline without T, CR with T shifting instead, CR, bCR.

    Args:
        seeds: Of training.
        settings: Of all runs, "name=value": network.family=wgan-cnn, training.n_dis=4, ...
        policy: T, one that cuts out.
        weight: Of CR, and of both halves of bCR.
        name: Of the result and of the picture: real images through T, and the first seed's first samples by each method.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of NAME.json.
        pictures: Folder of NAME.png.
    """
    cut_out = POLICIES[policy]
    if not cut_out.cutout:
        raise UserError(f"the policy {policy} cuts nothing out")
    found_by = replace(squares(cut_out), cutout=min(cut_out.cutout, LARGEST))
    rows, shown, detector = [], [], None
    for method, term in CUT.items():
        for seed in seeds:
            term_settings = [setting.format(policy=policy, weight=weight) for setting in term]
            run = trained("digits-sngan", seed, runs, *term_settings, *settings)
            images = sample(run, num)
            if detector is None:
                train, held_out = (_real(run, split) for split in ("train", "held-out"))
                detector = Detector.of(train, found_by)
                shown.append(with_cutouts(train, cut_out)[: 2 * _COLUMNS])
            cut = with_cutouts(images, cut_out)
            gain = _gain(run, train, images[: len(train)], cut[: len(train)])
            rows.append({"method": method, "seed": seed, "flagged": detector.share(images), "gain": gain})
            if method == "baseline":
                rows[-1]["found"] = detector.share(with_cutouts(images, found_by))
            say(rows[-1])
            shown += [images[: 3 * _COLUMNS]] if seed == seeds[0] else []
    found = {
        "window": detector.window,
        "threshold": detector.threshold,
        "cutout": round(found_by.cutout * train.shape[-1]),
        "held_out": len(held_out),
        "false_positives": detector.share(held_out),
        "true_positives": detector.share(with_cutouts(held_out, found_by)),
    }
    asked = {"settings": settings, "policy": policy, "weight": weight}
    write(out / f"{name}.json", {"num": num, "seeds": seeds, **asked, "detector": found, "rows": rows})
    write_image(_columns(shown), pictures / f"{name}.png")


def sweep(
    weights: tuple[float, ...] = (0.0, 0.05, 0.5),
    noise: float = 0.5,
    discriminator: float = 100.0,
    seeds: Seeds = (0, 1),
    resolution: int = 16,
    rounds: int = 600,
    settings: tuple[str, ...] = (),
    name: str = "icr-sweep",
    num: int = 5000,
    runs: Path = RUNS,
    out: Path = RESULTS,
    pictures: Path = IMAGES,
) -> None:
    """zCR of real digits by the weight of its generator half.

    Args:
        weights: l_gen, of the generator's half.
        noise: Of both halves, the standard deviation of each coordinate of dz.
        discriminator: l_dis, weight of the discriminator's half.
        seeds: Of training.
        resolution: Side of the images in pixels.
        rounds: Of training.
        settings: Of all runs, "name=value".
        name: Of the result and of the picture: the first seed's first samples, without zCR and by weight.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of NAME.json.
        pictures: Folder of NAME.png.
    """
    rows, shown = [], []
    found: dict[float | None, tuple[str, ...]] = {None: ()}
    for weight in weights:
        generator = (f"terms.zcr_diversity.weight={weight:g}", f"terms.zcr_diversity.noise={noise:g}")
        found[weight] = (f"terms.zcr.weight={discriminator:g}", f"terms.zcr.noise={noise:g}", *generator)
    for weight, terms in found.items():
        for seed in seeds:
            size = f"data.resolution={resolution}", f"training.steps={rounds}"
            run = trained("digits-sngan" if weight is None else "digits-zcr", seed, runs, *terms, *settings, *size)
            images = sample(run, num)
            rows.append({"l_gen": weight, "seed": seed} | judged(evaluate(run, METRICS, num=num)) | {"apart": apart(images)})
            say(rows[-1])
            shown += [images[: 2 * _COLUMNS]] if seed == seeds[0] else []
    asked = {"noise": noise, "l_dis": discriminator, "resolution": resolution, "rounds": rounds, "settings": settings}
    asked |= {"apart_of_real": apart(_real(run, "train"))}
    write(out / f"{name}.json", {"num": num, "seeds": seeds, **asked, "rows": rows})
    write_image(_columns(shown), pictures / f"{name}.png")


def emoji(
    data: Path,
    seeds: Seeds = (0,),
    rounds: int = 1000,
    num: int = 2000,
    runs: Path = RUNS,
    out: Path = RESULTS,
    picture: Path = IMAGES / "icr-emoji64.png",
) -> None:
    """FD-random, precision, recall and what a round costs, by method; beside them those of real images and of no training.

    Args:
        data: The folder of images.
        seeds: Of training.
        rounds: Of training.
        num: Samples judged.
        runs: Where runs lie.
        out: Folder of icr-emoji64.json.
        picture: A row of real images, then one of each method, samples of the first seed.
    """
    rows, costs, shown, bounds = [], {}, [], {}
    for method, name in METHODS.items():
        found = [trained(f"emoji64-{name}", seed, runs, f"training.steps={rounds}", data=data) for seed in seeds]
        if not rows:
            shown.append(_real(found[0], "all", _FEW))
            real = _looked_at(found[0], runs)
            bounds = {"real, by halves": _halves(real), "untrained": _by_random(found[0].untrained(), real, num)}
        for seed, run in zip(seeds, found, strict=True):
            rows.append({"method": method, "seed": seed} | _by_random(run, real, num))
            say(rows[-1])
        shown.append(sample(found[0], _FEW))
        costs[method] = {"gflop": _work(found[0]), "seconds": _seconds(found)}
    about = {"num": num, "seeds": seeds, "rounds": rounds, "bounds": bounds}
    write(out / "icr-emoji64.json", {**about, "rows": rows, "costs": costs})
    write_image(_columns(shown, _FEW), picture)
    with Image.open(picture) as written:
        written.quantize(256).save(picture)  # 256 colours: samples of so short a training take 3 bytes a pixel as they are


def apart(images: Tensor) -> float:
    """Mean distance of two images, the root of their mean squared difference: image i and the one half of them further on."""
    half = min(len(images) // 2, _PAIRS)
    return (images[:half] - images[half : 2 * half]).square().flatten(1).mean(1).sqrt().mean().item()


@torch.no_grad()
def _gain(run: Run, real: Tensor, fake: Tensor, cut: Tensor) -> float:
    """What a cutout adds to D's mean score of generated images, as a share of the distance to that of real ones."""
    real, fake, cut = (run.discriminator(images.to(run.device)).mean().item() for images in (real, fake, cut))
    return (cut - fake) / (real - fake)


def _looked_at(run: Run, folder: Path) -> Path:
    """Random features of all images that the run was trained on, in a file in the folder: made once, for every run."""
    images, extractor = reference.RealImages.of_run(run, "all"), extractors.make("random")
    reference.features_of(images, [extractor], folder, ALONE)
    return reference.path_of(images, extractor, folder)


def _by_random(run: Run, real: Path, num: int) -> dict[str, float]:
    """A row's numbers, by random features."""
    metrics = evaluate(run, ("fid", "prdc"), num=num, features="random", real=real)["metrics"]
    return {"fd": metrics["fd-random"]["value"], **{name: metrics["prdc-random"][name] for name in MANIFOLD}}


def _halves(real: Path) -> dict[str, float]:
    """The same of one half of the real images beside the other one: what a perfect generator would be given, at least."""
    halves = Features.load(real).features.chunk(2)  # the stream has shuffled them
    report = manifold(*halves)
    return {"fd": frechet_distance(*map(gaussian, halves)), **{name: getattr(report, name) for name in MANIFOLD}}


def _columns(blocks: list[Tensor], columns: int = _COLUMNS) -> Tensor:
    """Blocks of images under each other, a bright line between, as one picture."""
    pictures = [grid(images, columns) for images in blocks]
    lines = [torch.ones_like(picture[:, :3]) for picture in pictures]
    return torch.cat([part for pair in zip(pictures, lines, strict=True) for part in pair][:-1], 1)


def _real(run: Run, split: str, most: int | None = None) -> Tensor:
    """The images that the run was trained on, or that were held out, without noise; at most so many, in the stream's order."""
    data = run.config.data
    source = open_source(data.source, path=data.path, split=split)
    count = min(len(source), most or len(source))
    with_settings = {"resolution": data.resolution, "channels": data.channels}
    stream = Stream(source, batch_size=count, seed=0, **with_settings)
    try:
        return next(stream)["images"]
    finally:
        stream.close()


def _work(run: Run) -> float:
    """Convolutions and products of a round, in units of 10^9, counted."""
    config = run.config
    return Work(config, "bf16", on_gpu=False).total("flops", config.training.batch_size) / 1e9


def _seconds(runs: list[Run]) -> float:
    """Of a round: a tenth of the logged intervals were faster. Whatever else the machine did only adds to the others."""
    found = []
    for run in runs:
        rows = [json.loads(line) for line in run.folder.metrics.read_text(encoding="utf-8").splitlines()]
        found += [run.config.training.batch_size / row["images_per_second"] for row in rows if row.get("images_per_second")]
    return statistics.quantiles(found, n=10)[0] if len(found) > 1 else found[0]


if __name__ == "__main__":
    main("bench.icr", __doc__.splitlines()[0], {"digits": digits, "artefacts": artefacts, "sweep": sweep, "emoji": emoji})
