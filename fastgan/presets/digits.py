"""Real handwritten digits, embedded in scikit-learn: minutes on a laptop's processor.

Networks: the SN "cnn" pair with 16 base channels at 32x32. With so few images D learns them by heart long before G can
draw them, so G's rate is 8 times D's: FD-digits after 1,200 rounds of the default was 0.9, where G 2e-4 and D 4e-4 gave 15.
A second pair of networks, narrow ResNets, takes twice as long a round. The cdcgan runs are class-conditional, with the
optimisers of AdvLatGAN-div. Consistency regularisation shifts digits and does not mirror them.
"""

from dataclasses import replace

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.presets.advlatgan import div, msgan
from fastgan.presets.consistency import consistent
from fastgan.terms import R1

_DATA = Data(source="digits", resolution=32, channels=1, noise=1 / 128)
# One thread: on two idle cores a second one gains a third, but where anything else runs, threads that share such small work
# wait for each other most of the time: 15 images/s were seen where one thread made 300.
_TRAINING = Training(threads=1, steps=1200, batch_size=64, log_every=20, sample_every=200, checkpoint_every=200)

# name, method, objective, terms, K, eps
_TABLE = (
    ("digits-sngan",     "SNGAN",                    "hinge",          {},                  0, 0.00),
    ("digits-sngan-qua", "SNGAN + AdvLatGAN-qua",    "hinge",          {},                  1, 0.04),
    ("digits-r1",        "non-saturating + R1",      "non-saturating", {"r1": R1(gamma=1)}, 0, 0.00),
    ("digits-r1-qua",    "the same + AdvLatGAN-qua", "non-saturating", {"r1": R1(gamma=1)}, 1, 0.04),
    ("digits-wgan-qua",  "SN-WGAN + AdvLatGAN-qua",  "wasserstein",    {},                  1, 0.04),
    ("digits-lsgan-qua", "SN-LSGAN + AdvLatGAN-qua", "least-squares",  {},                  1, 0.04),
)  # fmt: skip

_CONDITIONAL_ADAM = Adam(rate=2e-4, betas=(0.5, 0.999), weight_decay=1e-4, schedule="constant")
_CONDITIONAL = Config(
    name="digits-cdcgan",
    description="conditional DCGAN",
    objective="non-saturating",
    data=_DATA,
    latent=Latent(dim=64),
    network=Network(family="dcgan-conditional", width=16, classes=10),
    generator=_CONDITIONAL_ADAM,
    discriminator=_CONDITIONAL_ADAM,
    training=_TRAINING,
)

_RESNET = Config(
    name="digits-resnet",
    description="SNGAN with ResNets",
    objective="hinge",
    data=_DATA,
    latent=Latent(dim=64),
    network=Network(family="sn-resnet", width=8),
    generator=Adam(rate=8e-4, betas=(0.5, 0.9)),
    discriminator=Adam(rate=2e-4, betas=(0.5, 0.9)),
    training=_TRAINING,
)

_CNN = tuple(
    Config(
        name=name,
        description=method,
        objective=objective,
        data=_DATA,
        latent=Latent(dim=64, refine_steps=steps, step_size=step_size),
        network=Network(family="sn-cnn", width=16),
        terms=terms,
        generator=Adam(rate=16e-4, betas=(0.5, 0.9)),
        discriminator=Adam(rate=2e-4, betas=(0.5, 0.9)),
        training=_TRAINING,
    )
    for name, method, objective, terms, steps, step_size in _TABLE
)

DIGITS = (
    *_CNN,
    *(consistent(_CNN[0], method, f"digits-{method}", policy="shift") for method in ("cr", "bcr", "zcr", "icr")),
    consistent(_CNN[0], "icr", "digits-icr", policy="shift", qua=0.04),
    _RESNET,
    replace(
        _RESNET,
        name="digits-resnet-qua",
        description="SNGAN with ResNets + AdvLatGAN-qua",
        latent=Latent(dim=64, refine_steps=1, step_size=0.04),
    ),
    _CONDITIONAL,
    replace(
        _CONDITIONAL,
        name="digits-cdcgan-qua",
        description="conditional DCGAN + AdvLatGAN-qua",
        latent=Latent(dim=64, refine_steps=1, step_size=0.03),
    ),
    msgan(_CONDITIONAL),
    div(_CONDITIONAL),
)
