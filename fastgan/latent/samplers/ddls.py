"""Discriminator driven latent sampling: Langevin dynamics in the latent space, on the energy that prior and D give together.

    E(z) = -log p(z) - d(G(z));    z <- z - step_size / 2 * grad E(z) + sqrt(step_size) n,  n ~ N(0, 1);    z_0 ~ p(z)

d is D's logit: exp(-E) is then the law of latents whose images follow the data, if D is right. Che, Zhang, Sohl-Dickstein,
Larochelle, Paull, Cao, Bengio, "Your GAN is secretly an energy-based model and you should use discriminator driven latent
sampling" (NeurIPS 2020). Scores that are no logits, or bad ones, are multiplied by the slope that logistic regression gives
them.

Passes: `steps` of G and D and as many backwards a sample, and one of G; one of each more with `metropolis`.
"""

from dataclasses import replace
from math import sqrt

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, NonNegativeFloat, Positive, PositiveFloat, UserError
from fastgan.draw import Draw
from fastgan.latent.samplers.calibration import LogOdds, calibrate
from fastgan.latent.samplers.sampler import Drawn, Pair, Sample, Sampler


@dataclass(frozen=True, config=CHECKED)
class DDLS(Sampler):
    """For a normal prior that is not truncated."""

    steps: Positive = 100
    """Langevin iterations; the paper runs up to 1000 and more."""
    step_size: PositiveFloat = 0.01
    noise: NonNegativeFloat = 1.0
    """Scale of n: 1 is Langevin dynamics, 0 plain descent of the energy."""
    metropolis: bool = False
    """Refuse proposals by Metropolis and Hastings' rule, so that the law of long chains is exp(-E) without the bias that a
    finite step has (Roberts & Tweedie 1996)."""
    calibrated: bool = True
    """Turn scores into logits by logistic regression, which needs real images; False takes scores for logits, as published. On
    the 25-Gaussian grid R1 had made the logits ten times too flat."""
    calibrated_on: Positive = 10_000
    """Generated images that D is calibrated with, against as many real ones."""

    def __post_init__(self) -> None:
        if self.metropolis and self.noise != 1:
            raise ValueError(f"metropolis needs noise 1, not {self.noise:g}: other proposals are hardly ever accepted")

    def prepare(self, pair: Pair) -> Sample:
        """Calibrate D where that is asked for.

        Raises:
            UserError: the prior is not the normal one.
        """
        if pair.prior.kind != "normal":
            raise UserError(f"ddls needs the normal prior, whose log-density has a slope; this one is {pair.prior.kind}")
        slope = _slope(calibrate(pair, self.calibrated_on, "logistic").log_odds) if self.calibrated else 1.0

        def sample(draw: Draw, labels: Tensor | None) -> Drawn:
            z = pair.prior(draw)
            with pair.slopes() as slopes:

                def energy(z: Tensor) -> tuple[Tensor, Tensor]:
                    score, gradient = slopes(z, labels)
                    return z.square().sum(1) / 2 - slope * score, z - slope * gradient

                here = energy(z) if self.metropolis else None
                for turn in range(self.steps):
                    one = replace(draw, turn=turn)
                    n = one.normal("langevin", z.shape[1])
                    _, gradient = here or energy(z)
                    proposal = z - self.step_size / 2 * gradient + sqrt(self.step_size) * self.noise * n
                    if here is None:
                        z = proposal
                        continue
                    there = energy(proposal)
                    # log q(proposal | z) is that of n itself; the other way, of the n that would lead back.
                    back = z - proposal + self.step_size / 2 * there[1]
                    back = back.square().sum(1) / (2 * self.step_size)
                    accepted = one.uniform("accept").log() < here[0] - there[0] - back + n.square().sum(1) / 2
                    z = torch.where(accepted[:, None], proposal, z)
                    here = torch.where(accepted, there[0], here[0]), torch.where(accepted[:, None], there[1], here[1])
            return Drawn(z, labels)

        return sample


def _slope(log_odds: LogOdds) -> float:
    """Of an affine function; its constant is none of the energy's concern."""
    low, high = log_odds(torch.tensor([0.0, 1.0])).tolist()
    return high - low
