"""What a plan counts, against real rounds on the CPU and against work that was derived by hand."""

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bench import step
from fastgan import games
from fastgan.config import override
from fastgan.engine import LocalEngine
from fastgan.planning.rehearsal import batch_shape
from fastgan.planning.work import Work
from fastgan.presets import preset
from fastgan.training.session import Session

CASES = {
    "cifar10-sngan-cnn-qua": ((1, 2, 3), "network.width=8"),
    "cifar10-wgan-gp-qua": ((1,), "network.width=8"),
    "cifar10-biggan-qua": ((2,), "network.width=8", "training.n_dis=1", "terms.r1.gamma=1", "terms.r1.every=4"),
}
"""Preset -> micro-batches of a turn, fields."""
BATCH = 12  # none that is rehearsed
_aten = torch.ops.aten


class Counter(TorchDispatchMode):
    """Work by its definition: two operations for each product of a weight and a number that it meets."""

    flop = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        packet = function._overloadpacket
        if packet is _aten.convolution:
            x, weight, transposed = args[0], args[1], args[6]
            small = x if transposed else result
            self.flop += 2 * len(x) * small[0, 0].numel() * weight.numel()
        elif packet is _aten.convolution_backward:
            dy, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
            small = x if transposed else dy
            self.flop += sum(wanted[:2]) * 2 * len(x) * small[0, 0].numel() * weight.numel()
        elif packet in (_aten.mm, _aten.bmm):
            self.flop += 2 * args[0].numel() * args[1].shape[-1]
        elif packet is _aten.addmm:
            self.flop += 2 * args[1].numel() * args[2].shape[-1]
        return result


class Batches:
    def __init__(self, config):
        self.shape = batch_shape(config, BATCH)

    def __next__(self):
        images = torch.rand(self.shape).contiguous(memory_format=torch.channels_last)
        return {"images": images, "labels": torch.zeros(BATCH, dtype=torch.int64)}

    def state_dict(self):
        return {}


def played(config, accumulate):
    """A session on the CPU before a round in which every lazy phase takes part, its optimisers' moments made."""
    settings = {"generator": config.generator, "discriminator": config.discriminator}
    session = Session(
        games.build(config).train(),
        lambda game, player: LocalEngine(game.networks_of(player), settings[player], "fp32", game.main_share(player)),
        lambda stage: Batches(config),
        batch_size=BATCH * accumulate,
        accumulate=accumulate,
    )
    session.play_round()
    session.round = 0
    return session


def allocator_peak(session):
    """Bytes above those held before, at the fullest moment of a round, by torch's profiler."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        session.play_round()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("name", CASES)
def test_work_and_memory_are_those_of_a_real_round(name):
    accumulates, *fields = CASES[name]
    config = override(preset(name), [*fields, "training.device=cpu"])
    work = Work(config, "fp32", on_gpu=False)
    for accumulate in accumulates:
        session = played(config, accumulate)
        with Counter() as counter:
            session.play_round()
        every = {phase.name: phase.every for phase in work.game.phases()}
        counts = work.flops(BATCH, accumulate)
        planned = sum(count * every.get(phase, 1) for (phase, _), count in counts.items())  # the lazy ones were played
        assert planned == pytest.approx(counter.flop, rel=0.02)
        session.round = 0
        assert max(work.peaks(BATCH, accumulate).values()) == pytest.approx(allocator_peak(session), rel=0.2)


@pytest.mark.parametrize("name", ["digits-sngan-qua", "digits-icr", "cifar10-biggan-qua"])
def test_work_on_a_gpu_is_what_the_benchmark_derives(name):
    """From forwards of the networks alone, by a formula that tests/bench/test_step.py holds to numbers computed by hand."""
    config = override(preset(name), ["training.batch_size=32", "training.n_dis=1", "network.width=16"])
    work = Work(config, "bf16")
    assert work.total("flops", 32) == pytest.approx(step.needed_flop(config), rel=0.02)
    assert work.total("flops", 8, 4) == pytest.approx(work.total("flops", 32), rel=1e-9)
    refined = {"refine"} if config.latent.refine_steps else set()
    assert set(part for _, part in work.flops(32)) >= {"generate", "forward", "backward"} | refined
    peaks, larger = work.peaks(8, 2), work.peaks(9, 2)
    assert all(peaks[player] < larger[player] for player in peaks)
    assert max(work.peaks(32, 1).values()) > max(work.peaks(16, 2).values())
    game = games.build(config)
    sizes = {name: sum(p.numel() for p in getattr(game, name).parameters()) for name in ("generator", "discriminator")}
    assert work.networks == sizes
    weights, average = 4 * sum(sizes.values()), 4 * sizes["generator"]
    assert weights * 3 + average < work.at_rest < 1.1 * (weights * 3 + average)


def test_half_precision_keeps_less():
    config = override(preset("digits-sngan-qua"), ["terms.r1.gamma=1"])
    half, full = Work(config, "bf16"), Work(config, "fp32")
    assert half.total("flops", 64) == pytest.approx(full.total("flops", 64), rel=1e-6)
    assert half.total("bytes", 64) < 0.85 * full.total("bytes", 64)
    assert max(half.peaks(64).values()) < 0.8 * max(full.peaks(64).values())
    assert half.total("kernel_bytes", 64) > 0
    assert ("D", "terms") in half.flops(64)
