"""A round as the published scripts write it, to measure against: plain eager PyTorch.

Written from the description of AdvLatGAN's training script, not from its text: `backward()` fills every `.grad`, in refinement
and in the generator's step too; real and generated images are judged in two passes; NCHW, fp32; torch's own layers, whose
spectral norm iterates in every forward. BigGAN's trainers are better at it: the player whose turn it is not takes no gradient,
and D judges real and generated images in one pass.

Consistency regularisation as its trainers have it: the other player takes no gradient, and each augmented batch, and that of
the latents close by, is made by itself and judged in a pass of its own.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from bench import eager_biggan
from bench.eager_gaia import EagerGaiaRound
from fastgan.checked import UserError
from fastgan.config import Adam, Config
from fastgan.kernels.augment import Policy
from fastgan.networks import build
from fastgan.networks.layers import Conv2d, ConvTranspose2d, LinearMap, SNConv2d, SNLinear
from fastgan.objectives import OBJECTIVES
from fastgan.policies import POLICIES
from fastgan.terms import (
    R1,
    R2,
    BalancedConsistency,
    Consistency,
    Dragan,
    Imagined,
    LatentConsistency,
    LatentDiversity,
    LeCam,
    Term,
    WganGP,
)


def check_written(config: Config) -> None:
    """Raise UserError if `config` has something that nobody wrote down here."""
    if config.game == "gaia":
        _check_gaia(config)
        return
    unwritten = {
        "network.family": config.network.family in _UNWRITTEN,
        "network.gradient_norm": config.network.gradient_norm != "none",
        "latent.pair": config.latent.pair != "none",
        "augmentation.policy": config.augmentation.policy != "none",
        "network.ensemble": config.network.ensemble > 1,
        "training.merged": config.training.merged,
    }
    if config.game != "adversarial":
        raise UserError(f"the eager baseline has no game {config.game}")
    objective = OBJECTIVES[config.objective]
    if objective.needs or objective.real_in_generator or objective.memory or config.objective_options:
        raise UserError(f"the eager baseline has no objective {config.objective}, or not with these options")
    for name, is_unwritten in unwritten.items():
        if is_unwritten:
            part, field = name.split(".")
            raise UserError(f"the eager baseline has no {name} {getattr(getattr(config, part), field)}")
    if unknown := [name for name, term in config.terms.items() if type(term) not in LOSSES]:
        raise UserError(f"the eager baseline has no term {', '.join(unknown)}")
    for name, term in config.terms.items():
        if isinstance(term, WganGP) and term.kind != "two-sided":
            raise UserError(f"the eager baseline has no terms.{name}.kind {term.kind}")
        if isinstance(term, Consistency | BalancedConsistency) and POLICIES[term.policy] != _moves(POLICIES[term.policy]):
            raise UserError(f"the eager baseline has no terms.{name}.policy {term.policy}")


def _check_gaia(config: Config) -> None:
    settings, training = config.gaia, config.training
    unwritten = {
        "gaia.balanced=false": not settings.balanced,
        "gaia.detached=true": settings.detached,
        "gaia.compared=reconstruction": settings.compared != "image",
        "gaia.mixtures=batch": settings.mixtures != "pairs",
        "training.accumulate": training.accumulate > 1,
        "odd batches": training.batch_size % 2 == 1,
    }
    if found := [name for name, is_unwritten in unwritten.items() if is_unwritten]:
        raise UserError(f"the eager baseline of GAIA has no {', '.join(found)}")


def eager_round(config: Config) -> "EagerRound | EagerGaiaRound":
    """One round of `config`, which `check_written` has passed, as those who published its networks train them."""
    if config.game == "gaia":
        return EagerGaiaRound(config)
    return (EagerBigGANRound if config.network.family == "biggan" else EagerRound)(config)


@dataclass(frozen=True)
class Turn:
    """What an optimiser step's losses are taken of."""

    round: "EagerRound"
    real: Tensor
    labels: Tensor | None
    """Of the real images."""
    fake: Imagined
    """In G's graph if it is G's turn."""

    @cached_property
    def scores(self) -> tuple[Tensor, Tensor]:
        """Of real and of generated images."""
        return self.round.scores(self)

    def judge(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """A pass of D."""
        return _ask(self.round.discriminator, images, labels)


class EagerRound:
    """One round of `config`, AdvLatGAN-qua and terms included."""

    def __init__(self, config: Config) -> None:
        self.config, self.objective = config, OBJECTIVES[config.objective]
        self.generator, self.discriminator = self._networks()
        self.optimisers = {
            network: _adam(network, settings)
            for network, settings in ((self.generator, config.generator), (self.discriminator, config.discriminator))
        }
        self.memory = {
            name: {key: torch.tensor(value) for key, value in term.memory.items()} for name, term in config.terms.items()
        }
        self.freezes = any(isinstance(term, _CONSISTENT) for term in config.terms.values())
        """Whether the player whose turn it is not takes no gradient."""
        self.rounds = 0

    def __call__(self, real: Tensor, real_labels: Tensor) -> None:
        """D, n_dis times; lazy terms; G; its lazy terms."""
        labels = real_labels if self.config.network.classes else None
        self._turn(self.discriminator)
        for number in range(self.config.training.n_dis):
            if not (self.config.latent.reuse and number):
                fake = self._imagine(len(real))
            turn = Turn(self, real, labels, fake)
            loss = self.objective.discriminator(*turn.scores)
            self._step(self.discriminator, loss + self._terms("discriminator", turn))
        means = {f"score_{side}": scores.detach().mean() for side, scores in zip(("real", "fake"), turn.scores, strict=True)}
        self._lazily("discriminator", lambda: Turn(self, real, labels, fake))
        self._turn(self.generator)
        turn = self._generated(real, labels)
        loss = self.objective.per_score(turn.judge(turn.fake.images, turn.fake.labels)).mean()
        self._step(self.generator, loss + self._terms("generator", turn))
        self._lazily("generator", lambda: self._generated(real, labels))
        for name, term in self.config.terms.items():
            self.memory[name] = term.remember(self.memory[name], means)
        self.rounds += 1

    def scores(self, turn: Turn) -> tuple[Tensor, Tensor]:
        """Of real and of generated images."""
        return turn.judge(turn.real, turn.labels), turn.judge(turn.fake.images, turn.fake.labels)

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        generator, discriminator = map(plain, build(self.config))
        return generator, discriminator

    def _turn(self, network: nn.Module) -> None:
        """The turn of `network` begins."""
        if self.freezes:
            for player in (self.generator, self.discriminator):
                player.requires_grad_(player is network)

    def _terms(self, player: str, turn: Turn, every: int = 1) -> Tensor | float:
        terms = [term for term in self.config.terms.values() if term.player == player and term.every == every]
        return every * sum(LOSSES[type(term)](term, turn) for term in terms)

    def _lazily(self, player: str, turn: Callable[[], Turn]) -> None:
        intervals = {term.every for term in self.config.terms.values() if term.player == player and term.every > 1}
        if due := [every for every in intervals if self.rounds % every == 0]:
            seen = turn()
            self._step(getattr(self, player), sum(self._terms(player, seen, every) for every in due))

    def _generated(self, real: Tensor, labels: Tensor | None) -> Turn:
        """G's turn."""
        z, fake_labels = self._latents(self.config.training.generator_batch * len(real))
        return Turn(self, real, labels, Imagined(z, fake_labels, _ask(self.generator, z, fake_labels)))

    def _imagine(self, count: int) -> Imagined:
        """Images of refined latents."""
        z, labels = self._latents(count)
        for _ in range(self.config.latent.refine_steps):
            self._clear()
            z = z.detach().requires_grad_()
            self.objective.per_score(_ask(self.discriminator, _ask(self.generator, z, labels), labels)).mean().backward()
            z = z - self.config.latent.step_size * z.grad.sign()
        with torch.no_grad():
            return Imagined(z, labels, _ask(self.generator, z, labels))

    def _latents(self, count: int) -> tuple[Tensor, Tensor | None]:
        classes = self.config.network.classes
        return torch.randn(count, self.config.latent.dim), torch.randint(classes, (count,)) if classes else None

    def _step(self, network: nn.Module, loss: Tensor) -> None:
        self._clear()
        loss.backward()
        self.optimisers[network].step()
        if network is self.discriminator and (bound := self.config.discriminator.clip_weights) is not None:
            for parameter in network.parameters():
                parameter.data.clamp_(-bound, bound)

    def _clear(self) -> None:
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()


class EagerBigGANRound(EagerRound):
    """As BigGAN's trainers write it: the opponent frozen, one pass of D, a moving average of G's weights and statistics."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.freezes = True
        self.average = deepcopy(self.generator.state_dict())

    def __call__(self, real: Tensor, real_labels: Tensor) -> None:
        super().__call__(real, real_labels)
        with torch.no_grad():
            for name, value in self.generator.state_dict().items():
                self.average[name].copy_(self.average[name] * _DECAY + value * (1 - _DECAY))

    def scores(self, turn: Turn) -> tuple[Tensor, Tensor]:
        both = None if turn.labels is None else torch.cat([turn.labels, turn.fake.labels])
        sizes = [len(turn.real), len(turn.fake.images)]
        real_scores, fake_scores = turn.judge(torch.cat([turn.real, turn.fake.images]), both).split(sizes)
        return real_scores, fake_scores

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        return eager_biggan.pair(self.config)


_DECAY = 0.9999
_UNWRITTEN = {"biggan-deep", "sagan", "projection-resnet"}


def plain(network: nn.Module) -> nn.Module:
    """`network`, changed in place: its layers torch's own, its weights NCHW; the weights of linear layers keep our order."""
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if type(layer) in _PLAIN:
                setattr(parent, name, _PLAIN[type(layer)](layer))
    return network.to(memory_format=torch.contiguous_format)


class _LinearMap(nn.Linear):
    """As `LinearMap`, channels first."""

    def __init__(self, ours: LinearMap) -> None:
        super().__init__(ours.in_features, ours.out_features, ours.bias is not None)
        height, width, self.channels = ours.map
        self.sides = height, width
        with torch.no_grad():
            for mine, other in zip(self.parameters(), ours.parameters(), strict=True):
                mine.copy_(other.unflatten(0, ours.map).movedim(2, 0).flatten(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (self.channels, *self.sides))


def _convolution(kind: type[nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def change(ours: nn.Module) -> nn.Module:
        sides = ours.in_channels, ours.out_channels, ours.kernel_size, ours.stride, ours.padding
        return _with_parameters(kind(*sides, bias=ours.bias is not None), ours)

    return change


def _linear(ours: nn.Linear) -> nn.Linear:
    return _with_parameters(nn.Linear(ours.in_features, ours.out_features, ours.bias is not None), ours)


def _with_parameters(layer: nn.Module, ours: nn.Module) -> nn.Module:
    layer.load_state_dict(dict(ours.named_parameters()))
    return layer


_PLAIN = {
    Conv2d: _convolution(nn.Conv2d),
    ConvTranspose2d: _convolution(nn.ConvTranspose2d),
    LinearMap: _LinearMap,
    SNConv2d: lambda ours: spectral_norm(_convolution(nn.Conv2d)(ours)),
    SNLinear: lambda ours: spectral_norm(_linear(ours)),
}


def transform(images: Tensor, policy: Policy) -> Tensor:
    """T of (B, C, H, W) as CR's trainers write it: mirrored, then cut out of its padding with reflections."""
    batch, _, *sides = images.shape
    if policy.flip:
        images = torch.where((torch.rand(batch) < policy.flip)[:, None, None, None], images.flip(3), images)
    if policy.shift:
        down, across = (int(policy.shift * side) for side in sides)
        shifts = [torch.randint(-most, most + 1, (batch, 1)) for most in (down, across)]
        rows, columns = (
            torch.arange(side) + most - shift for side, most, shift in zip(sides, (down, across), shifts, strict=True)
        )
        padded = functional.pad(images, (across, across, down, down), mode="reflect").permute(0, 2, 3, 1)
        found = padded[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = found.permute(0, 3, 1, 2).contiguous()
    return images


def _moves(policy: Policy) -> Policy:
    """What `transform` does of a policy."""
    return Policy(flip=policy.flip, shift=policy.shift, border="reflect")


def _consistency(weight: float, policy: Policy, turn: Turn, images: Tensor, labels: Tensor | None, scores: Tensor) -> Tensor:
    return weight * functional.mse_loss(scores, turn.judge(transform(images, policy), labels))


def _cr(term: Consistency, turn: Turn) -> Tensor:
    return _consistency(term.weight, POLICIES[term.policy], turn, turn.real, turn.labels, turn.scores[0])


def _bcr(term: BalancedConsistency, turn: Turn) -> Tensor:
    real, fake = turn.scores
    sides = (term.real, turn.real, turn.labels, real), (term.fake, turn.fake.images, turn.fake.labels, fake)
    return sum(_consistency(weight, POLICIES[term.policy], turn, *side) for weight, *side in sides if weight)


def _zcr(term: LatentConsistency, turn: Turn) -> Tensor:
    with torch.no_grad():
        images = _close_by(turn, term.noise)
    return term.weight * functional.mse_loss(turn.scores[1], turn.judge(images, turn.fake.labels))


def _zcr_diversity(term: LatentDiversity, turn: Turn) -> Tensor:
    return -term.weight * functional.mse_loss(turn.fake.images, _close_by(turn, term.noise))


def _close_by(turn: Turn, noise: float) -> Tensor:
    return _ask(turn.round.generator, turn.fake.z + noise * torch.randn_like(turn.fake.z), turn.fake.labels)


def _r1(term: R1, turn: Turn) -> Tensor:
    return term.gamma / 2 * _slope(turn, turn.real.clone(), turn.labels).square().flatten(1).sum(1).mean()


def _r2(term: R2, turn: Turn) -> Tensor:
    return term.gamma / 2 * _slope(turn, turn.fake.images.clone(), turn.fake.labels).square().flatten(1).sum(1).mean()


def _wgan_gp(term: WganGP, turn: Turn) -> Tensor:
    share = torch.rand(len(turn.real), *[1] * (turn.real.dim() - 1))
    norm = _slope(turn, share * turn.real + (1 - share) * turn.fake.images, turn.labels).flatten(1).norm(dim=1)
    return term.weight * (norm - term.target).square().mean()


def _dragan(term: Dragan, turn: Turn) -> Tensor:
    if term.form == "normal":
        noise = term.scale * torch.randn_like(turn.real)
    else:
        share = torch.rand(len(turn.real), *[1] * (turn.real.dim() - 1))
        noise = share * term.scale * turn.real.std() * torch.rand_like(turn.real)
    norm = _slope(turn, turn.real + noise, turn.labels).flatten(1).norm(dim=1)
    return term.weight * (norm - term.target).square().mean()


def _lecam(term: LeCam, turn: Turn) -> Tensor:
    memory = turn.round.memory["lecam"]
    real, fake = turn.scores
    above, below = real - memory["fake"], memory["real"] - fake
    if term.one_sided:
        above, below = functional.relu(above), functional.relu(below)
    begun = memory["rounds"] > max(term.start - 1, 0)
    return term.weight * begun * (above.square().mean() + below.square().mean())


def _slope(turn: Turn, images: Tensor, labels: Tensor | None) -> Tensor:
    images.requires_grad_()
    return torch.autograd.grad(turn.judge(images, labels).sum(), images, create_graph=True)[0]


LOSSES: dict[type[Term], Callable[[Term, Turn], Tensor]] = {
    BalancedConsistency: _bcr,
    Consistency: _cr,
    Dragan: _dragan,
    LatentConsistency: _zcr,
    LatentDiversity: _zcr_diversity,
    LeCam: _lecam,
    R1: _r1,
    R2: _r2,
    WganGP: _wgan_gp,
}
_CONSISTENT = BalancedConsistency | Consistency | LatentConsistency | LatentDiversity


def _ask(network: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    return network(x) if labels is None else network(x, labels)


def _adam(network: nn.Module, settings: Adam) -> torch.optim.Adam:
    options = {"lr": settings.rate, "betas": settings.betas, "eps": settings.eps, "weight_decay": settings.weight_decay}
    return torch.optim.Adam(network.parameters(), **options)
