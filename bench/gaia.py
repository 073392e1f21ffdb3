"""The experiments of docs/gaia.md, each one command:

    python -m bench.gaia digits               real digits: GAIA, the same generator by L1 alone, GAIA otherwise
    python -m bench.gaia structure            weight of the structure loss: what it keeps of distances, and what it costs
    python -m bench.gaia directions           attribute directions by means and by least squares: which change other attributes

Runs are trained where they are missing, into `--runs` (one folder for each preset, settings and seed, resumed where it was
interrupted). Results are one JSON file each; `docs/make_gaia.py` makes the tables of them.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.experiments import RESULTS, Seeds, main, preset, say, trained, write
from fastgan.data import Source, open_source
from fastgan.data.attributes import Attributes
from fastgan.draw import Draw
from fastgan.evaluation import (
    DigitsJudge,
    mean_error,
    sharpness,
    structure_kept,
    train_classifier,
)
from fastgan.latent.directions import KINDS
from fastgan.networks.coding import Redrawing
from fastgan.training.attributes import entanglement_of
from fastgan.training.coding import drawings, images_of
from fastgan.training.run import Run
from fastgan.training.sampling import grid, write_image

RUNS = Path("runs/gaia")
IMAGES = Path("docs/images")

METHODS = {
    "GAIA": ("gaia-digits", ()),
    "L1 alone": ("digits-autoencoder", ()),
    "GAIA, plain losses": ("gaia-digits", ("gaia.balanced=false", "gaia.balanced_rates=false")),
}
"""Method -> preset and settings."""
_COLUMNS = 16  # of the picture's rows
_HALF_GREY = 128


def digits(
    seeds: Seeds = (0, 1, 2),
    methods: tuple[str, ...] = tuple(METHODS),
    pairs: int = 2000,
    settings: tuple[str, ...] = (),
    runs: Path = RUNS,
    out: Path = RESULTS,
    picture: Path = IMAGES / "gaia-digits.png",
) -> None:
    """Reconstructions and midpoints of held-out digits, by method.

    Args:
        seeds: Of training.
        methods: Which; the first one's D judges all.
        pairs: Of held-out images, whose codes' midpoints are decoded.
        settings: Of all runs, "name=value".
        runs: Where runs lie.
        out: Folder of gaia-digits.json.
        picture: The first seed's: real images, then reconstructions and midpoints of the first two methods.
    """
    rows, shown, real = [], [], None
    judges = {}
    for method in methods:
        name, own = METHODS[method]
        for seed in seeds:
            run = trained(name, seed, runs, *own, *settings)
            real = real or Real.of(run)
            judges.setdefault(seed, run.discriminator)  # of the first method, which judges all of them
            rows.append({"method": method, "seed": seed} | measured(run, real, judges[seed], pairs))
            say(rows[-1])
            shown += [drawn_by(run, real)] if seed == seeds[0] and len(shown) < 2 else []
    found = {"accuracy": real.judge.accuracy, "floor": real.judge.floor, "pairs": pairs, "held_out": len(real.images)}
    found |= {"redrawn_real": [redrawn(judges[seed], real.images) for seed in seeds]}
    write(out / "gaia-digits.json", {"seeds": seeds, "settings": settings, **found, "rows": rows})
    first = real.images[:_COLUMNS]
    blended = (first + first.roll(-1, 0)) / 2
    lines = [first, *(one["G(x)"] for one in shown), blended, *(one["G(mixture)"] for one in shown)]
    write_image(grid(torch.cat(lines), _COLUMNS), picture)


def structure(
    weights: tuple[float, ...] = (0.0, 5e-5, 1.0),
    seeds: Seeds = (0, 1, 2),
    pairs: int = 2000,
    settings: tuple[str, ...] = (),
    runs: Path = RUNS,
    out: Path = RESULTS,
) -> None:
    """Rank correlation of distances between images and between their content codes, by the loss's weight.

    Args:
        weights: alpha.
        seeds: Of training.
        pairs: Of held-out images, whose codes' midpoints are decoded.
        settings: Of all runs, "name=value".
        runs: Where runs lie.
        out: Folder of gaia-structure.json.
    """
    rows, real = [], None
    for weight in weights:
        own = () if weight == preset("gaia-digits").gaia.structure else (f"gaia.structure={weight:g}",)
        for seed in seeds:
            run = trained("gaia-digits", seed, runs, *own, *settings)
            real = real or Real.of(run)
            rows.append({"alpha": weight, "seed": seed} | measured(run, real, run.discriminator, pairs))
            say(rows[-1])
    write(out / "gaia-structure.json", {"seeds": seeds, "settings": settings, "pairs": pairs, "rows": rows})


def directions(seeds: Seeds = (0, 1, 2), settings: tuple[str, ...] = (), runs: Path = RUNS, out: Path = RESULTS) -> None:
    """What else changes along directions of attributes that go together: by differences of means and by least squares.

    Args:
        seeds: Of training.
        settings: Of all runs, "name=value".
        runs: Where runs lie.
        out: Folder of gaia-directions.json.
    """
    rows, accuracies = [], None
    for method, (name, own) in list(METHODS.items())[:2]:
        for seed in seeds:
            run = trained(name, seed, runs, *own, *settings)
            for kind in KINDS:
                found, accuracies = entanglement_of(run, kind, strokes)
                reached, value = sum(found.reached), found.value if any(found.reached) else None  # JSON knows no NaN
                rows.append({"method": method, "kind": kind, "seed": seed, "entanglement": value, "reached": reached})
                say(rows[-1])
                rows[-1] |= {"changes": found.changes, "steps": found.steps}
    correlations = np.corrcoef(strokes(open_source("digits")).values.T)
    described = {"names": found.names, "correlations": correlations.tolist(), "accuracies": accuracies.tolist()}
    write(out / "gaia-directions.json", {"seeds": seeds, "settings": settings, **described, "rows": rows})


def strokes(source: Source) -> Attributes:
    """Attributes of digits that go together: loops (0, 6, 8, 9); ink farther from the middle column than in half of them; the
    middle four pixels dark."""
    pixels = np.stack([source.read(index)[..., 0] for index in range(len(source))]).astype(float)
    apart = np.abs(np.arange(pixels.shape[2]) - (pixels.shape[2] - 1) / 2)
    width = (pixels.sum(1) * apart).sum(1) / pixels.sum((1, 2))
    hollow = pixels[:, 3:5, 3:5].mean((1, 2)) < _HALF_GREY
    values = np.stack([np.isin(source.labels, (0, 6, 8, 9)), width > np.median(width), hollow], 1)
    return Attributes(("loop", "wide", "hollow"), values.astype(float))


class Real:
    """Held-out images, and the judge that was trained on the others."""

    def __init__(self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> None:
        self.images, self.labels = held_out
        self.judge = DigitsJudge(train_classifier(*train), train[0], *held_out)

    @classmethod
    def of(cls, run: Run) -> "Real":
        """Of a run's data."""
        return cls(*((shown.images, shown.labels) for shown in (images_of(run, split) for split in ("train", "held-out"))))

    def pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Numbers of two images, drawn alike for all methods."""
        draw = Draw(0, "pairs", 0, torch.arange(count))
        return draw.integers("one", len(self.images)), draw.integers("other", len(self.images))


@torch.no_grad()
def measured(run: Run, real: Real, judge: Redrawing, pairs: int) -> dict[str, float]:
    """All measures of one run.

    Args:
        judge: a discriminator that draws images again: the same for whatever is compared.
    """
    generator, codes = run.ema_generator, run.ema_generator.encode(real.images)
    one, other = real.pairs(pairs)
    reconstructed = decoded(generator, codes)
    midpoints = decoded(generator, (codes[one] + codes[other]) / 2)
    of_midpoints, of_reconstructed = real.judge(midpoints), real.judge(reconstructed)
    return {
        "error": mean_error(real.images, reconstructed),
        "sharpness": sharpness(reconstructed, real.images),
        "fd": of_reconstructed.value,
        "redrawn": redrawn(judge, reconstructed),
        "sharpness_midpoints": sharpness(midpoints, real.images),
        "fd_midpoints": of_midpoints.value,
        "confidence_midpoints": of_midpoints.confidence,
        "redrawn_midpoints": redrawn(judge, midpoints),
        "structure": structure_kept(real.images, generator.content(codes)),
    }


@torch.no_grad()
def decoded(generator: torch.nn.Module, codes: Tensor) -> Tensor:
    """Images of codes, by batches."""
    return torch.cat([generator(part).float() for part in codes.split(256)])


@torch.no_grad()
def redrawn(judge: Redrawing, images: Tensor) -> float:
    """How far the judge's drawings of images are from them."""
    return -float(torch.cat([judge(part) for part in images.split(256)]).mean())


def drawn_by(run: Run, real: Real) -> dict[str, Tensor]:
    """The first images' reconstructions, and their midpoints with the next."""
    return drawings(run.average.networks["generator"], None, real.images[:_COLUMNS])


if __name__ == "__main__":
    main("bench.gaia", __doc__.splitlines()[0], {"digits": digits, "structure": structure, "directions": directions})
