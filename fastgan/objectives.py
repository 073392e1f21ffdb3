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
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu, softplus


@dataclass(frozen=True)
class Objective:
    """Two losses over scores of any shape (a score per image, or maps). Scores are taken as they come, unbounded."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real scores, generated scores) -> scalar."""
    per_score: Callable[[Tensor], Tensor]
    """Generated scores -> the generator's loss of each, same shape."""

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """The generator's loss, a scalar. `real` are scores of real images for objectives that need them; None elsewhere."""
        return self.per_score(fake).mean()


def _logistic(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(fake).mean()


_NON_SATURATING = Objective(_logistic, lambda fake: softplus(-fake))

OBJECTIVES: dict[str, Objective] = {
    "hinge": Objective(lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), lambda fake: -fake),
    "non-saturating": _NON_SATURATING,
    "softplus": _NON_SATURATING,
    "minimax": Objective(_logistic, lambda fake: -softplus(fake)),
    "wasserstein": Objective(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake),
    "least-squares": Objective(
        lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2, lambda fake: (fake - 1).square() / 2
    ),
}
