"""A round as the published scripts write it, to measure against: plain eager PyTorch.

Written from the description of AdvLatGAN's training script, not from its text: `backward()` fills every `.grad`, in refinement
and in the generator's step too; real and generated images are judged in two passes; NCHW, fp32; torch's own layers, whose
spectral norm iterates in every forward. BigGAN's trainers are better at it: the player whose turn it is not takes no gradient,
and D judges real and generated images in one pass.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from bench import eager_biggan
from fastgan.checked import UserError
from fastgan.config import Adam, Config
from fastgan.networks import build
from fastgan.networks.layers import Conv2d, ConvTranspose2d, LinearMap, SNConv2d, SNLinear
from fastgan.objectives import OBJECTIVES
from fastgan.terms import R1, Term, WganGP


def check_written(config: Config) -> None:
    """Raise UserError if `config` has networks, pairs or a term that nobody wrote down here."""
    if config.network.family in _UNWRITTEN:
        raise UserError(f"the eager baseline has no network.family {config.network.family}")
    if config.latent.pair != "none":
        raise UserError(f"the eager baseline has no latent.pair {config.latent.pair}")
    if unknown := [name for name, term in config.terms.items() if type(term) not in PENALTIES]:
        raise UserError(f"the eager baseline has no term {', '.join(unknown)}")


def eager_round(config: Config) -> "EagerRound":
    """One round of `config`, which `check_written` has passed, as those who published its networks train them."""
    return (EagerBigGANRound if config.network.family == "biggan" else EagerRound)(config)


class EagerRound:
    """One round of `config`, AdvLatGAN-qua included."""

    def __init__(self, config: Config) -> None:
        self.config, self.objective = config, OBJECTIVES[config.objective]
        self.generator, self.discriminator = self._networks()
        self.optimisers = {
            network: _adam(network, settings)
            for network, settings in ((self.generator, config.generator), (self.discriminator, config.discriminator))
        }
        self.rounds = 0
        self._fake: tuple[Tensor, Tensor | None]

    def __call__(self, real: Tensor, real_labels: Tensor) -> None:
        """D, n_dis times; lazy terms; G."""
        labels = real_labels if self.config.network.classes else None
        terms = self.config.terms.values()
        self._turn(self.discriminator)
        for turn in range(self.config.training.n_dis):
            if not (self.config.latent.reuse and turn):
                self._fake = self._imagine(len(real))
            self._discriminate(real, labels, [term for term in terms if term.every == 1])
        if lazy := [term for term in terms if term.every > 1 and self.rounds % term.every == 0]:
            self._step(self.discriminator, sum(term.every * self._penalty(term, real, labels) for term in lazy))
        self._turn(self.generator)
        z, labels = self._latents(self.config.training.generator_batch * len(real))
        loss = self.objective.per_score(_ask(self.discriminator, _ask(self.generator, z, labels), labels)).mean()
        self._step(self.generator, loss)
        self.rounds += 1

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        generator, discriminator = map(plain, build(self.config))
        return generator, discriminator

    def _turn(self, network: nn.Module) -> None:
        """The turn of `network` begins: nobody is frozen for it."""

    def _scores(self, real: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        return _ask(self.discriminator, real, labels), _ask(self.discriminator, *self._fake)

    def _discriminate(self, real: Tensor, labels: Tensor | None, terms: list[Term]) -> None:
        loss = self.objective.discriminator(*self._scores(real, labels))
        for term in terms:
            loss = loss + self._penalty(term, real, labels)
        self._step(self.discriminator, loss)

    def _penalty(self, term: Term, real: Tensor, labels: Tensor | None) -> Tensor:
        return PENALTIES[type(term)](term, self.discriminator, real, labels, self._fake[0])

    def _imagine(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Images of refined latents, and their labels."""
        z, labels = self._latents(count)
        for _ in range(self.config.latent.refine_steps):
            self._clear()
            z = z.detach().requires_grad_()
            self.objective.per_score(_ask(self.discriminator, _ask(self.generator, z, labels), labels)).mean().backward()
            z = z - self.config.latent.step_size * z.grad.sign()
        with torch.no_grad():
            return _ask(self.generator, z, labels), labels

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
        self.average = deepcopy(self.generator.state_dict())

    def __call__(self, real: Tensor, real_labels: Tensor) -> None:
        super().__call__(real, real_labels)
        with torch.no_grad():
            for name, value in self.generator.state_dict().items():
                self.average[name].copy_(self.average[name] * _DECAY + value * (1 - _DECAY))

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        return eager_biggan.pair(self.config)

    def _turn(self, network: nn.Module) -> None:
        for player in (self.generator, self.discriminator):
            player.requires_grad_(player is network)

    def _scores(self, real: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        fake, fake_labels = self._fake
        both = None if labels is None else torch.cat([labels, fake_labels])
        real_scores, fake_scores = _ask(self.discriminator, torch.cat([real, fake]), both).split([len(real), len(fake)])
        return real_scores, fake_scores


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


def _r1(term: R1, discriminator: nn.Module, real: Tensor, labels: Tensor | None, fake: Tensor) -> Tensor:
    return term.gamma / 2 * _slope(discriminator, real.clone(), labels).square().flatten(1).sum(1).mean()


def _wgan_gp(term: WganGP, discriminator: nn.Module, real: Tensor, labels: Tensor | None, fake: Tensor) -> Tensor:
    share = torch.rand(len(real), *[1] * (real.dim() - 1))
    norm = _slope(discriminator, share * real + (1 - share) * fake, labels).flatten(1).norm(dim=1)
    return term.weight * (norm - term.target).square().mean()


def _slope(discriminator: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    images.requires_grad_()
    return torch.autograd.grad(_ask(discriminator, images, labels).sum(), images, create_graph=True)[0]


PENALTIES = {R1: _r1, WganGP: _wgan_gp}


def _ask(network: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    return network(x) if labels is None else network(x, labels)


def _adam(network: nn.Module, settings: Adam) -> torch.optim.Adam:
    options = {"lr": settings.rate, "betas": settings.betas, "eps": settings.eps, "weight_decay": settings.weight_decay}
    return torch.optim.Adam(network.parameters(), **options)
