"""The truncation trick: latents from a normal prior with every coordinate beyond the threshold drawn again.

Closer to the prior's mode, images are better and less various. Brock, Donahue, Simonyan, "Large scale GAN training for high
fidelity natural image synthesis" (ICLR 2019), section 3.1. One pass of G a sample.
"""

from pydantic.dataclasses import dataclass

from fastgan.checked import CHECKED, PositiveFloat, UserError
from fastgan.latent.prior import Prior
from fastgan.latent.samplers.plain import Plain


@dataclass(frozen=True, config=CHECKED)
class Truncation(Plain):
    """z ~ N(0, 1) cut at +-threshold, in the place of the run's own prior."""

    threshold: PositiveFloat = 1.0
    """In standard deviations; the paper goes from 2 down to 0.04."""

    def prior_of(self, prior: Prior) -> Prior:
        """The normal prior, cut.

        Raises:
            UserError: the prior is another.
        """
        if prior.kind not in ("normal", "truncated-normal"):
            raise UserError(f"truncation cuts a normal prior; this run's is {prior.kind}")
        return Prior(prior.dim, "truncated-normal", self.threshold)
