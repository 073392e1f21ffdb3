"""BigGAN (Brock, Donahue, Simonyan, ICLR 2019) on ImageNet, CIFAR-10 and a small folder, each with and without AdvLatGAN-qua,
the latter two with AdvLatGAN-div, and with consistency regularisation.

ImageNet: batches of 2048, hinge, two discriminator steps a round, Adam (0, 0.999) with eps 1e-6 at 5e-5 for G and 2e-4 for D,
200k rounds, z of 120 (128 px), averaged with 0.9999 a step: a half-life of 6,931 rounds of 4,096 images. CIFAR-10: settings
with which StudioGAN trains BigGAN (batches of 64, five discriminator steps, 2e-4 for both, z of 80). No eps is published
for refinement in BigGAN: 0.04, as for the SN networks of CIFAR-10; nor a weight for -div: 1, as for the conditional DCGAN.
`emoji64` is for a small folder of images in class folders.
"""

from dataclasses import replace

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.presets.advlatgan import div
from fastgan.presets.consistency import TITLES, consistent


def _imagenet(name: str, side: int, width: int, dim: int, attention: int, batch: int) -> Config:
    return Config(
        name=name,
        description=f"BigGAN, {side} px, batches of {batch}",
        objective="hinge",
        data=Data(source="folder", resolution=side, flip=True, filter="lanczos"),
        latent=Latent(dim=dim),
        network=Network(family="biggan", width=width, classes=1000, attention=(attention,)),
        generator=Adam(rate=5e-5, betas=(0.0, 0.999), eps=1e-6, schedule="constant"),
        discriminator=Adam(rate=2e-4, betas=(0.0, 0.999), eps=1e-6, schedule="constant"),
        training=Training(steps=200_000, batch_size=batch, n_dis=2, ema_half_life=6931.0 * 2 * batch),
    )


_IMAGENET128 = _imagenet("imagenet128-biggan-2048", 128, 96, 120, 64, 2048)

_CIFAR10 = Config(
    name="cifar10-biggan",
    description="BigGAN, 32 px",
    objective="hinge",
    data=Data(source="cifar10", resolution=32, flip=True),
    latent=Latent(dim=80),
    network=Network(family="biggan", width=96, classes=10, attention=(16,)),
    generator=Adam(rate=2e-4, betas=(0.5, 0.999), eps=1e-6, schedule="constant"),
    discriminator=Adam(rate=2e-4, betas=(0.5, 0.999), eps=1e-6, schedule="constant"),
    training=Training(steps=100_000, batch_size=64, n_dis=5, ema_half_life=6931.0 * 5 * 64),
)

_EMOJI64 = Config(
    name="emoji64-biggan",
    description="a narrow BigGAN for a small folder of 9 classes, 64 px",
    objective="hinge",
    data=Data(source="folder", resolution=64, flip=True),
    latent=Latent(dim=100),
    network=Network(family="biggan", width=16, classes=9, attention=(32,)),
    generator=Adam(rate=2e-4, betas=(0.0, 0.999), eps=1e-6, schedule="constant"),
    discriminator=Adam(rate=4e-4, betas=(0.0, 0.999), eps=1e-6, schedule="constant"),
    training=Training(steps=3000, batch_size=32, ema_half_life=5000.0, sample_every=250, checkpoint_every=250),
)


def _qua(config: Config) -> Config:
    return replace(
        config,
        name=f"{config.name}-qua",
        description=f"{config.description}, + AdvLatGAN-qua",
        latent=replace(config.latent, refine_steps=1, step_size=0.04),
    )


BIGGAN = (
    _imagenet("imagenet64", 64, 64, 120, 32, 2048),
    _IMAGENET128,
    _qua(_IMAGENET128),
    consistent(_IMAGENET128, "icr"),
    _imagenet("imagenet256", 256, 96, 140, 64, 2048),
    _CIFAR10,
    _qua(_CIFAR10),
    div(_CIFAR10),
    *(consistent(_CIFAR10, method) for method in TITLES),
    consistent(_CIFAR10, "icr", qua=0.04),
    _EMOJI64,
    _qua(_EMOJI64),
    div(_EMOJI64),
)
