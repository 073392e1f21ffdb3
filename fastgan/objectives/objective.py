"""What an adversarial objective is, and what it says of itself.

a = D(x) for real and b = D(G(z)) for generated images, raw scores, higher = more real; f and g are D's features of them, N and
M their counts, m is the mean. Both players' losses are to be minimised.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fastgan.judgement import Judgement
from fastgan.kernels import scores

Seen = Tensor | Judgement
"""What an objective is given of each side: the scores, of any shape (one an image, or maps), or with `needs` a judgement."""
UNTRAINED = "an objective of features trains no score of D's, by which latents could be refined or samples chosen"
Scored = tuple[Tensor, Tensor, Tensor, Tensor]


class Objective:
    """Both players' losses. A subclass is at once its settings (frozen, checked) and its formulas; this class itself takes an
    objective of scores as two functions.

    Losses are computed in float32 (float64 for float64), whatever the precision of what they are of.

    Args:
        discriminator: (real scores, generated scores) -> a scalar.
        per_score: generated scores -> the generator's loss of each, same shape.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """What of a `Judgement` is looked at beside the score: "images", "features". Where there is any, both losses are given
    judgements in the place of scores."""
    real_in_generator: ClassVar[bool] = False
    """Whether G's gradient depends on the real batch, which D then judges in G's phase too."""
    couples: ClassVar[bool] = False
    """Whether a loss is not a mean over samples or pairs: it has to be of the whole batch, which ranks gather."""
    pairs: ClassVar[bool] = False
    """Whether each generated sample is compared with a real one, so that there must be as many."""
    refines: ClassVar[bool] = True
    """Whether D's score is trained, so that latents can be refined by it, and samples chosen."""

    def __init__(self, discriminator: Callable[[Tensor, Tensor], Tensor], per_score: Callable[[Tensor], Tensor]) -> None:
        self.discriminator, self.per_score = discriminator, per_score

    def discriminator(self, real: Seen, fake: Seen, **memory: Tensor) -> Tensor:
        """D's loss, a scalar."""
        raise NotImplementedError

    def generator(self, real: Seen | None, fake: Seen, **memory: Tensor) -> Tensor:
        """G's loss, a scalar. Without `real_in_generator`, `real` may be None: what it adds has no gradient then, and is left
        out."""
        return self.per_score(fake).mean()

    def per_score(self, fake: Tensor) -> Tensor:
        """The loss that latent refinement descends, of each score by itself, same shape: falling as D takes the image for more
        real. G's own where that is a mean over scores; for the others -b, as any falling function has the same direction."""
        if not self.refines:
            raise ValueError(UNTRAINED)
        return -fake

    def scored(self, real: Seen, fake: Seen, **memory: Tensor) -> Scored:
        """`discriminator`, and what is logged with it, without a gradient: the mean real score, the mean generated score, and
        the separation, the share of (real, generated) pairs that D orders rightly. Four scalars."""
        return self.discriminator(real, fake, **memory), *scores.statistics(*map(score_of, (real, fake)))

    def logged(self, real: Seen, fake: Seen) -> dict[str, Tensor]:
        """Further scalars of D's phase, without a gradient."""
        return {}

    @property
    def memory(self) -> dict[str, float]:
        """What is kept between rounds, with its beginnings: scalars, part of the game's state; the losses get them by name."""
        return {}

    def remember(self, memory: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The memory at the end of a round, from what it was and the statistics of D's phase, over all its turns and ranks."""
        return memory


def score_of(side: Seen) -> Tensor:
    """The scores of either form."""
    return side if isinstance(side, Tensor) else side.score


def precise(*sides: Tensor) -> tuple[Tensor, ...]:
    """Each in float32, or float64 as it is."""
    return tuple(side.to(torch.promote_types(side.dtype, torch.float32)) for side in sides)


def paired(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both, `precise`, as they are compared one with one.

    Raises:
        ValueError: their shapes differ.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real and generated scores are compared in pairs: {tuple(real.shape)} and {tuple(fake.shape)} differ")
    return precise(real, fake)
