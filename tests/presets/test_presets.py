"""Every preset can be played, and the published ones say what was published."""

import dataclasses

import numpy as np
import pytest
import torch

from fastgan.config import Adam, override
from fastgan.data import DISTRIBUTIONS
from fastgan.networks import build as build_networks
from fastgan.networks.biggan import GENERATOR, STYLES
from fastgan.objectives import OBJECTIVES
from fastgan.presets import PRESETS, preset
from fastgan.terms import R1, R2, ModeSeeking
from fastgan.training.loop import build_session, open_source


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Random images of one side as an `arrays` source, with ten classes."""
    folder = tmp_path_factory.mktemp("images")

    def make(side, channels):
        path = folder / f"{side}-{channels}.npz"
        numbers = np.random.default_rng(0)
        np.savez(path, images=numbers.integers(0, 256, (20, side, side, channels), dtype=np.uint8), labels=np.arange(20) % 10)
        return path

    return make


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_two_rounds(name, images):
    data = preset(name).data
    width = {"mlp": 16, "style-content": 8}.get(preset(name).network.family, 2)  # narrow ones may be dead from the start
    settings = [
        f"network.width={width}",
        "training.batch_size=8",
        "training.steps=2",
        "training.precision=fp32",
    ]
    if preset(name).game == "adversarial":
        settings.append("latent.dim=8")
    if preset(name).network.family in STYLES:  # z is cut into chunks; large maps take their time
        settings += [f"latent.dim={2 * len(GENERATOR[data.resolution])}", "network.classes=10", "training.batch_size=2"]
    if preset(name).network.family == "r3gan":  # maps halve
        classes = min(preset(name).network.classes, 10)
        settings += ["network.width=8", "network.depth=1", f"network.classes={classes}", "training.batch_size=2"]
    if data.source not in DISTRIBUTIONS:
        settings += ["data.source=arrays", f"data.path={images(data.resolution, data.channels)}"]
    config = override(preset(name), settings)
    session = build_session(config, open_source(config))
    before = {key: tensor.clone() for key, tensor in session.game.state_dict().items()}
    for _ in range(2):
        session.play_round()
    session.stream.close()
    assert session.is_finite()
    still = {key for key, tensor in session.game.named_parameters() if (tensor == before[key]).all()}
    if not OBJECTIVES[config.objective].refines:  # of features: D's head, 2 tensors, is of no use
        assert still <= {key for key in before if key.startswith("discriminator.network.main.6.")}
    else:  # some losses are the same whatever is added to all scores, hinge's to small ones
        shifts = {"discriminator.linear.bias", "discriminator.main.6.bias"}
        assert still <= (shifts if config.objective in SHIFTED else set())


SHIFTED = {"hinge", "wasserstein", "softmax", "relativistic", "relativistic-average", "gan-qp", "c-transform"}


def test_every_objective_has_a_preset_on_the_grid():
    presets = {config.objective for config in PRESETS.values() if config.name.startswith("grid25-")}
    assert presets == set(OBJECTIVES)  # softplus is grid25-qua's name for it


EPS = {
    "cifar10": {"dcgan": 0.03, "sngan-cnn": 0.04, "sngan-resnet": 0.04, "wgan": 0.01, "wgan-gp": 0.015},
    "stl10": {"dcgan": 0.04, "sngan-cnn": 0.05, "sngan-resnet": 0.05, "wgan": 0.02, "wgan-gp": 0.015},
    "celeba": {"sngan-cnn": 0.05, "wgan-gp": 0.02},
    "lsun": {"sngan-cnn": 0.05, "wgan-gp": 0.05},
}
PUBLISHED = [(data, method) for data, methods in EPS.items() for method in methods]


@pytest.mark.parametrize(("data", "method"), PUBLISHED)
def test_the_published_settings(data, method):
    """The AdvLatGAN paper's table, and its code's configurations."""
    plain, qua = preset(f"{data}-{method}"), preset(f"{data}-{method}-qua")
    assert plain.latent.refine_steps == 0
    assert (qua.latent.refine_steps, qua.latent.step_size, qua.latent.direction) == (1, EPS[data][method], "sign")
    same = {"name": "same", "description": "", "latent": plain.latent}
    assert dataclasses.replace(plain, **same) == dataclasses.replace(qua, **same)

    training = plain.training
    assert (training.steps, training.batch_size, training.n_dis, training.generator_batch) == (100_000, 128, 1, 2)
    assert (plain.latent.dim, plain.network.width, plain.network.classes, plain.data.channels) == (100, 64, 0, 3)
    sides = {"cifar10": ("cifar10", 32), "stl10": ("stl10", 48), "celeba": ("folder", 64), "lsun": ("folder", 64)}
    assert (plain.data.source, plain.data.resolution, plain.data.path) == (*sides[data], None)
    noisy = "sngan" in method or data in ("celeba", "lsun")
    assert (plain.data.noise, plain.data.flip) == ((1 / 128, False) if noisy else (0, True))

    betas = (0.5, 0.9) if method == "dcgan" else (0.0, 0.9)
    adam = Adam(rate=2e-4, betas=betas, schedule="linear")
    assert plain.generator == adam
    assert plain.discriminator == dataclasses.replace(adam, clip_weights=0.1 if method == "wgan" else None)
    objectives = {"dcgan": "non-saturating", "sngan-cnn": "hinge", "sngan-resnet": "hinge"}
    assert plain.objective == objectives.get(method, "wasserstein")
    assert {name: (t.weight, t.target, t.every) for name, t in plain.terms.items()} == (
        {"wgan_gp": (10, 1, 1)} if method == "wgan-gp" else {}
    )
    families = {"dcgan": "dcgan-cnn", "sngan-cnn": "sn-cnn", "sngan-resnet": "sn-resnet"}
    assert plain.network.family == families.get(method, "wgan-cnn")


def test_no_published_preset_is_left_out():
    names = {f"{data}-{method}{qua}" for data, method in PUBLISHED for qua in ("", "-qua")}
    others = ("biggan", "cdcgan", "r3gan", "sndcgan")
    assert {name for name in PRESETS if name.split("-")[0] in EPS and name.split("-")[1] not in others} == names


@pytest.mark.parametrize(("data", "epoch"), [("cifar10", 50_000), ("stl10", 5_000)])
def test_the_published_settings_of_div(data, epoch):
    """AdvLatGAN-div's, and the baselines that it is compared with."""
    plain = preset(f"{data}-cdcgan")
    adam = Adam(rate=2e-4, betas=(0.5, 0.999), weight_decay=1e-4, schedule="constant")
    assert plain.generator == plain.discriminator == adam
    assert (plain.objective, plain.network.family, plain.network.width) == ("non-saturating", "dcgan-conditional", 64)
    assert (plain.data.source, plain.data.resolution, plain.network.classes, plain.latent.dim) == (data, 32, 10, 100)
    training = plain.training
    assert (training.steps * 32 / epoch, training.batch_size, training.n_dis, training.generator_batch) == (200, 32, 1, 1)
    assert (plain.latent.pair, plain.terms, plain.latent.refine_steps) == ("none", {}, 0)


