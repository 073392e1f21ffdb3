import json
import re
from types import SimpleNamespace

import pytest
import torch

from bench import step
from bench.eager import LOSSES, Turn, eager_round, plain, transform
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.judgement import View, judge
from fastgan.kernels.augment import Transforms, augment
from fastgan.kernels.convolution import conv2d
from fastgan.networks import build
from fastgan.networks.layers import Conv2d, ConvTranspose2d, LinearMap, SNLinear, iterate_spectral_norms
from fastgan.policies import POLICIES
from fastgan.presets import preset
from fastgan.terms import TERMS, Imagined, Scene


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
        ({"terms__r2__gamma": 1}, 6, 10 + 3),
        ({"terms__dragan__every": 4}, 6, 10 + 4 / 4),
        ({"terms__lecam__weight": 1}, 6, 10),
        ({"terms__cr__weight": 10, "training__n_dis": 2}, 2 * 3 + 3, 2 * (8 + 3) + 2),
        ({"terms__cr__every": 2}, 6, 10 + 6 / 2),
        ({"terms__bcr__real": 10}, 6, 10 + 2 * 3),
        ({"terms__bcr__real": 0}, 6, 10 + 3),
        ({"terms__zcr__weight": 20}, 6 + 1, 10 + 3),
        ({"terms__zcr_diversity__weight": 0.5}, 6 + 3, 10),
        ({"terms__zcr_diversity__weight": 0.5, "training__generator_batch": 2}, 9 + 2 * 3, 12),
    ],
)
def test_needed_work_in_units_of_a_forward(fields, of_g, of_d):
    """What a config adds to one that asks for G and D once more each tells the units apart."""
    plain, more = step.needed_flop(tiny()), step.needed_flop(tiny(training__generator_batch=2))
    g = step._flop(build(tiny())[0], torch.randn(4, 8), None)
    d = (more - plain - 3 * g) / 2
    assert step.needed_flop(tiny(**fields)) == pytest.approx(of_g * g + of_d * d)


def test_the_work_of_a_round_of_icr():
    """D on five views, G without a graph twice; G on two views, through D once."""
    config = preset("digits-icr")
    generator, discriminator = step.flop_of_networks(config)
    assert step.needed_flop(config) == (2 + 2 * 3) * generator + (5 * 3 + 2) * discriminator


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
    "digits-icr-qua",
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


ICR = {"terms.bcr.policy": "flip-shift", "terms.zcr.weight": 20, "terms.zcr_diversity.weight": 0.5}


