"""LeCam regularisation: D's scores are held near the other side's average, which keeps them small where data are few.

    R = weight * ( m |D(x) - a_F|^2 + m |D(G(z)) - a_R|^2 ),    a_R, a_F: moving averages of D's mean real and generated scores

Tseng, Jiang, Liu, Yang, Yang, "Regularizing generative adversarial networks under limited data" (CVPR 2021), equation 3 and
section 4. With `one_sided`, as its published code has it, distances count while the sides are in order: relu(D(x) - a_F) and
relu(a_R - D(G(z))).
"""

from collections.abc import Mapping

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import relu

from fastgan.checked import CHECKED, Count, NonNegativeFloat
from fastgan.judgement import Judgement, View
from fastgan.kernels.reduction import accumulator
from fastgan.terms.term import Scene, Term


@dataclass(frozen=True, config=CHECKED)
class LeCam(Term):
    """Its averages are of whole rounds, over all ranks; they are part of the game's state. Distances are in float32 or better,
    whatever the precision of the scores."""

    weight: NonNegativeFloat = 0.3
    """0.3 as published for CIFAR."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """Of the averages, a round; younger than 1 / (1 - decay) rounds they are plain means."""
    start: Count = 0
    """Rounds before the term counts; never before the first round's averages are there."""
    one_sided: bool = True

    @property
    def memory(self) -> dict[str, float]:
        """The averages, and the rounds that they know."""
        return {"real": 0.0, "fake": 0.0, "rounds": 0.0}

    def remember(self, memory: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The averages after a round."""
        rounds = memory["rounds"] + 1
        share = (1 / rounds).clamp(min=1 - self.decay)
        return {"rounds": rounds} | {
            side: memory[side].lerp(statistics[f"score_{side}"].to(memory[side].dtype), share) for side in ("real", "fake")
        }

    def views(self, scene: Scene) -> dict[str, View]:
        """Real and generated images, which a lazy phase would not have otherwise."""
        return {
            "real": View(scene.real, scene.real_labels),
            "fake": View(scene.fake.images, scene.fake.labels),
        }

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term; 0 before `start`."""
        memory = scene.memory["lecam"]
        real, fake = (judged[side].score for side in ("real", "fake"))
        above, below = real.to(accumulator(real.dtype)) - memory["fake"], memory["real"] - fake.to(accumulator(fake.dtype))
        if self.one_sided:
            above, below = relu(above), relu(below)
        begun = memory["rounds"] > max(self.start - 1, 0)
        return self.weight * (begun * (above.square().mean() + below.square().mean()))
