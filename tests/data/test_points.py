"""Points in the plane: what each distribution is, and that a stream of them is one of images in all but its content."""

import json
import math
from itertools import islice

import pytest
import torch

from fastgan.data import DISTRIBUTIONS, DataError, PointStream

GRID, RING, ROLL = (DISTRIBUTIONS[name] for name in ("grid25", "ring8", "swiss-roll"))
LARGE = {"batch_size": 1 << 16, "seed": 1}


def take(stream, count):
    """The next batches, joined into one."""
    return joined(islice(stream, count))


def joined(batches):
    """Batches of several shards, in the order of their ordinals."""
    batches = list(batches)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in ("images", "labels", "indices")}
    order = whole["indices"].argsort()
    return {name: values[order] for name, values in whole.items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


# ---- the distributions


def test_the_grid_and_the_ring_are_where_the_field_has_them():
    assert set(GRID.modes) == {(x, y) for x in (-2, -1, 0, 1, 2) for y in (-2, -1, 0, 1, 2)}
    assert GRID.sigma == 0.05
    angles = sorted(math.degrees(math.atan2(y, x)) % 360 for x, y in RING.modes)
    assert angles == pytest.approx([0, 45, 90, 135, 180, 225, 270, 315])
    assert [math.hypot(*mode) for mode in RING.modes] == pytest.approx([2] * 8)
    assert RING.sigma == 0.02
    assert ROLL.modes == ()


@pytest.mark.parametrize("distribution", [GRID, RING], ids=lambda d: d.name)
def test_points_are_round_gaussians_about_equally_likely_modes(distribution):
    batch = next(PointStream(distribution, **LARGE))
    points, labels, modes = batch["images"].double(), batch["labels"], torch.tensor(distribution.modes).double()
    counts = torch.bincount(labels, minlength=len(modes))
    assert len(counts) == len(modes)
    share = len(points) / len(modes)
    assert ((counts - share) ** 2 / share).sum() < 60  # chi-square of at most 24 degrees of freedom: once in 15,000 seeds
    offset = (points - modes[labels]) / distribution.sigma
    assert offset.mean(0).abs().max() < 5 / math.sqrt(len(offset))
    assert (offset.T @ offset / len(offset) - torch.eye(2)).abs().max() < 5 * math.sqrt(2 / len(offset))
    squared = offset.square().sum(1)  # exponential with mean 2: none beyond 4 sigma but e^-8 of them
    assert (squared > 16).sum() < 60  # 22 are expected
    assert (squared < 2 * math.log(2)).double().mean() == pytest.approx(0.5, abs=0.01)


def test_the_roll_is_a_spiral_with_noise_around_it():
    points = next(PointStream(ROLL, **LARGE))["images"].double() * 7.5
    t = torch.linspace(1.5 * math.pi, 4.5 * math.pi, 4000).double()
    spiral = torch.stack((t * t.cos(), t * t.sin()), 1)
    nearest = torch.cdist(points[:8192], spiral).min(1).values
    assert nearest.square().mean().sqrt() == pytest.approx(0.25, rel=0.05)  # across the curve only one coordinate counts
    # Uniform in t, so radii from 1.5 pi to 4.5 pi are equally likely.
    radii = points.norm(dim=1).clamp(1.5 * math.pi, 4.5 * math.pi)
    counts = radii.histc(9, 1.5 * math.pi, 4.5 * math.pi) / len(radii)
    assert (counts - 1 / 9).abs().max() < 0.01


def test_every_distribution_has_a_fingerprint_of_its_own():
    assert len({d.fingerprint for d in DISTRIBUTIONS.values()}) == len(DISTRIBUTIONS)
    assert all(len(d.fingerprint) == 64 for d in DISTRIBUTIONS.values())


# ---- the stream


def test_the_seed_decides_what_is_drawn_in_all_its_64_bits():
    batches = [next(PointStream(GRID, batch_size=64, seed=seed)) for seed in (0, 1, 1 << 32, 1 << 63)]
    for i, one in enumerate(batches):
        for other in batches[i + 1 :]:
            assert not torch.equal(one["images"], other["images"])
            assert not torch.equal(one["labels"], other["labels"])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=lambda d: d.name)
def test_batches_are_what_a_game_takes(distribution):
    batch = next(PointStream(distribution, batch_size=5, seed=0))
    assert (batch["images"].shape, batch["images"].dtype) == ((5, 2), torch.float32)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((5,), torch.int64)
    assert torch.equal(batch["indices"], torch.arange(5))


