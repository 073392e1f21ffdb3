"""The adversarial objectives: one table of functions of the scores.

a = D(x) for real and b = D(G(z)) for generated images, raw scores, higher = more real; m is the mean. Each entry has both
players' losses, to be minimised, and the generator's loss score by score, which is what latent refinement descends.

| name           | L_D                                  | L_G                          | source                       |
|----------------|--------------------------------------|------------------------------|------------------------------|
| hinge          | m relu(1 - a) + m relu(1 + b)        | -m b                         | Lim & Ye 2017                |
| non-saturating | m softplus(-a) + m softplus(b)       | m softplus(-b)               | Goodfellow et al. 2014       |
| softplus       | the same, under the name that AdvLatGAN's code gives it |           |                              |
| minimax        | m softplus(-a) + m softplus(b)       | -m softplus(b) (saturating)  | Goodfellow et al. 2014       |
| wasserstein    | -m a + m b                           | -m b                         | Arjovsky et al. 2017         |
| least-squares  | m (a - 1)^2 / 2 + m b^2 / 2          | m (b - 1)^2 / 2              | Mao et al. 2017, targets 0 1 1 |

All of these are means of a function of each score: `kernels/scores.py` holds the functions, and on CUDA has the loss, its
gradient and what is logged in one launch. An objective of another kind is an entry in plain torch: two functions, no kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from fastgan.kernels import scores

Scored = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Objective:
    """Two losses over scores of any shape (a score per image, or maps). Scores are taken as they come, unbounded."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real scores, generated scores) -> scalar."""
    per_score: Callable[[Tensor], Tensor]
    """Generated scores -> the generator's loss of each, same shape."""
    mean_per_score: Callable[[Tensor], Tensor] | None = None
    """The mean of `per_score`, where there is a shorter way to it."""
    discriminator_and_statistics: Callable[[Tensor, Tensor], Scored] | None = None
    """What `scored` gives, where there is a shorter way to it."""

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """The generator's loss, a scalar. `real` are scores of real images for objectives that need them; None elsewhere."""
        return self.per_score(fake).mean() if self.mean_per_score is None else self.mean_per_score(fake)

    def scored(self, real: Tensor, fake: Tensor) -> Scored:
        """`discriminator`, and what is logged with it, without a gradient: the mean real score, the mean generated score, and
        the separation, the share of (real, generated) pairs that D orders rightly. Four scalars."""
        if self.discriminator_and_statistics is not None:
            return self.discriminator_and_statistics(real, fake)
        return self.discriminator(real, fake), *scores.statistics(real, fake)


def _of_each_score(name: str) -> Objective:
    """The objective that the kernel library has under this name."""
    return Objective(
        discriminator=partial(scores.discriminator_loss, objective=name),
        per_score=partial(scores.per_score, objective=name),
        mean_per_score=partial(scores.generator_loss, objective=name),
        discriminator_and_statistics=partial(scores.discriminator_scores, objective=name),
    )


OBJECTIVES: dict[str, Objective] = {
    "hinge": _of_each_score("hinge"),
    "non-saturating": _of_each_score("non-saturating"),
    "softplus": _of_each_score("non-saturating"),
    "minimax": _of_each_score("minimax"),
    "wasserstein": _of_each_score("wasserstein"),
    "least-squares": _of_each_score("least-squares"),
}
