"""GAIA: two autoencoders against each other, and a set of codes made convex.

Sainburg, Thielk, Gentner, "Generative adversarial interpolative autoencoding: adversarial training on latent space
interpolations encourages convex latent distributions" (2018). D is to draw real images again well and generated ones badly; G
is to draw images, and mixtures of its codes of two images, that D draws again well. With

    e_real = |x - D(x)|    e_rec = |x - D(G(x))|    e_int = |G(z_int) - D(G(z_int))|    e_fake = (e_int + e_rec) / 2

means over batch and pixels in [0, 1], the published code's losses are

    L_D = clip( e_real - p_fake e_fake )                              p_fake = clip( sigmoid( b (e_int / 2 - e_real) ), 0, 0.9 )
    L_G = clip( p_int e_int + (1 - p_int) e_rec + alpha L_dist )      p_int = sigmoid( b (e_int - e_rec) )

and the paper's plain ones e_real - (e_rec + e_int) and e_rec + e_int + alpha L_dist. Of the learning rate D has the share
sigmoid( b (e_real - e_fake) ), G the rest. Both step at once, on losses of the same networks.

A round, in passes: G's encoder once and its decoder twice, through D, frozen, and back; then D on those images and the real
ones, and back. Ranks that share a batch exchange codes and errors: it is mixed, and judged, as one process would do it.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fastgan.config import Gaia
from fastgan.draw import Draw
from fastgan.games.game import Batch, Game, Phase, Statistics
from fastgan.latent.mixing import mix, mixing_weights
from fastgan.latent.structure import structure_loss


class Errors(NamedTuple):
    """Mean absolute errors of what D draws again, scalars, in [0, 1]."""

    reconstructed: Tensor
    """e_rec."""
    mixed: Tensor
    """e_int."""
    real: Tensor | None = None
    """e_real, where D looked at real images."""

    @property
    def fake(self) -> Tensor:
        """e_fake."""
        return (self.mixed + self.reconstructed) / 2


class GaiaGame(Game):
    """Two players, each an autoencoder: `encode(images)` -> a tuple of tensors, content first, `decode(code)` -> images in
    [-1, 1], and `network(images)`, both in one."""

    players: ClassVar = {"discriminator": ("discriminator",), "generator": ("generator",)}

    def __init__(self, generator: nn.Module, discriminator: nn.Module, settings: Gaia) -> None:
        super().__init__()
        self.generator, self.discriminator, self.settings = generator, discriminator, settings
        self._drawn: dict[int, Tensor] = {}

    def phases(self) -> Sequence[Phase]:
        """G, whose images D is shown; both step after D's."""
        return (
            Phase("G", "generator", self.generator_loss, waits=True),
            Phase("D", "discriminator", self.discriminator_loss, fresh=False),
        )

    def generator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """G's phase: reconstructions and mixtures, through a frozen D."""
        real, settings = batch["images"], self.settings
        code = self.generator.encode(real)
        generated = self.generator.decode(self._with_mixtures(code, draw))
        self._drawn[draw.part] = generated.detach()
        errors = self._errors(real, generated, self.discriminator(generated))
        structure = structure_loss(self.gather(real), self.gather(code[0])) if settings.structure else real.new_zeros(())
        loss, share = generator_loss(errors, structure, settings)
        statistics = {"loss": loss, "structure": structure, "share_mixed": share}
        return loss, {name: value.detach() for name, value in statistics.items()}

    def discriminator_loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """D's phase: real images, and those that G's phase has drawn."""
        real, generated = batch["images"], self._drawn.pop(draw.part)
        errors = self._errors(real, generated, self.discriminator(torch.cat([real, generated])))
        loss, weight = discriminator_loss(errors, self.settings)
        statistics = {"loss": loss, "weight_fake": weight, "error_real": errors.real, "error_fake": errors.fake}
        statistics |= {"error_reconstructed": errors.reconstructed, "error_mixed": errors.mixed}
        return loss, {name: value.detach() for name, value in statistics.items()}

    def paces(self, statistics: Mapping[str, Statistics]) -> Mapping[str, Tensor]:
        """The balance of rates, by the errors of the step's own networks."""
        if not self.settings.balanced_rates or "D" not in statistics:
            return {}
        share = rate_share(statistics["D"]["error_real"], statistics["D"]["error_fake"], self.settings)
        return {"discriminator": share, "generator": 1 - share}

    def _with_mixtures(self, code: tuple[Tensor, ...], draw: Draw) -> tuple[Tensor, ...]:
        """A code of twice the batch: the images' own, and behind them mixtures, of all of its parts in the same shares."""
        parts = [self.pool(part) for part in code]
        settings = self.settings
        weights = mixing_weights(draw, len(parts[0]), settings.mixtures, settings.mix_mean, settings.mix_deviation)
        both = [torch.cat([own, mix(weights, part)]) for own, part in zip(code, parts, strict=True)]
        return type(code)(*both) if hasattr(code, "_fields") else tuple(both)

    def _errors(self, real: Tensor, generated: Tensor, redrawn: Tensor) -> Errors:
        """Of D's drawings of (real images,) G's reconstructions and mixtures; of the whole batch."""
        reconstructions, mixtures = generated.chunk(2)
        compared = real if self.settings.compared == "image" else reconstructions
        pairs = [(compared, redrawn[-2 * len(real) : -len(real)]), (mixtures, redrawn[-len(real) :])]
        if len(redrawn) == 3 * len(real):
            pairs.append((real, redrawn[: len(real)]))
        return Errors(*(self._mean(absolute_error(*pair)) for pair in pairs))

    def _mean(self, error: Tensor) -> Tensor:
        return error if self.over_ranks is None else self.over_ranks(error)


def generator_loss(errors: Errors, structure: Tensor, settings: Gaia) -> tuple[Tensor, Tensor]:
    """L_G, and p_int, the share of the mixtures in it (1/2 where losses are not balanced)."""
    if not settings.balanced:
        return errors.reconstructed + errors.mixed + settings.structure * structure, structure.new_full((), 0.5)
    share = _balance(errors.mixed - errors.reconstructed, settings)
    loss = share * errors.mixed + (1 - share) * errors.reconstructed + settings.structure * structure
    return loss.clamp(-settings.bound, settings.bound), share


def discriminator_loss(errors: Errors, settings: Gaia) -> tuple[Tensor, Tensor]:
    """L_D, and p_fake, the weight of generated images in it."""
    if not settings.balanced:
        return errors.real - (errors.reconstructed + errors.mixed), torch.ones_like(errors.real)
    weight = _balance(settings.tolerated * errors.mixed - errors.real, settings).clamp(0, settings.most_fake)
    return (errors.real - weight * errors.fake).clamp(-settings.bound, settings.bound), weight


def rate_share(real: Tensor, fake: Tensor, settings: Gaia) -> Tensor:
    """D's share of the learning rate, by e_real and e_fake."""
    return torch.sigmoid(settings.slope * (real - fake))


def absolute_error(x: Tensor, y: Tensor) -> Tensor:
    """The mean absolute difference of pixels in [0, 1], for images in [-1, 1]; in float32 or better."""
    precise = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return (x.to(precise) - y.to(precise)).abs().mean() / 2


def _balance(difference: Tensor, settings: Gaia) -> Tensor:
    share = torch.sigmoid(settings.slope * difference)
    return share.detach() if settings.detached else share
