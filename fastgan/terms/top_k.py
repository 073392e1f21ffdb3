"""Top-k training: G learns from those images of a batch that D takes for the most real, from fewer as training goes on.

    L_G = mean of the objective over the k highest D(G(z)),    k = max(1, floor(B * share ^ min(1, round / rounds)))

Sinha, Zhao, Goyal, Raffel, Odena, "Top-k training of GANs: improving GAN performance by throwing away bad samples" (NeurIPS
2020), section 3, which anneals k by 0.99 an epoch down to half the batch.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from fastgan.checked import CHECKED, Count
from fastgan.judgement import Judgement
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class TopK(Term):
    """Chooses what G's objective is taken of; adds nothing of its own. B is the whole batch, over all ranks."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Of the batch, at last."""
    rounds: Count = 10_000
    """Over which k falls to it, by the same factor each round."""

    def __post_init__(self) -> None:
        if self.every > 1:
            raise ValueError("every must be 1: it chooses what the objective of each round is taken of")

    @property
    def player(self) -> Literal["generator"]:
        """The generator's."""
        return "generator"

    @property
    def couples(self) -> bool:
        """The highest scores are those of the whole batch."""
        return True

    @property
    def spans_ranks(self) -> bool:
        """Scores are gathered."""
        return True

    def chosen(self, scene: Scene, scores: Tensor) -> Tensor:
        """The k highest of all ranks' scores; of maps, those with the highest means. Equal scores in the order of the batch."""
        scores = scene.gather(scores)
        past = 1.0 if not self.rounds else min(1.0, scene.draw.step / self.rounds)
        k = max(1, int(len(scores) * self.share**past + 1e-9))  # 100 * 0.29 is 28.999999999999996
        order = scores.detach().flatten(1).mean(1) if scores.dim() > 1 else scores.detach()
        return scores[torch.sort(order, descending=True, stable=True).indices[:k]]

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """0."""
        return scene.real.new_zeros(())
