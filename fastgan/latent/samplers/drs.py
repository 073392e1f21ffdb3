"""Discriminator rejection sampling: generated images are kept as often as the data is denser there than G's images are.

    accept with probability sigmoid(F(x) - gamma),     F(x) = d(x) - d_M - log(1 - exp(d(x) - d_M - eps))

d is the calibrated D's log-odds, so exp(d) estimates p_data / p_G, and d_M is its greatest value among the generated images of
a burn-in. With gamma = 0 and eps = 0 the probability is exp(d - d_M), and what is kept follows exp(d) p_G; gamma trades that
against the number of proposals. Azadi, Olsson, Darrell, Goodfellow, Odena, "Discriminator rejection sampling" (ICLR 2019).

There gamma is a percentile of F over each batch, and d_M rises with what is seen; here both come from the burn-in alone, so
that a sample does not depend on its neighbours. Images above d_M count as being there.

Passes: one of G and one of D a proposal, 1 / (acceptance rate) proposals a sample; `burn_in` of each and D on the real images
once.
"""

from dataclasses import replace

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, Positive, PositiveFloat
from fastgan.draw import Draw
from fastgan.latent.samplers.calibration import Method, calibrate
from fastgan.latent.samplers.sampler import Drawn, Pair, Sample, Sampler, of_rows


@dataclass(frozen=True, config=CHECKED)
class DRS(Sampler):
    """A sample whose `max_tries` proposals are all refused is its best-scored one, and is counted as exhausted."""

    percentile: float | None = Field(default=80.0, ge=0, le=100)
    """gamma is this percentile of F among the burn-in's images: about (100 - percentile) % of proposals are more likely kept
    than not. 80 for images, 95 for mixtures as published. None is gamma = 0: exact, if D is, at the price of many proposals."""
    eps: PositiveFloat = 1e-6
    """Keeps F finite; as in the published runs on images."""
    burn_in: Positive = 10_000
    """Generated images of which d_M and gamma are estimated, and that D is calibrated with, against as many real ones."""
    calibration: Method = "logistic"
    max_tries: Positive = 1000
    """Proposals for one sample."""

    def prepare(self, pair: Pair) -> Sample:
        """Calibrate D and estimate d_M and gamma."""
        calibrated = calibrate(pair, self.burn_in, self.calibration)
        top = calibrated.generated.max()
        gamma = 0.0
        if self.percentile is not None:
            gamma = self.excess(calibrated.generated, top).quantile(self.percentile / 100)

        def sample(draw: Draw, labels: Tensor | None) -> Drawn:
            pending = torch.arange(len(draw.rows), device=draw.rows.device)
            for turn in range(self.max_tries):
                proposal = replace(draw, rows=draw.rows[pending], turn=turn)
                z = pair.prior(proposal)
                images, scores = pair.judge(z, of_rows(labels, pending))
                odds = calibrated.log_odds(scores)
                accepted = proposal.uniform("accept") < (self.excess(odds, top) - gamma).sigmoid()
                if turn == 0:
                    found_z, found_images, best = z, images, odds
                else:
                    better = accepted | (odds > best[pending])
                    changed = pending[better]
                    found_z[changed], found_images[changed], best[changed] = z[better], images[better], odds[better]
                pending = pending[~accepted]
                if not len(pending):
                    break
            pair.passes["exhausted"] += len(pending)
            return Drawn(found_z, labels, found_images)

        return sample

    def excess(self, odds: Tensor, top: Tensor) -> Tensor:
        """F, for log-odds and d_M."""
        below = (odds - top).clamp(max=0)
        return below - torch.log(-torch.expm1(below - self.eps))
