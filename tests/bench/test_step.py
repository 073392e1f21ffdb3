import json
import re

import pytest
import torch

from bench import step
from bench.eager import PENALTIES, eager_round, plain
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.judgement import View, judge
from fastgan.kernels.convolution import conv2d
from fastgan.networks import build
from fastgan.networks.layers import Conv2d, ConvTranspose2d, LinearMap, SNLinear, iterate_spectral_norms
from fastgan.presets import preset
from fastgan.terms import R1, Imagined, Scene, WganGP


def tiny(**fields):
    settings = ("data.resolution=16", "data.channels=1", "network.width=2", "latent.dim=8", "training.batch_size=4")
    return override(preset("digits-sngan-qua"), [*settings, *(f"{name.replace('__', '.')}={v}" for name, v in fields.items())])


@pytest.mark.parametrize(("steps", "multiple", "of_g", "of_d"), [(0, 1, 4, 8), (1, 1, 6, 10), (1, 2, 9, 12), (3, 2, 13, 16)])
def test_needed_work_counted_by_hand(steps, multiple, of_g, of_d):
    config = tiny(latent__refine_steps=steps, training__generator_batch=multiple)
    # two operations for each product: outputs x inputs of a linear layer; a transposed convolution works at its input's places
    generator = 2 * 4 * (8 * 16 * 4 + 4 * 16 * 8 * 16 + 16 * 8 * 4 * 16 + 64 * 4 * 2 * 16 + 256 * 2 * 1 * 9)
    convolutions = 256 * 1 * 2 * 9 + 64 * 2 * 2 * 16 + 64 * 2 * 4 * 9 + 16 * 4 * 4 * 16 + 16 * 4 * 8 * 9 + 4 * 8 * 8 * 16
    discriminator = 2 * 4 * (convolutions + 4 * 8 * 16 * 9 + 64)
    assert step.needed_flop(config) == of_g * generator + of_d * discriminator


@pytest.mark.parametrize(
    ("fields", "of_g", "of_d"),
    [
        ({"training__n_dis": 5}, 5 * 3 + 3, 5 * 8 + 2),
        ({"training__n_dis": 5, "latent__reuse": True}, 3 + 3, 2 + 5 * 6 + 2),
        ({"terms__r1__gamma": 1}, 6, 10 + 3),
        ({"terms__r1__gamma": 1, "terms__r1__every": 16}, 6, 10 + 4 / 16),
        ({"terms__wgan_gp__weight": 10, "training__n_dis": 5}, 5 * 3 + 3, 5 * (8 + 4) + 2),
    ],
)
def test_needed_work_in_units_of_a_forward(fields, of_g, of_d):
    """What a config adds to one that asks for G and D once more each tells the units apart."""
    plain, more = step.needed_flop(tiny()), step.needed_flop(tiny(training__generator_batch=2))
    g = step._flop(build(tiny())[0], torch.randn(4, 8), None)
    d = (more - plain - 3 * g) / 2
    assert step.needed_flop(tiny(**fields)) == pytest.approx(of_g * g + of_d * d)


def small(name):
    """`name` with networks and batches of a test's size."""
    config = override(preset(name), ["network.width=8", "training.batch_size=4", "training.device=cpu"])
    return override(config, ["latent.dim=8"]) if config.network.family != "mlp" else config


