"""GAIA's two autoencoders, and its generator alone by the error of its pixels, to compare with.

The published run (gaia-celeba128) has batches of 8, TensorFlow's Adam, and takes days on a GPU. Digits and emoji have narrower
networks, smaller codes and higher rates; alpha stays that of the published rate.
"""

from dataclasses import replace

from fastgan.config import Adam, Config, Data, Gaia, Network, Training

_ADAM = Adam(rate=1e-4, betas=(0.9, 0.999), schedule="constant")


def _alone(gaia: Config, name: str) -> Config:
    """The same generator, trained by the error of its pixels; half the rate, which is what G has in a balanced game."""
    adam = replace(gaia.generator, rate=gaia.generator.rate / 2)
    return replace(
        gaia, name=name, description="autoencoder, L1", game="autoencoder", generator=adam, gaia=Gaia(), discriminator=Adam()
    )


# With betas[0] of 0.9 and rates of 1e-3 G and D lost each other within 60 rounds (docs/gaia.md).
_DIGITS_ADAM = replace(_ADAM, rate=5e-4, betas=(0.5, 0.999))
_DIGITS = Config(
    name="gaia-digits",
    description="GAIA",
    game="gaia",
    data=Data(source="digits", resolution=16, channels=1),
    network=Network(family="style-content", width=16, content=32, style=8, blocks=2),
    generator=_DIGITS_ADAM,
    discriminator=_DIGITS_ADAM,
    training=Training(threads=1, steps=800, batch_size=64, log_every=20, sample_every=200, checkpoint_every=200),
)
_EMOJI = Config(
    name="gaia-emoji64",
    description="GAIA",
    game="gaia",
    data=Data(source="folder", resolution=64, flip=True),
    network=Network(family="style-content", width=16, content=256, style=32),
    generator=replace(_ADAM, rate=5e-4),
    discriminator=replace(_ADAM, rate=5e-4),
    training=Training(steps=3000, batch_size=32, sample_every=250, checkpoint_every=250),
)
_CELEBA = Config(
    name="gaia-celeba128",
    description="GAIA",
    game="gaia",
    data=Data(source="folder", resolution=128),
    network=Network(family="style-content", width=64, content=512, style=512),
    generator=_ADAM,
    discriminator=_ADAM,
    training=Training(steps=500_000, batch_size=8, ema_half_life=0, sample_every=5000, checkpoint_every=5000),
)

GAIA = (_DIGITS, _alone(_DIGITS, "digits-autoencoder"), _EMOJI, _alone(_EMOJI, "emoji64-autoencoder"), _CELEBA)