def test_no_point_comes_twice_and_batch_size_changes_none():
    whole = take(PointStream(GRID, batch_size=9000, seed=3), 2)
    assert len(whole["images"].unique(dim=0)) == 18000
    assert_equal(take(PointStream(GRID, batch_size=40, seed=3), 450), whole)


def test_a_batch_stays_as_it_was_while_the_stream_goes_on():
    stream = PointStream(GRID, batch_size=300, seed=0)
    held = next(stream)
    copy = {name: values.clone() for name, values in held.items()}
    take(stream, 40)
    assert_equal(held, copy)
    assert held["images"].untyped_storage().nbytes() == 300 * 2 * 4  # not the points drawn with it


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_together_are_one_process_of_the_whole_batch(shards):
    parts = [b for s in range(shards) for b in islice(PointStream(RING, batch_size=50, seed=7, shard=s, shards=shards), 6)]
    assert_equal(joined(parts), take(PointStream(RING, batch_size=50 * shards, seed=7), 6))


@pytest.mark.parametrize("stop", [0, 1, 163, 164, 170])
def test_a_resumed_stream_goes_on_bit_for_bit(stop):
    stream = PointStream(ROLL, batch_size=50, seed=2**63 + 5)  # 163 batches are drawn at once
    for _ in range(stop):
        next(stream)
    state = json.loads(json.dumps(stream.state_dict()))
    rest = take(stream, 8)
    assert state == {"images_seen": 50 * stop, "fingerprint": ROLL.fingerprint, "seed": 2**63 + 5}
    resumed = PointStream(ROLL, batch_size=50, seed=2**63 + 5)
    for _ in range(2):  # and back again, with batches drawn from further on
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert_equal(take(resumed, 8), rest)


@pytest.mark.parametrize(("before", "after", "batch_size"), [(2, 1, 7), (1, 3, 4), (3, 2, 5)])
def test_a_run_resumed_on_other_shards_repeats_and_loses_nothing(before, after, batch_size):
    batches = []
    for shard in range(before):
        stream = PointStream(GRID, batch_size=5, seed=3, shard=shard, shards=before)
        batches += islice(stream, 3)
        state = stream.state_dict()
    for shard in range(after):
        stream = PointStream(GRID, batch_size=batch_size, seed=3, shard=shard, shards=after)
        stream.load_state_dict(state)
        batches += islice(stream, 6)
    shown = joined(batches)
    assert torch.equal(shown["indices"], torch.arange(15 * before + 6 * after * batch_size))
    assert_equal(shown, next(PointStream(GRID, batch_size=len(shown["indices"]), seed=3)))


def test_close_drops_what_was_drawn_ahead_and_nothing_else():
    stream = PointStream(GRID, batch_size=100, seed=0)
    first = take(stream, 2)
    stream.close()
    stream.close()
    assert_equal(joined([first, take(stream, 3)]), take(PointStream(GRID, batch_size=100, seed=0), 5))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"fingerprint": RING.fingerprint},
            f"other data: its fingerprint is {RING.fingerprint[:12]}, that of the source 'grid25'",
        ),
        ({"fingerprint": None}, "its fingerprint is None"),
        ({"seed": 4}, "its order was drawn with seed 4, not 3"),
        ({"images_seen": -1}, "at least 0, but is -1"),
        ({"images_seen": 2.5}, r"a whole number .* but is 2\.5"),
    ],
)
def test_states_that_do_not_fit_are_refused_and_change_nothing(changes, sentence):
    stream = PointStream(GRID, batch_size=5, seed=3)
    next(stream)
    with pytest.raises(DataError, match=sentence):
        stream.load_state_dict(stream.state_dict() | changes)
    assert torch.equal(next(stream)["indices"], torch.arange(5, 10))


def test_what_is_no_state_is_refused():
    with pytest.raises(DataError, match="not the state of a data stream"):
        PointStream(GRID, batch_size=5, seed=3).load_state_dict({})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, but is 0"),
        ({"shards": 0}, "shards must be at least 1, but is 0"),
        ({"shard": 2, "shards": 2}, "shard must be from 0 to 1 with 2 shards, but is 2"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**64}, "seed must be from 0"),
        ({"device": "meta"}, "device must be 'cpu' or a CUDA device"),
    ],
)
def test_arguments_out_of_their_range_are_refused(changes, sentence):
    with pytest.raises(DataError, match=sentence):
        PointStream(GRID, **{"batch_size": 5, "seed": 3} | changes)
