"""Samplers: which latents a trained generator is shown. One class in one file, one line in this table.

    draw = SAMPLERS["drs"](percentile=95).prepare(Pair(generator, discriminator, Prior(128), real=some_real_images))
    drawn = draw(Draw(seed, "samples", 0, torch.arange(64)), None)          # .z, .labels and, here, .images

A sampler is its settings (frozen, checked) and its algorithm at once, as a term is (`fastgan.terms`).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from fastgan.checked import UserError, explain, nearest
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

Settings = TypeVar("Settings")


def choose(name: str, settings: Mapping[str, Any] | Iterable[str] = ()) -> Sampler:
    """The sampler of this name.

    Args:
        settings: its fields by name, or "field=value" texts, whose values are read as YAML.

    Raises:
        UserError: there is no such sampler or field, or a value is of the wrong kind or out of range.
    """
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name!r}: {nearest(name, SAMPLERS)}")
    return _build(SAMPLERS[name], name, settings)


def refinement(settings: Mapping[str, Any] | Iterable[str] = ()) -> Refined:
    """Refinement with these settings, given as to `choose`; errors as there."""
    return _build(Refined, "refinement", settings)


def name_of(chosen: Sampler) -> str:
    """The name in the table of a sampler's class, or the class's own where it is not there."""
    return next((name for name, kind in SAMPLERS.items() if type(chosen) is kind), type(chosen).__name__)


def _build(kind: type[Settings], name: str, settings: Mapping[str, Any] | Iterable[str]) -> Settings:
    if not isinstance(settings, Mapping):
        settings = dict(_assigned(name, assignment) for assignment in settings)
    try:
        return kind(**settings)
    except ValidationError as error:
        known = [field.name for field in dataclasses.fields(kind)]
        if not known:
            raise UserError(f"{name} takes no settings, but was given {', '.join(settings)}") from None
        raise UserError(f"{name}: {explain(error, {'': known})}") from None


def _assigned(name: str, assignment: str) -> tuple[str, Any]:
    field, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(f"{name}: settings are name=value, not {assignment!r}")
    try:
        return field.strip(), yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{name}: the value {text!r} of {field} can't be read") from None