PAIRED = [
    *((f"{data}-cdcgan", method) for data in ("cifar10", "stl10", "digits") for method in ("msgan", "div")),
    *((f"{data}-biggan", "div") for data in ("cifar10", "emoji64")),
]


@pytest.mark.parametrize(("base", "method"), PAIRED)
def test_a_run_with_pairs_is_the_same_run_with_the_term(base, method):
    plain, paired = preset(base), preset(f"{base}-{method}")
    latent = paired.latent
    assert latent.pair == {"msgan": "random", "div": "hard"}[method]
    assert (latent.pair_distance, latent.pair_steps, latent.pair_step_size) == (0.08, 3, 0.004)
    assert paired.terms == {"mode_seeking": ModeSeeking(weight=1.0)}
    same = {"name": "same", "description": "", "latent": plain.latent, "terms": plain.terms}
    assert dataclasses.replace(paired, **same) == dataclasses.replace(plain, **same)


def test_no_run_with_pairs_is_left_out():
    assert {name for name, config in PRESETS.items() if config.latent.pair != "none"} == {f"{b}-{m}" for b, m in PAIRED}


@pytest.mark.parametrize(
    ("name", "side", "classes", "batch", "gamma", "burn_in", "half_life", "augmentation", "of_g", "of_d"),
    [
        ("cifar10", 32, 10, 512, 0.05, 2e7, 5e6, 0.55, 20_781_952, 21_280_512),
        ("ffhq64", 64, 0, 256, 2, 2e7, 5e5, 0.3, 22_429_824, 22_381_440),
        ("ffhq256", 256, 0, 256, 150, 2e7, 5e5, 0.3, 23_057_952, 23_009_568),
        ("imagenet32", 32, 1000, 4096, 0.5, 2e8, 5e7, 0.5, 82_914_304, 86_548_992),
        ("imagenet64", 64, 1000, 4096, 1, 2e8, 5e7, 0.4, 103_570_432, 107_205_120),
    ],
)
def test_the_published_settings_of_r3gan(name, side, classes, batch, gamma, burn_in, half_life, augmentation, of_g, of_d):
    """Of its authors' train.py and README; parameters as their networks have."""
    config = preset(f"{name}-r3gan")
    adam = Adam(rate=2e-4, rate_end=5e-5, betas=(0.0, 0.9), beta2_end=0.99, eps=1e-8, schedule="constant")
    assert config.generator == config.discriminator == adam
    assert (config.objective, config.latent.dim, config.data.resolution, config.data.flip) == ("relativistic", 64, side, True)
    assert config.terms == {name: term(gamma=gamma, gamma_end=gamma / 10) for name, term in (("r1", R1), ("r2", R2))}
    training = config.training
    assert (training.batch_size, training.burn_in, training.n_dis, training.generator_batch) == (batch, burn_in, 1, 1)
    assert (training.ema_half_life, training.ema_half_life_end, training.ema_rampup) == (0, half_life, None)
    assert (config.augmentation.probability, config.augmentation.probability_end) == (0, augmentation)
    assert config.network.classes == classes
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in network.parameters()) for network in build_networks(config)]
    assert sizes == [of_g, of_d]


def test_the_baseline_of_stacked_digits_has_the_same_networks_and_budget():
    r3gan, baseline = preset("stacked-digits-r3gan"), preset("stacked-digits-r1")
    assert (baseline.objective, set(baseline.terms)) == ("non-saturating", {"r1"})
    assert set(r3gan.terms) == {"r1", "r2"}
    same = {"name": "same", "description": "", "objective": r3gan.objective, "terms": r3gan.terms}
    assert dataclasses.replace(r3gan, **same) == dataclasses.replace(baseline, **same)
