"""AdvLatGAN-z: the latents of any sampler, refined by I-FGSM (`fastgan.latent.refinement`).

Passes: `steps` of G and D and as many backwards a sample, and one of G, on top of the sampler's; one of G and D more with
`keep_best`.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from fastgan.checked import CHECKED, Count, Fraction, NonNegativeFloat
from fastgan.latent.refinement import refine
from fastgan.latent.samplers.sampler import PASSES, Drawn, Pair


@dataclass(frozen=True, config=CHECKED)
class Refined:
    """Settings of `refine`, as for training (`latent` in the configuration)."""

    steps: Count = 0
    """K; 0 is off."""
    step_size: NonNegativeFloat = 0.05
    direction: Literal["sign", "l2"] = "sign"
    momentum: Fraction = 0.0
    radius: NonNegativeFloat | None = None
    radius_norm: Literal["linf", "l2"] = "linf"
    stop_score: float | None = None
    keep_best: bool = False

    def __call__(self, pair: Pair, drawn: Drawn) -> Drawn:
        """Refined latents of the same labels, without images; `drawn` itself where K is 0."""
        if not self.steps:
            return drawn
        options = {name: getattr(self, name) for name in self.__pydantic_fields__}
        z = refine(pair.generator, pair.discriminator, drawn.z, drawn.labels, objective=pair.objective, **options)
        judged = {name: self.steps + (self.keep_best and name != "backward") for name in PASSES}
        pair.passes.update({name: count * len(z) for name, count in judged.items()})
        return Drawn(z, drawn.labels)
