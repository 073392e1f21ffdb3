"""MH-GAN: an independence Metropolis-Hastings chain of generated images, which ends at one that is likely under the data.

    proposals x' = G(z'), z' ~ p(z);   x <- x' with probability min(1, (1 / D(x) - 1) / (1 / D(x') - 1)),   K times

D is calibrated. The chain's law tends to D / (1 - D) p_G, which is the data's if D is right. It begins at the score of a real
image, so it needs no burn-in; a chain that never left the real image begins once more, at a generated one, so that no sample is
a training image. Turner, Hung, Frank, Saatci, Yosinski, "Metropolis-Hastings generative adversarial networks" (ICML 2019).

Passes: K of G and K of D a sample, twice that for a chain that never left; `calibrated_on` of each and D on the real images
once.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, Positive
from fastgan.draw import Draw
from fastgan.latent.samplers.calibration import Calibrated, Method, calibrate
from fastgan.latent.samplers.sampler import Drawn, Pair, Sample, Sampler, of_rows


@dataclass(frozen=True, config=CHECKED)
class MetropolisHastings(Sampler):
    """With classes, a sample's chain begins at a real image of its class, where the real images have one."""

    proposals: Positive = 100
    """K; 640 as published."""
    calibration: Method = "isotonic"
    calibrated_on: Positive = 10_000
    """Generated images that D is calibrated with, against as many real ones."""

    def prepare(self, pair: Pair) -> Sample:
        """Calibrate D."""
        calibrated = calibrate(pair, self.calibrated_on, self.calibration)

        def sample(draw: Draw, labels: Tensor | None) -> Drawn:
            start = _starts(calibrated, draw, labels)
            z, images, moved = self._chain(pair, calibrated, draw, labels, start, range(self.proposals))
            stuck = (~moved).nonzero()[:, 0]
            if len(stuck):
                again = replace(draw, rows=draw.rows[stuck])
                anywhere, turns = torch.full_like(start[stuck], -torch.inf), range(self.proposals, 2 * self.proposals)
                z[stuck], images[stuck], _ = self._chain(pair, calibrated, again, of_rows(labels, stuck), anywhere, turns)
            return Drawn(z, labels, images)

        return sample

    def _chain(
        self,
        pair: Pair,
        calibrated: Calibrated,
        draw: Draw,
        labels: Tensor | None,
        odds: Tensor,
        turns: Iterable[int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents and images at which chains end that begin at log-odds `odds`, and whether they moved at all."""
        z = images = None
        moved = torch.zeros(len(odds), dtype=torch.bool, device=odds.device)
        for turn in turns:
            proposal = replace(draw, turn=turn)
            new_z = pair.prior(proposal)
            new_images, scores = pair.judge(new_z, labels)
            new_odds = calibrated.log_odds(scores)
            # D / (1 - D) = exp(log-odds), so the ratio above is the exponential of their difference.
            accepted = proposal.uniform("accept").log() < new_odds - odds
            if z is None:
                z, images = new_z, new_images
            z, images = _where(accepted, new_z, z), _where(accepted, new_images, images)
            odds, moved = torch.where(accepted, new_odds, odds), moved | accepted
        return z, images, moved


def _starts(calibrated: Calibrated, draw: Draw, labels: Tensor | None) -> Tensor:
    """Log-odds of the real image at which each row's chain begins."""
    u = draw.uniform("start")
    start = calibrated.real[(u * len(calibrated.real)).long()]
    if labels is None or calibrated.real_labels is None:
        return start
    for label in labels.unique():
        same = calibrated.real[calibrated.real_labels == label]
        if len(same):
            rows = labels == label
            start[rows] = same[(u[rows] * len(same)).long()]
    return start


def _where(rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *(1,) * (chosen.dim() - 1)), chosen, other)
