"""One preset for every objective: 25 Gaussians on a grid, at one small budget of seconds on a laptop's processor.

The MLP pair, three hidden layers of 128, 1,500 rounds of 128. What keeps D in bounds is what the objective's paper has, and R1
with gamma 0.1, as in the preset grid25, where that has nothing or spectral normalisation; with gamma 0.03 for hinge, and with
gamma 1 where a loss grows exponentially or with the square of a score. docs/objectives.md says what they come to.
"""

from typing import Any

from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.terms import R1, R2, WganGP

_WEAK, _R1, _STRONG = {"r1": R1(gamma=0.03)}, {"r1": R1(gamma=0.1)}, {"r1": R1(gamma=1.0)}
_SLOPE, _POWER = {"wgan_gp": WganGP(weight=0.1)}, {"wgan_gp": WganGP(weight=2, kind="power")}

# name, objective, its options, terms, settings of D's Adam, n_dis
_TABLE: tuple[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any], int], ...] = (
    ("hinge",                 "hinge",                 {},                      _WEAK, {}, 1),
    ("non-saturating",        "non-saturating",        {},                      _R1, {}, 1),
    ("minimax",               "minimax",               {},                      _R1, {}, 1),
    ("wgan",                  "wasserstein",           {},                      {}, {"clip_weights": 0.1}, 5),
    ("wgan-gp",               "wasserstein",           {},                      _SLOPE, {}, 3),
    ("wgan-div",              "wasserstein",           {},                      _POWER, {}, 3),
    ("least-squares",         "least-squares",         {},                      _R1, {}, 1),
    ("boundary-seeking",      "boundary-seeking",      {},                      _R1, {}, 1),
    ("f-gan-kl",              "f-gan-kl",              {"alternative": True},   _STRONG, {}, 1),
    ("f-gan-reverse-kl",      "f-gan-reverse-kl",      {},                      _STRONG, {}, 1),
    ("f-gan-js",              "f-gan-js",              {},                      _R1, {}, 1),
    ("f-gan-pearson",         "f-gan-pearson",         {"alternative": True},   _STRONG, {}, 1),
    ("f-gan-hellinger",       "f-gan-hellinger",       {},                      _STRONG, {}, 1),
    ("f-gan-total-variation", "f-gan-total-variation", {},                      _R1, {}, 1),
    ("f-gan-alpha",           "f-gan-alpha",           {},                      _STRONG, {}, 1),
    ("softmax",               "softmax",               {},                      _R1, {}, 1),
    ("relativistic",          "relativistic",          {},                      _R1, {}, 1),
    ("relativistic-r1-r2",    "relativistic",          {},                      _R1 | {"r2": R2(gamma=0.1)}, {}, 1),
    ("relativistic-average",  "relativistic-average",  {},                      _R1, {}, 1),
    ("gan-qp",                "gan-qp",                {},                      {}, {}, 2),
    ("designed-dual",         "designed-dual",         {},                      _R1, {}, 1),
    ("c-transform",           "c-transform",           {},                      {}, {}, 1),
    ("mcgan",                 "mcgan",                 {},                      {}, {"clip_weights": 0.05, "rate": 1e-4}, 1),
    ("mmd",                   "mmd",                   {},                      {}, {"clip_weights": 0.1}, 1),
    ("mmd-gaussian",          "mmd",                   {"kernel": "gaussian"},  {}, {"clip_weights": 0.1}, 1),
    ("fisher-ratio",          "fisher-ratio",          {},                      {}, {}, 1),
    ("fisher",                "fisher",                {"rho": 0.01},           {}, {}, 2),
)  # fmt: skip

_ADAM = {"rate": 1e-3, "betas": (0.5, 0.999), "schedule": "linear"}

GRID25_OBJECTIVES = tuple(
    Config(
        name=f"grid25-{name}",
        description="one of every objective, on a small budget",
        objective=objective,
        objective_options=options,
        data=Data(source="grid25"),
        latent=Latent(dim=2),
        network=Network(family="mlp", width=128),
        terms=terms,
        generator=Adam(**_ADAM),
        discriminator=Adam(**_ADAM | bounds),
        training=Training(
            steps=1500,
            batch_size=128,
            n_dis=n_dis,
            precision="fp32",
            log_every=100,
            sample_every=0,
            checkpoint_every=1500,
        ),
    )
    for name, objective, options, terms, bounds, n_dis in _TABLE
)
