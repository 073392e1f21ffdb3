"""What the published runs of AdvLatGAN share (Li et al., NeurIPS 2022, and its code's configurations); tables a data set.

100k rounds of 128 images, one discriminator step each, twice as many latents for G; z of 100 coordinates; Adam at 2e-4 for
both, falling to 0 along a line. Every row of a table is a baseline and, under the name with -qua, the same with one refinement
step. The moving average that samples are drawn from is ours: it does not touch the training.

`msgan` and `div` make any configuration one with pairs of latents and the mode-seeking term, of weight 1 as published for the
conditional DCGAN (presets/cdcgan.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.terms import ModeSeeking, Term, WganGP

TRAINING = Training(steps=100_000, batch_size=128, n_dis=1, generator_batch=2)


@dataclass(frozen=True)
class Method:
    """A way to train, whatever the data."""

    title: str
    family: str
    objective: str
    betas: tuple[float, float]
    clip_weights: float | None = None
    terms: dict[str, Term] = field(default_factory=dict)


METHODS = {
    #                      title                 network      objective         betas       clip
    "dcgan":        Method("DCGAN",              "dcgan-cnn", "non-saturating", (0.5, 0.9)),
    "sngan-cnn":    Method("SNGAN",              "sn-cnn",    "hinge",          (0.0, 0.9)),
    "sngan-resnet": Method("SNGAN with ResNets", "sn-resnet", "hinge",          (0.0, 0.9)),
    "wgan":         Method("WGAN with clipping", "wgan-cnn",  "wasserstein",    (0.0, 0.9), 0.1),
    "wgan-gp":      Method("WGAN-GP",            "wgan-cnn",  "wasserstein",    (0.0, 0.9), None, {"wgan_gp": WganGP()}),
}  # fmt: skip


def runs(prefix: str, data: Data, table: Sequence[tuple[str, float, bool, float]]) -> tuple[Config, ...]:
    """A baseline and a -qua run for each row of (method, eps, flip, noise), named PREFIX-METHOD and PREFIX-METHOD-qua."""
    configs = []
    for name, step_size, flip, noise in table:
        method = METHODS[name]
        baseline = Config(
            name=f"{prefix}-{name}",
            description=method.title,
            objective=method.objective,
            data=replace(data, flip=flip, noise=noise),
            latent=Latent(dim=100),
            network=Network(family=method.family, width=64),
            terms=method.terms,
            generator=Adam(rate=2e-4, betas=method.betas),
            discriminator=Adam(rate=2e-4, betas=method.betas, clip_weights=method.clip_weights),
            training=TRAINING,
        )
        configs += [
            baseline,
            replace(
                baseline,
                name=f"{baseline.name}-qua",
                description=f"{method.title} + AdvLatGAN-qua",
                latent=Latent(dim=100, refine_steps=1, step_size=step_size),
            ),
        ]
    return tuple(configs)


def msgan(config: Config) -> Config:
    """The same with random pairs and the mode-seeking term, named after `config` with -msgan."""
    return _paired(config, "random", "msgan", "MSGAN")


def div(config: Config) -> Config:
    """The same with hard pairs and the mode-seeking term, named after `config` with -div."""
    return _paired(config, "hard", "div", "AdvLatGAN-div")


def _paired(config: Config, pair: Literal["random", "hard"], suffix: str, method: str) -> Config:
    return replace(
        config,
        name=f"{config.name}-{suffix}",
        description=f"{config.description} + {method}",
        latent=replace(config.latent, pair=pair),
        terms=config.terms | {"mode_seeking": ModeSeeking()},
    )
