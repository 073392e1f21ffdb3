"""Consistency regularisation on top of any configuration (`consistent`), and the unconditional networks of its papers.

Weights: 10 for images (CR, Zhang et al., ICLR 2020; bCR), noise 0.05 with 20 in D and 0.5 in G for latents, as StudioGAN's
CIFAR-10 BigGAN has them; Zhao et al. (AAAI 2021) tune them by data set, which `--set terms.zcr.weight=5` and the like do.

`SNDCGAN` are the SN "cnn" pair of CIFAR-10 and of CelebA faces at 128 px with the non-saturating loss, batches of 64, Adam at
2e-4 with betas (0.5, 0.999), one discriminator step a round.
"""

from dataclasses import replace
from typing import Literal

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.policies import PolicyName
from fastgan.terms import BalancedConsistency, Consistency, LatentConsistency, LatentDiversity

Method = Literal["cr", "bcr", "zcr", "icr"]
TITLES = {"cr": "CR", "bcr": "bCR", "zcr": "zCR", "icr": "ICR"}


def consistent(
    config: Config, method: Method, name: str | None = None, policy: PolicyName = "flip-shift", qua: float = 0.0
) -> Config:
    """The same with consistency regularisation.

    Args:
        method: CR (real images), bCR (and generated ones), zCR (latents), ICR (bCR and zCR).
        name: of the configuration; that of `config` with -METHOD, and -qua where it is on.
        policy: T, of `fastgan.policies`.
        qua: eps of one step of refinement; 0 for none.
    """
    terms = dict(config.terms)
    if method == "cr":
        terms["cr"] = Consistency(policy=policy)
    if method in ("bcr", "icr"):
        terms["bcr"] = BalancedConsistency(policy=policy)
    if method in ("zcr", "icr"):
        terms |= {"zcr": LatentConsistency(), "zcr_diversity": LatentDiversity()}
    return replace(
        config,
        name=(name or f"{config.name}-{method}") + ("-qua" if qua else ""),
        description=f"{config.description} + {TITLES[method]}" + (" + AdvLatGAN-qua" if qua else ""),
        latent=replace(config.latent, refine_steps=1, step_size=qua) if qua else config.latent,
        terms=terms,
    )


def _sndcgan(name: str, data: Data, steps: int) -> tuple[Config, ...]:
    adam = Adam(rate=2e-4, betas=(0.5, 0.999), schedule="constant")
    baseline = Config(
        name=name,
        description="SNDCGAN",
        objective="non-saturating",
        data=data,
        latent=Latent(dim=128),
        network=Network(family="sn-cnn", width=64),
        generator=adam,
        discriminator=adam,
        training=Training(steps=steps, batch_size=64),
    )
    return baseline, *(consistent(baseline, method) for method in TITLES), consistent(baseline, "icr", qua=0.04)


SNDCGAN = (
    *_sndcgan("cifar10-sndcgan", Data(source="cifar10", resolution=32, flip=True), 200_000),
    *_sndcgan("celeba128-sndcgan", Data(source="folder", resolution=128, flip=True), 100_000),
)
