import json
from copy import copy
from dataclasses import replace

import pytest

from fastgan.checked import UserError
from fastgan.config import Engine, override
from fastgan.engine.deepspeed import users
from fastgan.planning import estimate
from fastgan.planning.estimate import Machine
from fastgan.planning.gpus import GPUS
from fastgan.planning.work import Work
from fastgan.presets import preset

H100 = Machine(GPUS["h100"], "bf16", decode_rate=1e6)


@pytest.fixture(scope="module")
def work():
    return Work(override(preset("digits-r1-qua"), ["training.batch_size=1024"]), "bf16")


def test_a_sum_over_ranks_takes_a_ring_s_time():
    assert H100.all_reduce(1e9, 1) == 0
    inside = 2 * 7 / 8 * 1e9 / (0.8 * 450e9)
    assert H100.all_reduce(1e9, 8) == pytest.approx(inside + 2 * 3 * 5e-6)
    between = replace(H100, network=100e9)
    assert between.all_reduce(1e9, 16, times=3) == pytest.approx(2 * 15 / 16 * 1e9 / (0.8 * 100e9) + 3 * 2 * 4 * 5e-6)
    assert between.all_reduce(1e9, 8) == H100.all_reduce(1e9, 8)


def test_what_zero_divides(work):
    sizes = {name: 4 * player.parameters for name, player in work.players.items()}
    both, larger = sum(sizes.values()), max(sizes.values())
    plain, *divided = (estimate.held(work, zero, 4) for zero in range(4))
    assert (plain.weights, plain.copies, plain.moments) == (both, 0, 2 * both)
    assert (plain.gradients, plain.buffers, plain.average) == (larger, larger, sizes["generator"])
    assert [h.moments for h in divided] == [2 * both / 4] * 3
    assert [h.gradients for h in divided] == [larger, larger / 4, both / 4]  # of a player at 3 they stay
    # D has a second-order term, so it stays at stage 2
    assert [h.weights for h in divided] == [both, both, both + sizes["generator"] / 4]
    assert estimate.held(work, 0, 1).buffers == 0
    assert plain.total == plain.weights + plain.moments + plain.gradients + plain.buffers + plain.average
    assert estimate.stages(work.config, 3) == {"discriminator": 2, "generator": 3}


def test_buckets_of_deepspeed_count_as_it_allocates_them(work, tmp_path):
    """One a turn at stages 1 and 2, two with overlap_comm; one a player at stage 3, whose turn it may be."""

    def with_json(**settings):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"zero_optimization": settings}))
        engine = Engine(kind="deepspeed", zero_stage=1, deepspeed_json=str(path))
        plain = copy(work)
        plain.config, plain.deepspeed = replace(work.config, engine=engine, terms={}), users(str(path))
        return plain

    def buffers(work):
        return [estimate.held(work, zero, 4).buffers for zero in (1, 2, 3)]

    assert buffers(with_json()) == [2e9, 2e9, 4e9]  # DeepSpeed's 5e8 elements
    assert buffers(with_json(reduce_bucket_size=50_000_000)) == [2e8, 2e8, 4e8]
    doubled = with_json(reduce_bucket_size=50_000_000, overlap_comm=True)
    assert buffers(doubled) == [4e8, 4e8, 4e8]
    assert estimate.memory(with_json(), 3, 4, 8, 2) - estimate.memory(doubled, 3, 4, 8, 2) == pytest.approx(1.05 * 3.6e9)
    assert buffers(with_json(contiguous_gradients=False, reduce_bucket_size=1000)) == [4000, 4000, 0]
    with pytest.raises(UserError, match="reduce_bucket_size must be a number above 0, not 'big'"):
        buffers(with_json(reduce_bucket_size="big"))
    with pytest.raises(UserError, match=r"engine.deepspeed_json: .* can't be read"):
        Work(replace(work.config, engine=Engine(kind="deepspeed", deepspeed_json=str(tmp_path / "none.json"))), "bf16")


def test_the_largest_micro_batch_fits_and_no_larger_one(work):
    most = estimate.largest_micro_batch(work, H100.gpu, 0, 2)
    assert estimate.memory(work, 0, 2, most, 2) <= H100.gpu.memory < estimate.memory(work, 0, 2, most + 1, 2)
    tight = replace(H100, gpu=replace(H100.gpu, memory=estimate.memory(work, 0, 2, 128, 4)))
    assert estimate.accumulation(work, tight, 0, 2, 1024, 1) == 4
    assert estimate.accumulation(work, H100, 0, 2, 1024, 1) == 1
    hopeless = replace(H100, gpu=replace(H100.gpu, memory=1e9))
    assert estimate.largest_micro_batch(work, hopeless.gpu, 0, 2) == 0
    assert not estimate.point(work, hopeless, 0, 2, 1024, estimate.accumulation(work, hopeless, 0, 2, 1024, 1)).fits


def test_time_is_what_its_parts_say(work):
    here = estimate.point(work, H100, 0, 8, 1024, 1)
    assert here.round_seconds == pytest.approx(max(here.device_seconds, here.host_seconds) + here.communication_seconds)
    assert here.images_per_second == pytest.approx(1024 / here.round_seconds)
    assert here.days == pytest.approx(here.round_seconds * work.config.training.steps / 86400)
    parameters = sum(player.parameters * player.turns for player in work.players.values())
    assert here.gradient_bytes == 4 * parameters
    assert here.cost is None
    assert estimate.point(work, replace(H100, price=2.0), 0, 8, 1024, 1).cost == pytest.approx(here.days * 24 * 8 * 2)

    slow = estimate.point(work, replace(H100, decode_rate=10.0), 0, 8, 1024, 1)
    assert (slow.bound, slow.images_per_second) == ("data", pytest.approx(80))
    chatty = estimate.point(work, replace(H100, network=1e6), 0, 16, 1024, 1)
    assert chatty.bound == "communication"
    assert here.bound == "launches"
    careless = estimate.point(work, replace(H100, efficiency=0.001), 0, 8, 1024, 1)
    assert careless.bound == "products"
    assert careless.device_seconds > here.device_seconds


def test_zero_moves_more_with_every_stage(work):
    moved = [estimate.point(work, H100, zero, 8, 1024, 4).gradient_bytes for zero in range(4)]
    assert moved[0] == moved[1] < moved[2] < moved[3]