@pytest.mark.parametrize("name", [*FAMILIES, "emoji64-biggan", "emoji64-biggan-qua", "emoji64-biggan with ICR"])
def test_the_eager_round_steps_both_players(name):
    biggan = {"latent.refine_steps": int(name.endswith("qua"))} | (ICR if name.endswith("ICR") else {})
    eager = eager_round(small_biggan(**biggan) if name.startswith("emoji64") else small(name))
    before = [p.clone() for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    eager(step._real(eager.config), step._labels(eager.config))
    after = [p for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) / 2  # not every weight of a narrow network behind a ReLU
    assert all(p.isfinite().all() for p in after)
    if (bound := eager.config.discriminator.clip_weights) is not None:
        assert all(p.abs().max() <= bound for p in eager.discriminator.parameters())


def an_eager_turn():
    """A turn with images in float64, and its generator and discriminator, both the same function at each call."""
    eager = eager_round(small("digits-icr"))
    for network in (eager.generator, eager.discriminator):
        network.double().eval()  # spectral norms stand still
    real, z = torch.rand(4, 1, 32, 32, dtype=torch.float64) * 2 - 1, torch.randn(4, 8, dtype=torch.float64)
    return Turn(eager, real, None, Imagined(z, None, eager.generator(z).detach()))


@pytest.mark.parametrize(
    ("name", "settings", "views"),
    [
        ("r1", {"gamma": 3}, ["real"]),
        ("r2", {"gamma": 3}, ["fake"]),
        ("wgan_gp", {"weight": 7}, ["wgan_gp"]),
        ("dragan", {"weight": 7}, ["dragan"]),
        ("dragan", {"weight": 7, "form": "normal"}, ["dragan"]),
        ("lecam", {"weight": 2}, []),
        ("cr", {"weight": 5}, ["cr"]),
        ("bcr", {"real": 5, "fake": 3}, ["bcr_real", "bcr_fake"]),
        ("bcr", {"real": 0, "fake": 3}, ["bcr_fake"]),
        ("zcr", {"weight": 5}, ["zcr"]),
        ("zcr_diversity", {"weight": 5}, []),
    ],
)
def test_losses_of_the_eager_round_are_those_of_the_terms(name, settings, views):
    """On the images that the eager round shows D and the latents that it gives G; `views` is what the term calls the images."""
    term, turn = TERMS[name](**settings), an_eager_turn()
    generator, discriminator = turn.round.generator, turn.round.discriminator
    memory = {"real": torch.tensor(0.1), "fake": torch.tensor(-0.2), "rounds": torch.tensor(3.0)}
    turn.round.memory[name] = memory
    _ = turn.scores
    shown, given = [], []
    discriminator.register_forward_pre_hook(lambda module, images: shown.append(images[0]))
    generator.register_forward_pre_hook(lambda module, latents: given.append(latents[0]))
    found = LOSSES[type(term)](term, turn)

    judged = {"real": View(turn.real), "fake": View(turn.fake.images)}
    for there, images in zip(views, shown, strict=True):
        judged[there] = View(images.detach().requires_grad_(term.second_order), alone=term.second_order)
    draw = SimpleNamespace(normal=lambda *_: (given[0] - turn.fake.z) / term.noise)
    scene = Scene(turn.real, None, lambda: turn.fake, lambda z, labels: generator(z), draw, memory={name: memory})
    torch.testing.assert_close(found, term.loss(scene, judge(discriminator, judged)))
    assert found.abs() > 0
    if name.startswith("zcr"):
        assert draw.normal().std() == pytest.approx(1, abs=0.5)
    if name == "zcr":
        torch.testing.assert_close(shown[0], generator(given[0]))


@pytest.mark.parametrize("name", ["flip-shift", "shift"])
def test_images_are_transformed_as_the_kernel_does(name):
    images, policy = torch.randn(64, 3, 16, 8), POLICIES[name]
    torch.manual_seed(0)
    found = transform(images, policy)
    torch.manual_seed(0)
    flip = torch.rand(64) < policy.flip if policy.flip else None
    shift = torch.cat([torch.randint(-most, most + 1, (64, 1)) for most in (2, 1)], dim=1)
    torch.testing.assert_close(found, augment(images, Transforms(flip=flip, shift=shift), policy.border))
    assert shift.unique().tolist() == [-2, -1, 0, 1, 2]


def test_consistency_is_trained_with_a_frozen_opponent():
    """Nobody but the player whose turn it is gets gradients; without consistency both do, in G's turn."""
    for name, frozen in (("digits-icr", True), ("digits-sngan", False)):
        eager = eager_round(small(name))
        eager(step._real(eager.config), step._labels(eager.config))
        assert all((p.grad is None) == frozen for p in eager.discriminator.parameters())
        assert all(p.grad is not None for p in eager.generator.parameters())


def test_lazy_terms_step_their_player_by_themselves():
    fields = {"terms__cr__every": 2, "terms__zcr_diversity__every": 2, "terms__r1__every": 3}
    eager = eager_round(tiny(**fields))
    steps = dict.fromkeys(eager.optimisers, 0)
    for network, optimiser in eager.optimisers.items():
        optimiser.register_step_post_hook(lambda *_, network=network: steps.update({network: steps[network] + 1}))
    seen = []
    for _ in range(4):
        eager(step._real(eager.config), step._labels(eager.config))
        seen.append((steps[eager.discriminator], steps[eager.generator]))
    assert seen == [(2, 2), (3, 3), (5, 5), (7, 6)]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("terms.top_k.share=0.5", "no term top_k"),
        ("terms.wgan_gp.kind=max", r"no terms\.wgan_gp\.kind max"),
        ("terms.cr.policy=diffaugment", r"no terms\.cr\.policy diffaugment"),
        ("augmentation.policy=ada", r"no augmentation\.policy ada"),
        ("network.gradient_norm=gn", r"no network\.gradient_norm gn"),
    ],
)
def test_what_has_no_baseline_is_refused(field, message):
    with pytest.raises(UserError, match=message):
        step.measure(override(tiny(), [field]), turns=1, turn_seconds=0.1)


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


def test_a_worker_computes_with_the_threads_that_it_is_given():
    class Once:
        """The other end of a connection, which asks for a round and hangs up."""

        asked, send = ["round"], staticmethod(lambda answer: None)

        def recv(self):
            if not self.asked:
                raise EOFError
            return self.asked.pop()

    threads = set()
    for given in (torch.get_num_threads() + 1, 0):
        step._work(Once(), "eager", tiny(), 0.0, lambda config, kind: lambda: threads.add(torch.get_num_threads()), given)
        Once.asked = ["round"]
    assert threads == {torch.get_num_threads() + 1, torch.get_num_threads()}


def test_workers_are_given_the_threads_that_the_preset_trains_with(monkeypatch):
    given = []

    class Worker(step.Worker):
        def __init__(self, *args, threads):
            given.append(threads)
            super().__init__(*args, threads=threads)

    monkeypatch.setattr(step, "Worker", Worker)
    result = step.measure(override(tiny(), ["training.threads=1"]), turns=1, turn_seconds=0.01)
    assert (set(given), result["threads"]) == ({1}, 1)


def test_only_what_lies_in_no_convolution_counts_as_outside():
    """Nothing but a convolution: all of the time, but for what surrounds it."""
    x, w = torch.randn(8, 32, 64, 64), torch.randn(32, 32, 3, 3)
    assert step._outside_convolutions(lambda: conv2d(x, w, None, 1, 1), 0.1) < 0.3
    assert step._outside_convolutions(lambda: x + 1, 0.1) == 1


def test_pairs_of_latents_have_no_baseline():
    """They change what a round computes, with their term or without it."""
    with pytest.raises(UserError, match=r"no latent\.pair random"):
        step.measure(override(small("digits-cdcgan"), ["latent.pair=random"]), 1, 0.01)
