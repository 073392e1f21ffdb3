"""What a term is, and what it may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from fastgan.checked import CHECKED, Positive
from fastgan.draw import Draw
from fastgan.judgement import Judgement, View


@dataclass(frozen=True)
class Scene:
    """What a phase has drawn before anything is judged. B latents, images in [-1, 1]."""

    real: Tensor
    """(B, C, H, W), as the stream gave them."""
    real_labels: Tensor | None
    fake: Tensor
    """(B', C, H, W): without a graph in the discriminator's phase, in G's graph in the generator's."""
    fake_labels: Tensor | None
    z: Tensor
    """(B', dim): the latents of `fake`, refined where refinement is on."""
    generate: Callable[..., Tensor]
    """(z, labels) -> images, in the graph that this phase wants."""
    draw: Draw


@checked(frozen=True, config=CHECKED)
class Term:
    """One weighted addition to a player's loss. Subclasses add their weights as fields and override what they need."""

    every: Positive = 1
    """Rounds between applications. Above 1 the term has a phase of its own, scaled by `every` (lazy regularisation,
    StyleGAN2, Karras et al. 2020, appendix B)."""

    @property
    def player(self) -> Literal["discriminator", "generator"]:
        """Whose loss this is part of."""
        return "discriminator"

    @property
    def couples(self) -> bool:
        """Whether the loss mixes samples, so that a sum over micro-batches is not the loss of the whole batch."""
        return False

    def views(self, scene: Scene) -> dict[str, View]:
        """What must be judged for this term beside "real" and "fake", by names that no other term uses; or these two anew, the
        same images judged alone, where a gradient towards them is wanted."""
        return {}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term, a scalar. `judged` has "real", "fake" (generated) and this term's own views; in a lazy phase
        its own views alone."""
        raise NotImplementedError
