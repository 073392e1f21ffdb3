"""What a term is, and what it may look at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn

from fastgan.checked import CHECKED, Positive
from fastgan.draw import Draw
from fastgan.judgement import Judgement, View


@dataclass(frozen=True)
class Imagined:
    """Generated images and what they were made from."""

    z: Tensor
    """(B', dim): refined where refinement is on."""
    labels: Tensor | None
    images: Tensor
    """(B', C, H, W) in [-1, 1]: without a graph in the discriminator's phase, in G's graph in the generator's."""


def _alone(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Scene:
    """What a phase may look at before anything is judged."""

    real: Tensor
    """(B, C, H, W), as the stream gave them."""
    real_labels: Tensor | None
    imagine: Callable[[], Imagined]
    """Makes `fake`; called when a term or the objective first asks for it, so that a phase pays for what it uses."""
    generate: Callable[..., Tensor]
    """(z, labels) -> images, in the graph that this phase wants."""
    draw: Draw
    latents: Callable[[str], Tensor] | None = None
    """(name) -> further latents from the game's prior, (B', dim), drawn under that name; None in a game without one."""
    partner: "Scene | None" = None
    """In a game of pairs, what the phase may look at in their second half: as many generated images, of the same labels. None
    in a game without them, and in the second half."""

    over_ranks: Callable[[Tensor], Tensor] | None = None
    """Where several ranks share the batch, their mean of a tensor, with the gradient of the identity; None for one alone."""
    gather: Callable[[Tensor], Tensor] = _alone
    """The rows of all ranks that share the batch, in its order: a loss of them all is the same on every rank, and the mean of
    the ranks' gradients is its gradient (`engine.distributed.Ranks.gather`)."""
    networks: Sequence[nn.Module] = ()
    """Those that learn in this phase."""
    burnt_in: float = 1.0
    """The share of the run's burn-in that has passed, in [0, 1]: for weights that are annealed."""
    memory: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """What terms have kept from the rounds before, by the term's name in the table."""

    @cached_property
    def fake(self) -> Imagined:
        """This phase's generated images."""
        return self.imagine()


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
    def looks_at(self) -> Literal["real", "generated", "pair"]:
        """What the loss is of: real images alone, generated ones too, or two batches of generated ones.

        A game of pairs (`latent.pair`) sums a player's whole loss over the two halves: a term of generated images is computed
        for each, one of real images alone is computed once and counts twice, one of the pair itself counts once."""
        return "generated"

    @property
    def couples(self) -> bool:
        """Whether the loss mixes samples, so that a sum over micro-batches is not the loss of the whole batch."""
        return False

    @property
    def spans_ranks(self) -> bool:
        """Whether a loss that mixes samples is nevertheless the whole batch's where ranks share it (`Scene.over_ranks`)."""
        return False

    @property
    def transforms_images(self) -> bool:
        """Whether the term needs images, and can do nothing with points in the plane."""
        return False

    @property
    def second_order(self) -> bool:
        """Whether the loss holds a gradient through the player's own networks, which is differentiated again."""
        return False

    @property
    def compares_latents(self) -> bool:
        """Whether images of latents beside the drawn ones are compared with theirs, which all generators of an ensemble can't
        be held to."""
        return False

    @property
    def reads_weights(self) -> bool:
        """Whether the loss is of the weights themselves, outside any forward, where ZeRO-3 has none."""
        return False

    @property
    def memory(self) -> dict[str, float]:
        """What the term keeps between rounds, with its beginnings: scalars, part of the game's state (`Scene.memory`)."""
        return {}

    def remember(self, memory: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The memory at the end of a round, from what it was and the statistics of D's phase, over all its turns and ranks."""
        return memory

    def chosen(self, scene: Scene, scores: Tensor) -> Tensor:
        """The generated scores, of those in `scores` (B', ...), that the generator's objective is taken of."""
        return scores

    def views(self, scene: Scene) -> dict[str, View]:
        """What must be judged for this term beside "real" and "fake", by names that no other term uses; and these two, where a
        lazy phase shall have them too, or judged alone, where a gradient towards them is wanted."""
        return {}

    def loss(self, scene: Scene, judged: Mapping[str, Judgement]) -> Tensor:
        """The weighted term, a scalar. `judged` has "real" (in D's phase), "fake" and this term's own views; in a lazy phase
        its own views alone."""
        raise NotImplementedError
