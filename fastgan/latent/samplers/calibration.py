"""Calibration: from D's scores to log-odds that an image is real.

Rejection and Metropolis-Hastings sampling ask for p_data / p_G = D / (1 - D), D a probability. Scores are hardly ever the
logits of one: D is regularised, stopped early, and knows its training images; a hinge or Wasserstein score was never meant as a
logit. So the scores of real images, held out where a run has such, and of generated ones are set against each other, both kinds
with equal weight:

    logistic    log-odds = a * score + b, fitted by logistic regression           (Platt 1999; Azadi et al. 2019)
    isotonic    the rising step function that fits best, interpolated             (Zadrozny & Elkan 2002; Turner et al. 2019)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastgan.checked import UserError
from fastgan.latent.samplers.sampler import Pair

Method = Literal["logistic", "isotonic"]
LogOdds = Callable[[Tensor], Tensor]
"""Scores (B,) -> log-odds (B,), float64 on the same device."""


@dataclass(frozen=True)
class Calibrated:
    """A calibrated D, and what it says of the images that it was calibrated with."""

    log_odds: LogOdds
    real: Tensor
    """Log-odds of the real images, (R,)."""
    real_labels: Tensor | None
    generated: Tensor
    """Log-odds of the generated images, (N,)."""


def calibrate(pair: Pair, count: int, method: Method) -> Calibrated:
    """Calibrate D with `count` generated images and as many real ones, or all there are.

    Raises:
        UserError: the pair has no real images, or D's scores are not finite.
    """
    if pair.real is None:
        raise UserError("this sampler calibrates the discriminator, so it needs real images")
    images, labels = pair.real(count)
    parts = zip(images.split(pair.batch_size), _split(labels, pair.batch_size, len(images)), strict=True)
    real = torch.cat([pair.score(part.to(pair.device), of.to(pair.device) if of is not None else None) for part, of in parts])
    generated = pair.generated_scores("calibration", count)
    log_odds = METHODS[method](real, generated)
    return Calibrated(log_odds, log_odds(real), labels.to(pair.device) if labels is not None else None, log_odds(generated))


def logistic(real: Tensor, generated: Tensor) -> LogOdds:
    """Logistic regression on scores (R,) and (N,). Two sides that do not overlap get a finite slope: a weak penalty on the
    slope of standardised scores (1 / (2 C), C = 1, against the sum over all of them)."""
    from sklearn.linear_model import LogisticRegression

    scores, is_real = _sides(real, generated)
    mean, deviation = scores.mean(), scores.std() or 1.0
    fitted = LogisticRegression(class_weight="balanced", tol=1e-8).fit((scores[:, None] - mean) / deviation, is_real)
    slope = float(fitted.coef_[0, 0]) / deviation
    intercept = float(fitted.intercept_[0]) - slope * mean
    return lambda scores: scores.double() * slope + intercept


def isotonic(real: Tensor, generated: Tensor) -> LogOdds:
    """Isotonic regression on scores (R,) and (N,). Its probabilities stay 1 / (count + 2) away from 0 and 1, count the smaller
    side's: a chain must be able to leave what no generated image of the calibration came near to."""
    from sklearn.isotonic import IsotonicRegression

    scores, is_real = _sides(real, generated)
    weights = np.where(is_real, 0.5 / is_real.sum(), 0.5 / (~is_real).sum())
    edge = 1 / (min(is_real.sum(), (~is_real).sum()) + 2)
    fitted = IsotonicRegression(y_min=edge, y_max=1 - edge).fit(scores, is_real.astype(np.float64), weights)
    x, y = fitted.X_thresholds_, fitted.y_thresholds_
    return lambda scores: torch.from_numpy(np.interp(scores.double().cpu().numpy(), x, y)).logit().to(scores.device)


METHODS: dict[str, Callable[[Tensor, Tensor], LogOdds]] = {"logistic": logistic, "isotonic": isotonic}


def _sides(real: Tensor, generated: Tensor) -> tuple[np.ndarray, np.ndarray]:
    scores = torch.cat([real, generated]).double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise UserError("the discriminator can't be calibrated: its scores are not finite")
    return scores, np.arange(len(scores)) < len(real)


def _split(labels: Tensor | None, size: int, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * -(-count // size) if labels is None else labels.split(size)
