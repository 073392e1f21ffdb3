"""All that happens to z: the prior it is drawn from, its refinement, and the samplers that choose it."""

from fastgan.latent import samplers
from fastgan.latent.frozen import frozen
from fastgan.latent.prior import Prior
from fastgan.latent.refinement import Refinement, refine

__all__ = ["Prior", "Refinement", "frozen", "refine", "samplers"]
