"""The ordinary game: a generator against a discriminator, an objective, and terms.

With `refinement` on it is AdvLatGAN-qua (Li et al., NeurIPS 2022): D learns from images of refined latents, G from plain ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.games.game import Batch, Game, Phase, Statistics
from fastgan.judgement import View, judge
from fastgan.latent import Prior, Refinement
from fastgan.objectives import Objective
from fastgan.terms import Scene, Term


class AdversarialGame(Game):
    """Two players; `n_dis` discriminator turns a round, then the generator's.

    With `classes` above 0 the networks are called with labels, int64 (B,): those of the batch for real images, and one drawn
    uniformly for each generated image. They stay as they are while its latent is refined.
    """

    players: ClassVar = {"discriminator": ("discriminator",), "generator": ("generator",)}

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        prior: Prior,
        objective: Objective,
        refinement: Refinement | None = None,
        terms: Mapping[str, Term] | None = None,
        n_dis: int = 1,
        generator_batch: int = 1,
        reuse_latents: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.prior, self.objective, self.terms = prior, objective, dict(terms or {})
        self.refinement = refinement or (lambda generator, discriminator, z, labels=None: z)
        self.n_dis, self.generator_batch, self.reuse_latents = n_dis, generator_batch, reuse_latents
        self.classes = classes
        self._reused: dict[int, tuple[Tensor, Tensor | None]] = {}

    def phases(self) -> Sequence[Phase]:
        """D, n_dis times; each lazy interval's terms; G, on the real batch that D saw last."""
        lazy = sorted({term.every for term in self.terms.values() if term.every > 1})
        return (
            Phase("D", "discriminator", self.discriminator_loss, times=self.n_dis),
            *(Phase(f"Dreg{n}", "discriminator", self._lazy_loss(n), every=n, fresh=False) for n in lazy),
            Phase("G", "generator", self.generator_loss, fresh=False),
        )

    def discriminator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """D's phase: refined latents, images without a graph, one pass of D over every merged view."""
        scene = self._scene(batch, draw)
        terms = self._terms("discriminator")
        views = {"real": View(scene.real, scene.real_labels), "fake": View(scene.fake, scene.fake_labels)}
        judged = judge(self.discriminator, views | _views(terms, scene))

        real, fake = judged["real"].score, judged["fake"].score
        loss = self.objective.discriminator(real, fake)
        for term in terms:
            loss = loss + term.loss(scene, judged)
        return loss, {"loss": loss.detach(), **_score_statistics(real.detach(), fake.detach())}

    def generator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """G's phase: plain latents, gradients through a frozen D."""
        z, labels = self._latents(draw.times(self.generator_batch))
        fake = self._generate(z, labels)
        scene = Scene(batch["images"], self._labels_of(batch), fake, labels, z, self._generate, draw)
        terms = self._terms("generator")
        judged = judge(self.discriminator, {"fake": View(fake, labels)} | _views(terms, scene))

        loss = self.objective.generator(None, judged["fake"].score)
        for term in terms:
            loss = loss + term.loss(scene, judged)
        return loss, {"loss": loss.detach()}

    def _scene(self, batch: Batch, draw: Draw) -> Scene:
        """What D is to judge: real images beside images of refined latents."""
        if self.reuse_latents and draw.turn > 0:
            z, labels = self._reused[draw.part]
        else:
            z, labels = self._latents(draw)
            z = self.refinement(self.generator, self.discriminator, z, labels)
        if self.reuse_latents:
            self._reused[draw.part] = z, labels
        fake = self._generate_without_graph(z, labels)
        return Scene(batch["images"], self._labels_of(batch), fake, labels, z, self._generate_without_graph, draw)

    def _lazy_loss(self, interval: int) -> Callable[[Batch, Draw], tuple[Tensor, Statistics]]:
        def loss(batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
            scene = self._scene(batch, draw)
            terms = self._terms("discriminator", interval)
            judged = judge(self.discriminator, _views(terms, scene))
            total = interval * sum(term.loss(scene, judged) for term in terms)
            return total, {"loss": total.detach() / interval}

        return loss

    def _terms(self, player: str, interval: int = 1) -> list[Term]:
        return [term for term in self.terms.values() if term.player == player and term.every == interval]

    def _latents(self, draw: Draw) -> tuple[Tensor, Tensor | None]:
        """Plain latents, and in a conditional game a class for each."""
        return self.prior(draw), draw.integers("labels", self.classes) if self.classes else None

    def _labels_of(self, batch: Batch) -> Tensor | None:
        return batch["labels"] if self.classes else None

    def _generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(z) if labels is None else self.generator(z, labels)

    @torch.no_grad()
    def _generate_without_graph(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._generate(z, labels)


def _views(terms: Sequence[Term], scene: Scene) -> dict[str, View]:
    return {name: view for term in terms for name, view in term.views(scene).items()}


def _score_statistics(real: Tensor, fake: Tensor) -> Statistics:
    """Mean scores, and how well D tells the two apart: the share of (real, generated) pairs that it orders rightly."""
    return {
        "score_real": real.mean(),
        "score_fake": fake.mean(),
        "separation": (real.reshape(-1, 1) > fake.reshape(1, -1)).float().mean(),
    }
