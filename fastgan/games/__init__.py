"""What is optimised: the players, their order of play, the loss of each."""

from torch import nn

from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.games.adversarial import AdversarialGame
from fastgan.games.augmentation import Augmentation
from fastgan.games.autoencoder import AutoencoderGame
from fastgan.games.gaia import GaiaGame
from fastgan.games.game import Game, Phase
from fastgan.judgement import holds_batch_statistics
from fastgan.latent import Pairing, Prior, Refinement
from fastgan.networks import build as build_networks
from fastgan.networks.attention import allow_second_order
from fastgan.objectives import chosen

__all__ = ["AdversarialGame", "AutoencoderGame", "GaiaGame", "Game", "Phase", "build"]


def build(config: Config) -> Game:
    """The game of `config`, its networks initialised from the seed."""
    generator, discriminator = build_networks(config)
    if config.game == "gaia":
        return GaiaGame(generator, discriminator, config.gaia)
    if config.game == "autoencoder":
        return AutoencoderGame(generator)
    return _adversarial(config, generator, discriminator)


def _adversarial(config: Config, generator: nn.Module, discriminator: nn.Module) -> AdversarialGame:
    normalised, twice = config.network.gradient_norm != "none", [n for n, t in config.terms.items() if t.second_order]
    if normalised or twice:
        allow_second_order(discriminator)
    if normalised and twice and holds_batch_statistics(discriminator.train()):
        raise UserError(
            f"{twice[0]} and network.gradient_norm together differentiate three times: a discriminator with batch norm can't"
        )
    objective = chosen(config.objective, config.objective_options)
    images = config.training.batch_size * config.training.n_dis
    return AdversarialGame(
        generator,
        discriminator,
        prior=Prior.of(config.latent),
        objective=objective,
        refinement=Refinement(config.latent, objective),
        pairing=None if config.latent.pair == "none" else Pairing(config.latent),
        terms=config.terms,
        augmentation=None
        if config.augmentation.policy == "none"
        else Augmentation(config.augmentation, images, config.burnt_in),
        n_dis=config.training.n_dis,
        generator_batch=config.training.generator_batch,
        reuse_latents=config.latent.reuse,
        merged=config.training.merged,
        classes=config.network.classes,
        burnt_in=config.burnt_in,
    )
