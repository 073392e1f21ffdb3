"""A small folder of images at 64x64 (data.path) with the SN "cnn" pair, narrow: an hour on a laptop's processor.

G's rate is above D's, as for digits; consistency regularisation with mirrored and shifted images.
"""

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.presets.consistency import TITLES, consistent

_BASELINE = Config(
    name="emoji64-sngan",
    description="SNGAN",
    objective="hinge",
    data=Data(source="folder", resolution=64, flip=True),
    latent=Latent(dim=64),
    network=Network(family="sn-cnn", width=16),
    generator=Adam(rate=8e-4, betas=(0.5, 0.9)),
    discriminator=Adam(rate=2e-4, betas=(0.5, 0.9)),
    training=Training(steps=3000, batch_size=64, sample_every=250, checkpoint_every=250),
)

EMOJI64 = (
    _BASELINE,
    *(consistent(_BASELINE, method, f"emoji64-{method}") for method in TITLES),
    consistent(_BASELINE, "icr", "emoji64-icr", qua=0.04),
)
