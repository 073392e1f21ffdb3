"""The class-conditional DCGAN of MSGAN (Mao et al., CVPR 2019) and AdvLatGAN-div (Li et al., NeurIPS 2022) on CIFAR-10 and
STL-10: plain, with random pairs of latents, and with hard ones.

BCE, Adam at 2e-4 with betas (0.5, 0.999) and weight decay 1e-4, batches of 32, 200 epochs at 32x32, z of 100 coordinates.
STL-10's epochs are of its 5,000 labelled training images. The moving average that samples are drawn from is ours.
"""

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.presets.advlatgan import div, msgan

_BATCH, _EPOCHS = 32, 200


def _runs(source: str, images: int) -> tuple[Config, ...]:
    adam = Adam(rate=2e-4, betas=(0.5, 0.999), weight_decay=1e-4, schedule="constant")
    baseline = Config(
        name=f"{source}-cdcgan",
        description="conditional DCGAN",
        objective="non-saturating",
        data=Data(source=source, resolution=32),
        latent=Latent(dim=100),
        network=Network(family="dcgan-conditional", width=64, classes=10),
        generator=adam,
        discriminator=adam,
        training=Training(steps=images * _EPOCHS // _BATCH, batch_size=_BATCH),
    )
    return baseline, msgan(baseline), div(baseline)


CDCGAN = _runs("cifar10", 50_000) + _runs("stl10", 5_000)
