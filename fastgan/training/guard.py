"""The collapse guard: warns while there is still something to save, and says when there is not.

Two signs of which it warns, looked at whenever samples are drawn and metrics are logged: generated images that differ from each
other far less than real ones do, and a discriminator that tells every real image from every generated one, whose gradients
teach little. A third counts as a collapse, where the user asks for it: singular values of the generator's weights that explode
(Brock et al., ICLR 2019, section 4.1).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

DIVERSITY_FLOOR = 0.2
"""Share of the real images' spread below which samples count as collapsed."""
SEPARATION_CEILING = 0.999
"""Mean share of rightly ordered (real, generated) pairs above which D counts as saturated."""
PATIENCE = 3
"""Logging intervals in a row that D must be saturated for."""


def spread(images: Tensor) -> float:
    """Standard deviation over the batch (B, C, H, W), averaged over pixels: how much the images differ from each other."""
    return images.float().std(0).mean().item()


class CollapseGuard:
    """Says each warning once an episode: again only after the sign has gone.

    Args:
        real_spread: of the real images; 0 where no samples are looked at.
        sigma_growth: the factor by which sigma_0 may grow between two measurements; None for any.
    """

    def __init__(self, real_spread: float, sigma_growth: float | None = None) -> None:
        self.real_spread, self.sigma_growth = real_spread, sigma_growth
        self.collapsed = False
        self.saturated_for = 0
        self.sigma: float | None = None
        """The largest singular value of the generator's weights, when last measured."""

    def diversity(self, samples: Tensor) -> float:
        """Spread of the samples, as a share of the real images' own."""
        return spread(samples) / self.real_spread if self.real_spread > 0 else 1.0

    def look_at_samples(self, samples: Tensor) -> str | None:
        """A warning if the samples have just become too much alike."""
        share = self.diversity(samples)
        before, self.collapsed = self.collapsed, share < DIVERSITY_FLOOR
        if self.collapsed and not before:
            return f"samples differ only {share:.0%} as much as real images do: the generator may be collapsing"
        return None

    def look_at_metrics(self, metrics: dict[str, float]) -> str | None:
        """A warning if D has just been saturated for `PATIENCE` intervals."""
        separation = metrics.get("D/separation")
        if separation is None:
            return None
        self.saturated_for = self.saturated_for + 1 if separation > SEPARATION_CEILING else 0
        if self.saturated_for == PATIENCE:
            return f"the discriminator tells {separation:.1%} of pairs apart: it is saturated, the generator learns little"
        return None

    def look_at_spectra(self, measured: Mapping[str, float]) -> str | None:
        """What is wrong, if sigma_0 of the generator has just exploded. D's, says the paper, jump in sound training too."""
        sigmas = [value for name, value in measured.items() if name.startswith("sigma_0/generator.")]
        if not sigmas:
            return None
        before, self.sigma = self.sigma, max(sigmas)
        if self.sigma_growth is None or before is None or self.sigma <= self.sigma_growth * before:
            return None
        return f"the largest singular value of the generator's weights grew from {before:.3g} to {self.sigma:.3g}"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know to say what the undisturbed one would."""
        return {"collapsed": int(self.collapsed), "saturated_for": self.saturated_for, "sigma": self.sigma}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.collapsed, self.saturated_for = bool(state["collapsed"]), state["saturated_for"]
        self.sigma = state.get("sigma")
