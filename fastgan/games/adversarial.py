"""The ordinary game: a generator against a discriminator, an objective, and terms.

With `refinement` on it is AdvLatGAN-qua (Li et al., NeurIPS 2022): D learns from images of refined latents, G from plain ones.
With `pairing` every latent has a partner, and a player's loss is the sum of the whole losses of both halves: with the
mode-seeking term, MSGAN (Mao et al., CVPR 2019) or AdvLatGAN-div.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.games.augmentation import Augmentation
from fastgan.games.game import Batch, Game, Phase, Statistics
from fastgan.games.memory import Memory
from fastgan.judgement import Judgement, View, judge
from fastgan.latent import Pairing, Prior, Refinement
from fastgan.objectives import Objective, Seen
from fastgan.terms import Imagined, Scene, Term


@dataclass(frozen=True)
class Drawn:
    """A phase's latents before refinement."""

    z: tuple[Tensor, ...]
    """One (B, dim), or the two of a pair."""
    labels: Tensor | None
    """Of either."""
    images: Tensor | None = None
    """G of the first, where the search for the second has asked for it."""


class AdversarialGame(Game):
    """Two players; `n_dis` discriminator turns a round, then the generator's.

    With `classes` above 0 the networks are called with labels, int64 (B,): those of the batch for real images, and one drawn
    uniformly for each generated image. They stay as they are while its latent is refined.

    An objective that couples samples is of the whole batch over all ranks (`gather`); in G's phase D judges the real batch too
    for those that need it.

    With `augmentation` D is shown every image through it, in both players' phases; refinement asks D about images as they are.

    With `merged` both players step at once, on losses of the same networks: G's phase comes first, its images are those that D
    learns from (unless it refines their latents), and one pass of G is saved. `n_dis` and `generator_batch` are 1 then.

    `burnt_in` gives the share of the burn-in that has passed when a round begins: terms are told it.

    With `pairing` each turn of D draws pairs, (z1, z2) of one label; whatever else is played in the round takes those of D's
    last turn, G's phase as they were before refinement. `generator_batch` is 1 then.
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
        pairing: Pairing | None = None,
        terms: Mapping[str, Term] | None = None,
        augmentation: Augmentation | None = None,
        n_dis: int = 1,
        generator_batch: int = 1,
        reuse_latents: bool = False,
        merged: bool = False,
        classes: int = 0,
        burnt_in: Callable[[int], float] = lambda round_number: 1.0,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.prior, self.objective, self.terms = prior, objective, dict(terms or {})
        self.refinement = refinement or (lambda generator, discriminator, z, labels=None: z)
        self.pairing, self.augmentation = pairing, augmentation
        remembering = {name: part.memory for name, part in self._with_memory.items() if part.memory}
        self.memory = nn.ModuleDict({name: Memory(beginnings) for name, beginnings in remembering.items()})
        self.n_dis, self.generator_batch, self.reuse_latents = n_dis, generator_batch, reuse_latents
        self.merged, self.classes, self.burnt_in = merged, classes, burnt_in
        self._reused: dict[tuple[int, int], Imagined] = {}
        self._pairs: dict[int, Drawn] = {}
        self._shared: dict[int, Imagined] = {}

    def phases(self) -> Sequence[Phase]:
        """D, n_dis times; the lazy terms, a phase an interval; G, on the real batch that D saw last. Merged, both at once, and
        the lazy terms."""
        lazy = {player: self._lazy_phases(player) for player in self.players}
        if self.merged:
            return (
                Phase("G", "generator", self.generator_loss, waits=True),
                Phase("D", "discriminator", self.discriminator_loss, fresh=False),
                *lazy["discriminator"],
                *lazy["generator"],
            )
        return (
            Phase("D", "discriminator", self.discriminator_loss, times=self.n_dis),
            *lazy["discriminator"],
            Phase("G", "generator", self.generator_loss, fresh=False),
            *lazy["generator"],
        )

    def discriminator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """D's phase: refined latents, images without a graph, one pass of D over every merged view."""
        scenes, terms = self._scenes("discriminator", batch, draw, main=True), self._terms("discriminator")
        judged = self._judge(scenes, terms, lambda scene: _real(scene) | _fake(scene), draw)

        seen = [(self._seen(half["real"]), self._seen(half["fake"])) for half in judged]
        losses, *logged = zip(*(self.objective.scored(*sides, **self._remembered()) for sides in seen), strict=True)
        loss = _sum([*losses, *_losses(terms, scenes, judged)])
        names = ("score_real", "score_fake", "separation")
        statistics = {"loss": loss.detach(), **dict(zip(names, map(_mean, logged), strict=True))}
        more = [self.objective.logged(*sides) for sides in seen]
        statistics |= {name: _mean([half[name] for half in more]) for name in more[0]}
        if self.augmentation is not None:
            statistics |= self.augmentation.observed(judged[0]["real"].score)
        return loss, statistics

    def generator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """G's phase: plain latents, gradients through a frozen D."""
        scenes, terms = self._scenes("generator", batch, draw.times(self.generator_batch)), self._terms("generator")
        judged = self._judge(scenes, terms, self._for_generator, draw)

        losses = []
        for scene, half in zip(scenes, judged, strict=True):
            fake = half["fake"]
            for term in terms:
                fake = replace(fake, score=term.chosen(scene, fake.score))
            real = self._seen(half["real"]) if self.objective.real_in_generator else None
            losses.append(self.objective.generator(real, self._seen(fake), **self._remembered()))
        loss = _sum([*losses, *_losses(terms, scenes, judged)])
        return loss, {"loss": loss.detach()}

    def after(self, statistics: Mapping[str, Statistics]) -> None:
        """The objective and terms remember, and the augmentation adapts, by what D's phase has seen on all ranks."""
        for name, memory in self.memory.items():
            memory.write(self._with_memory[name].remember(memory.read(), statistics["D"]))
        if self.augmentation is not None:
            self.augmentation.adapt(statistics["D"])

    def _scenes(self, player: str, batch: Batch, draw: Draw, main: bool = False) -> list[Scene]:
        """What a phase looks at: one scene; in a game of pairs one for each half, on the same real images."""
        learns, real_labels = player == "generator", batch["labels"] if self.classes else None
        generate = self._generate if learns else self._generate_without_graph
        remembered = {name: memory.read() for name, memory in self.memory.items()}
        drawn = cache(lambda: self._latents(draw, main) if main or self.pairing is None else self._pairs[draw.part])

        def imagine(half: int) -> Imagined:
            if self.reuse_latents and not learns and draw.turn > 0:
                return self._reused[draw.part, half]
            plain, labels, images = drawn().z[half], drawn().labels, drawn().images if half == 0 else None
            z = plain if learns else self.refinement(self.generator, self.discriminator, plain, labels)
            imagined = Imagined(z, labels, generate(z, labels) if images is None or z is not plain else images)
            if self.merged and learns:
                self._shared[draw.part] = replace(imagined, images=imagined.images.detach())
            if self.reuse_latents and not learns:
                self._reused[draw.part, half] = imagined
            return imagined

        def scene(half: int, draw: Draw, partner: Scene | None = None) -> Scene:
            more = {
                "latents": partial(self.prior, draw),
                "partner": partner,
                "over_ranks": self.over_ranks,
                "gather": self.gather,
                "networks": self.networks_of(player),
                "memory": remembered,
                "burnt_in": self.burnt_in(draw.step),
            }
            return Scene(batch["images"], real_labels, partial(imagine, half), generate, draw, **more)

        if self.pairing is None:
            return [scene(0, draw)]
        second = scene(1, replace(draw, purpose=f"{draw.purpose}/partner"))
        return [scene(0, draw, second), second]

    def _latents(self, draw: Draw, main: bool) -> Drawn:
        if main and self.merged:
            shared = self._shared.pop(draw.part)
            return Drawn((shared.z,), shared.labels, shared.images)
        z = self.prior(draw)
        labels = draw.integers("labels", self.classes) if self.classes else None
        if self.pairing is None:
            return Drawn((z,), labels)
        images = self._generate_without_graph(z, labels) if self.pairing.searches else None
        pair = z, self.pairing(self.generator, self.prior, draw, z, labels, images, self.over_ranks)
        self._pairs[draw.part] = Drawn(pair, labels)
        return Drawn(pair, labels, images)

    def _judge(
        self, scenes: Sequence[Scene], terms: Sequence[Term], own: Callable[[Scene], dict[str, View]], draw: Draw
    ) -> list[dict[str, Judgement]]:
        """For each scene what D says of its `own` views and those that terms want. The scenes share "real", whose samples are
        those of `draw`; in G's phase the scenes may have more."""
        views: dict[str, View] = {}
        names: list[dict[str, str]] = []
        for half, scene in enumerate(scenes):
            names.append({})
            asking = [term for term in terms if half == 0 or term.looks_at == "generated"]
            for asked in (own(scene), *(term.views(scene) for term in asking)):
                for name, view in asked.items():
                    there = names[half][name] = name if name == "real" else f"{name} {half}"
                    if there not in views or view.alone:  # where two want the same images, who wants them alone prevails
                        views[there] = view
        judged = judge(self.discriminator, views, self._augment(scenes[0].draw, draw))
        return [{name: judged[there] for name, there in half.items()} for half in names]

    def _augment(self, draw: Draw, real: Draw) -> Callable[[str, Tensor], Tensor] | None:
        if self.augmentation is None:
            return None
        return lambda name, images: self.augmentation(real if name == "real" else draw, name, images)

    def _for_generator(self, scene: Scene) -> dict[str, View]:
        """Real images are judged apart: nothing is differentiated towards them."""
        real = {"real": View(scene.real, scene.real_labels, alone=True)} if self.objective.real_in_generator else {}
        return real | _fake(scene)

    def _seen(self, judgement: Judgement) -> Seen:
        """What the objective is given of a judgement: where it couples samples, of the whole batch over all ranks."""
        parts = {name: getattr(judgement, name) for name in ("score", *self.objective.needs)}
        if self.objective.couples:
            parts = {name: self.gather(part) for name, part in parts.items()}
        return Judgement(**parts) if self.objective.needs else parts["score"]

    def _remembered(self) -> dict[str, Tensor]:
        """What the objective remembers."""
        return self.memory["objective"].read() if self.objective.memory else {}

    @property
    def _with_memory(self) -> dict[str, Term | Objective]:
        return self.terms | {"objective": self.objective}

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
            scenes, terms = self._scenes(player, batch, draw), self._terms(player, interval)
            total = _sum(_losses(terms, scenes, self._judge(scenes, terms, lambda scene: {}, draw)))
            return interval * total, {"loss": total.detach()}

        return loss

    def _terms(self, player: str, interval: int = 1) -> list[Term]:
        return [term for term in self.terms.values() if term.player == player and term.every == interval]

    def _generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(z) if labels is None else self.generator(z, labels)


def _real(scene: Scene) -> dict[str, View]:
    return {"real": View(scene.real, scene.real_labels)}


def _fake(scene: Scene) -> dict[str, View]:
    return {"fake": View(scene.fake.images, scene.fake.labels)}


def _losses(terms: Sequence[Term], scenes: Sequence[Scene], judged: Sequence[Mapping[str, Judgement]]) -> list[Tensor]:
    """Every term's loss as often as it counts (`Term.looks_at`)."""
    losses = []
    for term in terms:
        if term.looks_at == "generated":
            losses += [term.loss(scene, half) for scene, half in zip(scenes, judged, strict=True)]
        else:
            losses += [term.loss(scenes[0], judged[0])] * (len(scenes) if term.looks_at == "real" else 1)
    return losses


def _sum(losses: Sequence[Tensor]) -> Tensor:
    first, *more = losses
    return sum(more, start=first)


def _mean(halves: Sequence[Tensor]) -> Tensor:
    return halves[0] if len(halves) == 1 else torch.stack(halves).mean()
