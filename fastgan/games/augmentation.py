"""What D is shown all images through, in both players' phases: a differentiable T, done with a probability.

Fixed, it is differentiable augmentation (Zhao, Liu, Lin, Zhu, Han, "Differentiable augmentation for data-efficient GAN
training", NeurIPS 2020). With a target it is adaptive augmentation (ADA; Karras, Aittala, Hellsten, Laine, Lehtinen, Aila,
"Training generative adversarial networks with limited data", NeurIPS 2020, section 3): every few rounds

    p <- p + sign( m sign D(T(x)) - target ) * (images of those rounds) / (images over which p goes from 0 to 1)

as D that over-fits scores nearly all real images above 0. With an end of the probability it goes there over the burn-in.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastgan.annealing import annealed
from fastgan.config import Augmentation as Settings
from fastgan.draw import Draw
from fastgan.kernels.augment import augment
from fastgan.policies import POLICIES


class Augmentation(nn.Module):
    """T, its probability as a buffer, and what adapts it.

    Args:
        settings: of the configuration.
        images: real images that D is shown in a round, over all ranks.
        burnt_in: round -> the share of the burn-in that has passed when it begins.
    """

    def __init__(self, settings: Settings, images: int, burnt_in: Callable[[int], float] = lambda round_number: 1.0) -> None:
        super().__init__()
        self.burnt_in = burnt_in
        self.settings, self.policy = settings, POLICIES[settings.policy]
        self.step = images * settings.every / settings.images
        adaptive = settings.target is not None
        self.register_buffer("probability", torch.tensor(0.0 if adaptive else settings.probability))
        if adaptive:
            self.register_buffer("signs", torch.tensor(0.0))
            self.register_buffer("rounds", torch.tensor(0))

    def forward(self, draw: Draw, name: str, images: Tensor) -> Tensor:
        """T of (B, C, H, W), drawn under this name; differentiable."""
        size, settings, probability = tuple(images.shape[2:]), self.settings, self.probability
        if settings.probability_end is not None:
            probability = annealed(settings.probability, settings.probability_end, self.burnt_in(draw.step))
        transforms = draw.transforms(f"augment/{name}", self.policy, size, probability)
        return augment(images, transforms, self.policy.border, self.policy.fill)

    @torch.no_grad()
    def observed(self, scores: Tensor) -> dict[str, Tensor]:
        """What D's phase logs: the probability, and where it adapts the mean sign of D's real scores."""
        if self.settings.target is None:
            return {}
        return {"augmentation": self.probability.clone(), "sign_real": scores.float().sign().mean()}

    @torch.no_grad()
    def adapt(self, statistics: Mapping[str, Tensor]) -> None:
        """The end of a round. Nothing waits for the device."""
        if self.settings.target is None:
            return
        self.signs += statistics["sign_real"]
        self.rounds += 1
        due = self.rounds >= self.settings.every
        moved = self.probability + self.step * (self.signs / self.rounds - self.settings.target).sign()
        self.probability.copy_(torch.where(due, moved.clamp(0, self.settings.probability), self.probability))
        for sum_ in (self.signs, self.rounds):
            sum_.mul_(~due)
