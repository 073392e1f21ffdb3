"""What is trained: generators and discriminators, one file a family, and the layers they share."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.networks import biggan, dcgan, dcgan_conditional, mlp, r3gan, resnet, sn_cnn, style_content, wgan
from fastgan.networks.ensemble import Ensemble
from fastgan.networks.gradient_normalised import GradientNormalised
from fastgan.networks.with_features import WithFeatures
from fastgan.objectives import OBJECTIVES

FAMILIES: dict[str, Callable[[Config], tuple[nn.Module, nn.Module]]] = {
    "sn-cnn": sn_cnn.pair,
    "sn-resnet": resnet.sn_pair,
    "dcgan-cnn": dcgan.pair,
    "dcgan-conditional": dcgan_conditional.pair,
    "wgan-cnn": wgan.pair,
    "wgan-resnet": resnet.wgan_pair,
    "mlp": mlp.pair,
    **{name: partial(biggan.pair, name) for name in biggan.STYLES},
    "r3gan": r3gan.pair,
    "style-content": style_content.pair,
}
CONDITIONAL = {"dcgan-conditional", *biggan.STYLES, "r3gan"}
"""Families whose networks take labels; BigGAN's kin and R3GAN do without too."""


def build(config: Config) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of `config`, initialised from its seed alone, channels-last, on the CPU.

    The global random state is left as it was.

    Raises:
        UserError: the family has no networks for this side or for classes, or no features for the objective.
    """
    family, classes = config.network.family, config.network.classes
    if classes and family not in CONDITIONAL:
        known = ", ".join(sorted(CONDITIONAL))
        raise UserError(f"network.family {family} takes no classes, but network.classes is {classes}; these do: {known}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed CUDA's generators too
        try:
            generator, discriminator = _pair(config)
            if "features" in OBJECTIVES[config.objective].needs:
                discriminator = WithFeatures(discriminator)
        except ValueError as error:
            raise UserError(f"network.family {family}: {error}") from None
    if config.network.gradient_norm != "none":
        discriminator = GradientNormalised(discriminator, config.network.gradient_norm)
    return tuple(network.to(memory_format=torch.channels_last) for network in (generator, discriminator))


def _pair(config: Config) -> tuple[nn.Module, nn.Module]:
    """As the family makes them; of an ensemble every member has initial weights of its own."""
    make, count = FAMILIES[config.network.family], config.network.ensemble
    if count == 1:
        return make(config)
    one = replace(config, latent=replace(config.latent, dim=config.latent.dim - 1), network=replace(config.network, ensemble=1))
    (generator, discriminator), *others = (make(one) for _ in range(count))
    members = [generator, *(other for other, _ in others)]
    return Ensemble(members, config.latent.prior, config.latent.truncation), discriminator
