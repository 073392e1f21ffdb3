"""Points in the plane: minutes on a laptop's processor, and a picture on which every mode and every stray sample is seen.

The MLP pair of AdvLatGAN's 25-Gaussian grid: three hidden layers of 256, latent 2, softplus objective, 0.05 |grad D|^2 on real
points (R1 with gamma 0.1), 12,000 steps of 256. Rates were tried for a good-sample rate of about 70 % before refinement.
Beside it other forms of optimisation (docs/optimisation.md): two time scales, both players at once, three generators, entropy.
"""

from dataclasses import replace

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.terms import R1, Entropy

_TRAINING = Training(
    steps=12_000, batch_size=256, precision="fp32", log_every=200, sample_every=2000, checkpoint_every=2000,
)  # fmt: skip

_ADAM = Adam(rate=8e-5, betas=(0.5, 0.999), schedule="linear")

# name, source, method, K, eps
_TABLE = (
    ("grid25",     "grid25",     "MLP, softplus + R1",       0, 0.00),
    ("grid25-qua", "grid25",     "the same + AdvLatGAN-qua", 1, 0.01),
    ("ring8",      "ring8",      "MLP, softplus + R1",       0, 0.00),
    ("ring8-qua",  "ring8",      "the same + AdvLatGAN-qua", 1, 0.01),
    ("swiss-roll", "swiss-roll", "MLP, softplus + R1",       0, 0.00),
)  # fmt: skip

_TOYS = tuple(
    Config(
        name=name,
        description=method,
        objective="softplus",
        data=Data(source=source),
        latent=Latent(dim=2, refine_steps=steps, step_size=step_size),
        network=Network(family="mlp", width=256),
        terms={"r1": R1(gamma=0.1)},
        generator=_ADAM,
        discriminator=_ADAM,
        training=_TRAINING,
    )
    for name, source, method, steps, step_size in _TABLE
)

_GRID = _TOYS[0]

# name, method, what is other than in grid25
_FORMS = (
    ("grid25-ttur",     "two time scales: D's rate four times G's", {"discriminator": replace(_ADAM, rate=3.2e-4)}),
    ("grid25-merged",   "both players at once",                     {"training": replace(_TRAINING, merged=True)}),
    ("grid25-ensemble", "three generators",                         {"latent": Latent(dim=3), "network": replace(_GRID.network, ensemble=3)}),  # noqa: E501
    ("grid25-entropy",  "G's entropy",                              {"terms": _GRID.terms | {"entropy": Entropy(weight=0.05)}}),
)  # fmt: skip

TOYS = (*_TOYS, *(replace(_GRID, name=name, description=f"the same + {method}", **other) for name, method, other in _FORMS))