FAMILIES = [
    "cifar10-dcgan-qua",
    "cifar10-sngan-cnn-qua",
    "cifar10-sngan-resnet-qua",
    "cifar10-wgan-qua",
    "cifar10-wgan-gp-qua",
    "digits-cdcgan-qua",
    "digits-r1-qua",
    "grid25-qua",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_networks_are_ours_in_torchs_own_layers(name):
    """The same function of the same parameters; D's spectral vectors start elsewhere, so its weights are scaled otherwise."""
    config = small(name)
    ours, theirs = build(config), [plain(network) for network in build(config)]
    own = (Conv2d, ConvTranspose2d, LinearMap, SNLinear)
    assert not any(isinstance(module, own) for network in theirs for module in network.modules())
    assert all(p.is_contiguous() for network in theirs for p in network.parameters())
    labels = (step._labels(config),) if config.network.classes else ()
    z = torch.randn(4, config.latent.dim)
    torch.testing.assert_close(theirs[0](z, *labels), ours[0](z, *labels))
    images = step._real(config)
    scores = [network(images, *labels) for network in (theirs[1], ours[1])]
    if not any(isinstance(module, SNLinear) for module in ours[1].modules()):
        torch.testing.assert_close(*scores)
    assert sum(p.numel() for p in theirs[1].parameters()) == sum(p.numel() for p in ours[1].parameters())


def small_biggan(**fields):
    settings = {
        "data.resolution": 32,
        "network.width": 8,
        "network.attention": "[16]",
        "network.embedding": 5,
        "latent.dim": 12,
    }
    settings |= {"training.batch_size": 4, "training.device": "cpu"} | fields
    return override(preset("emoji64-biggan-qua"), [f"{name}={value}" for name, value in settings.items()])


@pytest.mark.parametrize(("side", "classes"), [(32, 9), (64, 0)])
def test_plain_biggan_is_the_same_function_of_the_same_parameters(side, classes):
    config = small_biggan(**{"data.resolution": side, "network.classes": classes, "latent.dim": 20})
    ours, theirs = build(config), eager_round(config)
    labels = (step._labels(config),) if classes else ()
    given = [(torch.randn(4, config.latent.dim), *labels), (step._real(config), *labels)]
    for mine, other, inputs in zip(ours, (theirs.generator, theirs.discriminator), given, strict=True):
        found = {name.removesuffix("_orig"): parameter for name, parameter in other.named_parameters()}
        expected = {re.sub(r"(stages\.\d+)\.0", r"\1", name): parameter for name, parameter in mine.named_parameters()}
        assert found.keys() == expected.keys()
        assert sum(p.numel() for p in found.values()) == sum(p.numel() for p in expected.values())
        with torch.no_grad():
            for name, parameter in expected.items():
                if name.endswith(("gamma", "bias")):
                    parameter.normal_()  # both are 0 at the start, which would hide the attention
                if mine is ours[0] and name.startswith("linear."):
                    parameter = parameter.unflatten(0, mine.linear.map).movedim(2, 0).flatten(0, 2)
                found[name].copy_(parameter)
            iterate_spectral_norms(mine, 200)  # until both have the same singular vectors
            for part in other.modules():
                for hook in 200 * list(part._forward_pre_hooks.values()):
                    hook(part, ())
        torch.testing.assert_close(other(*inputs), mine(*inputs), rtol=1e-3, atol=1e-3)


def test_the_eager_biggan_round_freezes_the_opponent():
    """Besides refinement's gradient towards D, which is D's own, nobody but the player whose turn it is gets gradients."""
    eager = eager_round(small_biggan(**{"latent.refine_steps": 2}))
    seen = []
    for network, optimiser in eager.optimisers.items():
        optimiser.register_step_pre_hook(
            lambda *_, network=network: seen.append(
                [(player is network, all((p.grad is not None) == (player is network) for p in player.parameters()))
                 for player in eager.optimisers]
            )
        )  # fmt: skip
    eager(step._real(eager.config), step._labels(eager.config))
    assert [fine for step_ in seen for _, fine in step_] == [True] * 4
    assert [[mine for mine, _ in step_] for step_ in seen] == [[False, True], [True, False]]
    assert not torch.equal(eager.average["image.weight_orig"], eager.generator.state_dict()["image.weight_orig"])


def test_a_family_without_a_baseline_is_refused():
    with pytest.raises(UserError, match=r"no network\.family biggan-deep"):
        step.measure(small_biggan(**{"network.family": "biggan-deep"}), turns=1, turn_seconds=0.1)


@pytest.mark.parametrize("name", [*FAMILIES, "emoji64-biggan", "emoji64-biggan-qua"])
def test_the_eager_round_steps_both_players(name):
    biggan = {"latent.refine_steps": int(name.endswith("qua"))}
    eager = eager_round(small_biggan(**biggan) if name.startswith("emoji64") else small(name))
    before = [p.clone() for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    eager(step._real(eager.config), step._labels(eager.config))
    after = [p for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) / 2  # not every weight of a narrow network behind a ReLU
    assert all(p.isfinite().all() for p in after)
    if (bound := eager.config.discriminator.clip_weights) is not None:
        assert all(p.abs().max() <= bound for p in eager.discriminator.parameters())


def test_penalties_of_the_eager_round_are_those_of_the_terms():
    config = tiny()
    discriminator = build(config)[1].double()
    real, fake = torch.rand(2, 4, 1, 16, 16, dtype=torch.float64)
    scene = Scene(real, None, lambda: Imagined(real, None, real), None, None)
    term = R1(gamma=3)
    views = term.views(scene)
    expected = term.loss(scene, judge(discriminator, views))
    torch.testing.assert_close(PENALTIES[R1](term, discriminator, real, None, fake), expected)
    term = WganGP(weight=7)
    torch.manual_seed(0)
    share = torch.rand(4, 1, 1, 1)
    view = View((share * real + (1 - share) * fake).requires_grad_(), alone=True)
    expected = term.loss(scene, judge(discriminator, {"wgan_gp": view}))
    torch.manual_seed(0)
    torch.testing.assert_close(PENALTIES[WganGP](term, discriminator, real, None, fake), expected)


def test_a_term_without_a_baseline_is_refused(monkeypatch):
    monkeypatch.delitem(PENALTIES, R1)
    with pytest.raises(UserError, match="no term r1"):
        step.measure(tiny(terms__r1__gamma=1), turns=1, turn_seconds=0.1)


def test_a_measurement_is_written_and_drawn(tmp_path):
    result = step.measure(tiny(), turns=1, turn_seconds=0.1)
    step.draw(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    found = json.loads(json.dumps(result))
    assert set(found["seconds"]) == {"eager", "fp32", "bf16"}
    assert found["speedup"]["fp32"] == pytest.approx(found["seconds"]["eager"] / found["seconds"]["fp32"])
    assert found["share_of_product_rate"]["bf16"] > 0
    assert all(0 < share < 1 for share in found["share_outside_convolutions"].values())
    assert all(peak > 100 for peak in found["peak_mib"].values())


def test_networks_that_can_recompute_are_measured_so_too():
    assert step.kinds_of(tiny()) == step.kinds_of(small_biggan(**{"network.recompute": "true"})) == ("eager", "fp32", "bf16")
    config = small_biggan(**{"latent.refine_steps": 0})
    assert step.kinds_of(config) == ("eager", "fp32", "bf16", "recomputed")
    for kind in ("bf16", "recomputed"):
        run = step._round(config, kind)
        with torch.profiler.profile() as profiler:
            run()
        forwards = sum(event.name == "aten::native_batch_norm" for event in profiler.events())
        norms = 7  # of G, whose forward runs in either player's turn; its last norm is in no stage
        assert forwards == 2 * norms + (norms - 1 if kind == "recomputed" else 0)


def test_the_peak_of_tensors_is_the_most_at_one_time():
    def run():
        for _ in range(3):
            torch.ones(2**20).add(1)  # two of 4 MiB, then none

    assert step._tensors_peak(run) == pytest.approx(8, abs=0.1)


def test_recomputed_activations_lower_the_peak():
    config = small_biggan(**{"latent.refine_steps": 0, "training.batch_size": 16})
    kept, recomputed = (step._tensors_peak(step._round(config, kind)) for kind in ("bf16", "recomputed"))
    assert recomputed < 0.8 * kept


def test_the_preset_may_come_first():
    assert step.arguments(["grid25", "--turns", "1"]) == ["--preset", "grid25", "--turns", "1"]
    assert step.arguments(["--turns", "1"]) == ["--turns", "1"]
    assert step.arguments([]) == []


def test_a_worker_that_ends_is_named_not_waited_for():
    with step.Worker("eager", tiny(), 0.1) as worker:
        assert worker.ask("round") > 0
        worker._process.terminate()
        with pytest.raises(RuntimeError, match="has ended"):
            worker.ask("round")


def test_only_what_lies_in_no_convolution_counts_as_outside():
    """Nothing but a convolution: all of the time, but for what surrounds it."""
    x, w = torch.randn(8, 32, 64, 64), torch.randn(32, 32, 3, 3)
    assert step._outside_convolutions(lambda: conv2d(x, w, None, 1, 1), 0.1) < 0.3
    assert step._outside_convolutions(lambda: x + 1, 0.1) == 1


def test_pairs_of_latents_have_no_baseline():
    """They change what a round computes, with their term or without it."""
    with pytest.raises(UserError, match=r"no latent\.pair random"):
        step.measure(override(small("digits-cdcgan"), ["latent.pair=random"]), 1, 0.01)
