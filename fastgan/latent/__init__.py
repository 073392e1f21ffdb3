"""All that happens to z: the prior it is drawn from, its refinement, its inversion, pairs, mixtures, directions of attributes,
and the samplers that choose it."""

from fastgan.latent import samplers
from fastgan.latent.directions import directions
from fastgan.latent.frozen import frozen
from fastgan.latent.inversion import Inversion, Inverted, invert
from fastgan.latent.mixing import Mixtures, mix, mixing_weights
from fastgan.latent.pairs import Pairing, hard_partner
from fastgan.latent.paths import interpolate
from fastgan.latent.prior import Prior
from fastgan.latent.refinement import Refinement, refine
from fastgan.latent.structure import structure_loss

__all__ = [
    "Inversion",
    "Inverted",
    "Mixtures",
    "Pairing",
    "Prior",
    "Refinement",
    "directions",
    "frozen",
    "hard_partner",
    "interpolate",
    "invert",
    "mix",
    "mixing_weights",
    "refine",
    "samplers",
    "structure_loss",
]
