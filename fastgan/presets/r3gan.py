"""R3GAN (Huang, Gokaslan, Kuleshov, Tompkin, NeurIPS 2024) with the settings that its authors publish with their code
(github.com/brownvc/R3GAN, train.py and README), and three runs on embedded digits.

Published ones: relativistic objective, R1 and R2, Adam (0, 0.9) for both players, two blocks a stage, z of 64; over the burn-in
rates go from 2e-4 to 5e-5, beta2 from 0.9 to 0.99, gamma to a tenth, the average's half-life and the probability of
augmentation up from 0. How long they train is not published: here as long again as the burn-in. Their augmentation is ADA's
with geometry and cut-outs, ours (`augmentation.policy=ada`) has shifts, mirror images and colours.

Stacked digits are 8x8, as the digits are: some nine minutes of a core without company. Their baseline differs in the objective
and has no R2. Gamma ends at 0.3 there: at 0.1, after 96,000 images, D's loss had fallen to 0.28 and G's risen to 2.3.
"""

from dataclasses import replace

from fastgan.config import Adam, Augmentation, Config, Data, Latent, Network, Training
from fastgan.terms import R1, R2

# name, source, side, classes, width, group, widest, batch, gamma, burn-in, half-life, augmentation
_TABLE = (
    ("cifar10",    "cifar10",  32,   10,  768, 16, 32,  512,   0.05, 2e7, 5e6, 0.55),
    ("ffhq64",     "folder",   64,    0,  768, 16, 32,  256,   2.00, 2e7, 5e5, 0.30),
    ("ffhq256",    "folder",  256,    0,  768, 16, 32,  256, 150.00, 2e7, 5e5, 0.30),
    ("imagenet32", "folder",   32, 1000, 1536, 32, 32, 4096,   0.50, 2e8, 5e7, 0.50),
    ("imagenet64", "folder",   64, 1000, 1536, 32, 64, 4096,   1.00, 2e8, 5e7, 0.40),
)  # fmt: skip


def _annealed(gamma: float, end: float) -> dict[str, R1 | R2]:
    return {"r1": R1(gamma=gamma, gamma_end=end), "r2": R2(gamma=gamma, gamma_end=end)}


def _published(
    name: str,
    source: str,
    side: int,
    classes: int,
    width: int,
    group: int,
    widest: int,
    batch: int,
    gamma: float,
    burn_in: float,
    half_life: float,
    augmentation: float,
) -> Config:
    adam = Adam(rate=2e-4, rate_end=5e-5, betas=(0.0, 0.9), beta2_end=0.99, schedule="constant")
    return Config(
        name=f"{name}-r3gan",
        description=f"R3GAN, {side} px, batches of {batch}",
        objective="relativistic",
        data=Data(source=source, resolution=side, flip=True, filter="lanczos"),
        latent=Latent(dim=64),
        network=Network(family="r3gan", width=width, classes=classes, embedding=64, group=group, widest=widest),
        terms=_annealed(gamma, gamma / 10),
        augmentation=Augmentation(policy="ada", probability=0.0, probability_end=augmentation),
        generator=adam,
        discriminator=adam,
        training=Training(
            steps=round(2 * burn_in / batch),
            batch_size=batch,
            burn_in=burn_in,
            ema_half_life=0.0,
            ema_half_life_end=half_life,
            ema_rampup=None,
        ),
    )


_ADAM = Adam(rate=2e-3, rate_end=5e-4, betas=(0.0, 0.9), beta2_end=0.99, schedule="constant")
_STACKED = Config(
    name="stacked-digits-r3gan",
    description="R3GAN, 1,000 modes",
    objective="relativistic",
    data=Data(source="stacked-digits", resolution=8),
    latent=Latent(dim=64),
    network=Network(family="r3gan", width=64, depth=1),
    terms=_annealed(1.0, 0.3),
    generator=_ADAM,
    discriminator=_ADAM,
    training=Training(
        threads=1, steps=8000, batch_size=64, burn_in=384_000.0, ema_half_life=0.0, ema_half_life_end=10_000.0, ema_rampup=None
    ),
)

R3GAN = (
    *(_published(*row) for row in _TABLE),
    replace(
        _STACKED,
        name="digits-r3gan",
        description="R3GAN",
        data=Data(source="digits", resolution=16, channels=1),
        network=Network(family="r3gan", width=32, depth=1, group=8),
        training=replace(
            _STACKED.training, steps=1500, burn_in=64_000.0, ema_half_life_end=5000.0, sample_every=250, checkpoint_every=250
        ),
    ),
    _STACKED,
    replace(
        _STACKED,
        name="stacked-digits-r1",
        description="non-saturating + R1, 1,000 modes",
        objective="non-saturating",
        terms={"r1": _STACKED.terms["r1"]},
    ),
)
