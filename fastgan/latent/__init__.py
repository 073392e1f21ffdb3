"""All that happens to z: the prior it is drawn from, and its refinement."""

from fastgan.latent.frozen import frozen
from fastgan.latent.prior import Prior
from fastgan.latent.refinement import Refinement, refine

__all__ = ["Prior", "Refinement", "frozen", "refine"]
