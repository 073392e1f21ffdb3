"""The ordinary game: a generator against a discriminator, an objective, and terms.

With `refinement` on it is AdvLatGAN-qua (Li et al., NeurIPS 2022): D learns from images of refined latents, G from plain ones.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.games.game import Batch, Game, Phase, Statistics
from fastgan.judgement import View, judge
from fastgan.latent import Prior, Refinement
from fastgan.objectives import Objective
from fastgan.terms import Imagined, Scene, Term


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
        self._reused: dict[int, Imagined] = {}

    def phases(self) -> Sequence[Phase]:
        """D, n_dis times; the lazy terms, a phase an interval; G, on the real batch that D saw last."""
        return (
            Phase("D", "discriminator", self.discriminator_loss, times=self.n_dis),
            *self._lazy_phases("discriminator"),
            Phase("G", "generator", self.generator_loss, fresh=False),
            *self._lazy_phases("generator"),
        )

    def discriminator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """D's phase: refined latents, images without a graph, one pass of D over every merged view."""
        scene = self._scene("discriminator", batch, draw)
        terms = self._terms("discriminator")
        views = {"real": View(scene.real, scene.real_labels), "fake": View(scene.fake.images, scene.fake.labels)}
        judged = judge(self.discriminator, views | _views(terms, scene))

        real, fake = judged["real"].score, judged["fake"].score
        loss, *logged = self.objective.scored(real, fake)
        for term in terms:
            loss = loss + term.loss(scene, judged)
        return loss, {"loss": loss.detach(), **dict(zip(("score_real", "score_fake", "separation"), logged, strict=True))}

    def generator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """G's phase: plain latents, gradients through a frozen D."""
        scene = self._scene("generator", batch, draw.times(self.generator_batch))
        terms = self._terms("generator")
        views = {"fake": View(scene.fake.images, scene.fake.labels)}
        judged = judge(self.discriminator, views | _views(terms, scene))

        loss = self.objective.generator(None, judged["fake"].score)
        for term in terms:
            loss = loss + term.loss(scene, judged)
        return loss, {"loss": loss.detach()}

    def _scene(self, player: str, batch: Batch, draw: Draw) -> Scene:
        learns = player == "generator"
        generate = self._generate if learns else self._generate_without_graph

        def imagine() -> Imagined:
            if self.reuse_latents and not learns and draw.turn > 0:
                return self._reused[draw.part]
            z = self.prior(draw)
            labels = draw.integers("labels", self.classes) if self.classes else None
            if not learns:
                z = self.refinement(self.generator, self.discriminator, z, labels)
            imagined = Imagined(z, labels, generate(z, labels))
            if self.reuse_latents and not learns:
                self._reused[draw.part] = imagined
            return imagined

        real_labels = batch["labels"] if self.classes else None
        return Scene(batch["images"], real_labels, imagine, generate, draw, latents=partial(self.prior, draw))

    @torch.no_grad()
    def _generate_without_graph(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._generate(z, labels)

    def _lazy_phases(self, player: str) -> list[Phase]:
        intervals = sorted({term.every for term in self.terms.values() if term.player == player and term.every > 1})
        return [
            Phase(f"{player[0].upper()}reg{n}", player, self._lazy_loss(player, n), every=n, fresh=False) for n in intervals
        ]

    def _lazy_loss(self, player: str, interval: int) -> Callable[[Batch, Draw], tuple[Tensor, Statistics]]:
        def loss(batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
            scene = self._scene(player, batch, draw)
            terms = self._terms(player, interval)
            judged = judge(self.discriminator, _views(terms, scene))
            total = torch.stack([term.loss(scene, judged) for term in terms]).sum()
            return interval * total, {"loss": total.detach()}

        return loss

    def _terms(self, player: str, interval: int = 1) -> list[Term]:
        return [term for term in self.terms.values() if term.player == player and term.every == interval]

    def _generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(z) if labels is None else self.generator(z, labels)


def _views(terms: Sequence[Term], scene: Scene) -> dict[str, View]:
    """What the terms want judged. Where two want the same images, who wants them alone prevails."""
    found: dict[str, View] = {}
    for term in terms:
        for name, view in term.views(scene).items():
            if name not in found or view.alone:
                found[name] = view
    return found
