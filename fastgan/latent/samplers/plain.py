"""Plain sampling: latents as the prior gives them. One pass of G a sample."""

from pydantic.dataclasses import dataclass

from fastgan.checked import CHECKED
from fastgan.latent.samplers.sampler import Drawn, Pair, Sample, Sampler


@dataclass(frozen=True, config=CHECKED)
class Plain(Sampler):
    """z ~ p(z)."""

    def prepare(self, pair: Pair) -> Sample:
        """Nothing is to be done once."""
        prior = self.prior_of(pair.prior)
        return lambda draw, labels: Drawn(prior(draw), labels)
