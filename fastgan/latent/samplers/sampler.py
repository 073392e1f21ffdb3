"""What a sampler is, and what it may ask of the networks.

A sampler chooses latents for a generator that is trained already, most often by what the discriminator says of their images. It
is at once its settings and its algorithm; `prepare` does what is done once (calibration, bounds, constants), and gives the
function that draws. All chance is drawn by the sample's row, so a sample is the same in any batch and on any rank, up to the
rounding in which networks differ from one batch size to another.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn

from fastgan.checked import CHECKED
from fastgan.draw import Draw
from fastgan.judgement import Judgement
from fastgan.latent.frozen import frozen
from fastgan.latent.prior import Prior
from fastgan.objectives import Objective

PASSES = ("generator", "discriminator", "backward")
"""What is counted, one for each sample that passes: forwards of G, forwards of D, backwards through both towards z."""


@dataclass(frozen=True)
class Drawn:
    """What a sampler gives for B rows."""

    z: Tensor
    """(B, dim)."""
    labels: Tensor | None = None
    """int64 (B,), as they were asked for."""
    images: Tensor | None = None
    """G's images of z, where the sampler has computed them."""


Sample = Callable[[Draw, Tensor | None], Drawn]
"""(draw, labels) -> one latent for each of the draw's rows, of that row's class."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A trained pair of networks as samplers use it; counts what passes through them. Any two modules will do, ours or not, in
    evaluation mode: in training mode they would mix the samples of a batch, and change.

    Raises:
        ValueError: a network is in training mode.
    """

    generator: nn.Module
    """`generator(z)`, with classes `generator(z, labels)` -> images."""
    discriminator: nn.Module
    """`discriminator(x)`, with classes `discriminator(x, labels)` -> one score an image or a map of scores, higher = more
    real."""
    prior: Prior
    classes: int = 0
    objective: str | Objective = "non-saturating"
    """What D was trained with (`fastgan.objectives`): whose loss of each score refinement descends."""
    real: Callable[[int], tuple[Tensor, Tensor | None]] | None = None
    """(count) -> as many real images, or all there are if these are fewer, and their labels; best such as D was not trained on.
    For samplers that calibrate D."""
    seed: int = 0
    """Of calibration; samples have the seed of their own draw."""
    batch_size: int = 64
    """Of the passes that `prepare` makes."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    passes: Counter = field(default_factory=Counter)
    """Passes so far by `PASSES`, and "exhausted": samples for which a sampler gave up."""

    def __post_init__(self) -> None:
        for network in (self.generator, self.discriminator):
            if network.training:
                raise ValueError("a sampler's networks must be in evaluation mode: call .eval() on both")

    @torch.no_grad()
    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of latents, without a graph."""
        self.passes["generator"] += len(z)
        return self.generator(z, *_given(labels))

    @torch.no_grad()
    def score(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """D's scores (B,), the mean where it gives a map, in float32 or better."""
        self.passes["discriminator"] += len(images)
        return _per_sample(self.discriminator(images, *_given(labels)))

    def judge(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images of latents, and their scores (B,)."""
        images = self.generate(z, labels)
        return images, self.score(images, labels)

    @contextmanager
    def slopes(self) -> Iterator[Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]]:
        """Inside, (z, labels) -> the scores (B,) of G's images and their gradients (B, dim), each sample's towards its own
        latent. No gradient of a weight is computed, and one call's graph is gone when it returns."""
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.generator, self.discriminator):

            def slope(z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
                for name in PASSES:
                    self.passes[name] += len(z)
                z, given = z.clone().requires_grad_(), _given(labels)
                score = _per_sample(self.discriminator(self.generator(z, *given), *given))
                (gradient,) = torch.autograd.grad(score.sum(), z)
                return score.detach(), gradient

            yield slope

    def generated_scores(self, purpose: str, count: int) -> Tensor:
        """Scores (count,) of images of latents from the prior, of classes drawn uniformly. Drawn with the pair's seed, apart
        from all samples."""
        return torch.cat([self.judge(self.prior(draw), labels)[1] for draw, labels in self.draws(purpose, count)])

    def draws(self, purpose: str, count: int) -> Iterator[tuple[Draw, Tensor | None]]:
        """Draws for `count` rows by batches, with labels."""
        for first in range(0, count, self.batch_size):
            draw = Draw(self.seed, purpose, 0, torch.arange(first, min(first + self.batch_size, count), device=self.device))
            yield draw, draw.integers("labels", self.classes) if self.classes else None


@checked(frozen=True, config=CHECKED)
class Sampler:
    """One way to choose latents. Subclasses add their settings as fields."""

    def prior_of(self, prior: Prior) -> Prior:
        """The distribution that proposals come from, where a run has `prior`."""
        return prior

    def prepare(self, pair: Pair) -> Sample:
        """Do what is done once for a pair, and give the function that draws.

        Raises:
            UserError: the sampler can do nothing with such a pair.
        """
        raise NotImplementedError


def of_rows(labels: Tensor | None, rows: Tensor) -> Tensor | None:
    """The labels of some rows, where there are labels."""
    return None if labels is None else labels[rows]


def _given(labels: Tensor | None) -> tuple[Tensor, ...]:
    return () if labels is None else (labels,)


def _per_sample(output: Judgement | Tensor) -> Tensor:
    score = Judgement.of(output).score
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    return score.flatten(1).mean(1) if score.dim() > 1 else score
