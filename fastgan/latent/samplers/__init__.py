"""Samplers: which latents a trained generator is shown. One class in one file, one line in this table.

    draw = SAMPLERS["drs"](percentile=95).prepare(Pair(generator, discriminator, Prior(128), real=some_real_images))
    drawn = draw(Draw(seed, "samples", 0, torch.arange(64)), None)          # .z, .labels and, here, .images

A sampler is its settings (frozen, checked) and its algorithm at once, as a term is (`fastgan.terms`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fastgan.checked import UserError, built, nearest
from fastgan.latent.samplers.ddls import DDLS
from fastgan.latent.samplers.dot import DOT
from fastgan.latent.samplers.drs import DRS
from fastgan.latent.samplers.hubness import Hubness
from fastgan.latent.samplers.mh import MetropolisHastings
from fastgan.latent.samplers.plain import Plain
from fastgan.latent.samplers.refined import Refined
from fastgan.latent.samplers.sampler import PASSES, Drawn, Pair, Sample, Sampler
from fastgan.latent.samplers.truncation import Truncation

SAMPLERS: dict[str, type[Sampler]] = {
    "plain": Plain,
    "truncation": Truncation,
    "drs": DRS,
    "mh": MetropolisHastings,
    "ddls": DDLS,
    "dot": DOT,
    "hubness": Hubness,
}

__all__ = [
    "DDLS",
    "DOT",
    "DRS",
    "PASSES",
    "SAMPLERS",
    "Drawn",
    "Hubness",
    "MetropolisHastings",
    "Pair",
    "Plain",
    "Refined",
    "Sample",
    "Sampler",
    "Truncation",
    "choose",
    "name_of",
    "refinement",
]


def choose(name: str, settings: Mapping[str, Any] | Iterable[str] = ()) -> Sampler:
    """The sampler of this name.

    Args:
        settings: its fields by name, or "field=value" texts, whose values are read as YAML.

    Raises:
        UserError: there is no such sampler or field, or a value is of the wrong kind or out of range.
    """
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name!r}: {nearest(name, SAMPLERS)}")
    return built(SAMPLERS[name], name, settings)


def refinement(settings: Mapping[str, Any] | Iterable[str] = ()) -> Refined:
    """Refinement with these settings, given as to `choose`; errors as there."""
    return built(Refined, "refinement", settings)


def name_of(chosen: Sampler) -> str:
    """The name in the table of a sampler's class, or the class's own where it is not there."""
    return next((name for name, kind in SAMPLERS.items() if type(chosen) is kind), type(chosen).__name__)
