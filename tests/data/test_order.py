"""Orders of an epoch: permutations that seed and epoch decide, and how shards are mixed."""

import numpy as np
import pytest

from fastgan.data.order import WINDOW, by_images, by_shards, windows_of


def shards_of(*sizes):
    return np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)


@pytest.mark.parametrize("sizes", [(1,), (5,), (3, 0, 7), tuple(range(1, 40)), (100,) * 17])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_image_comes_once(sizes, epoch):
    shards = shards_of(*sizes)
    assert sorted(by_shards(shards, 3, epoch).tolist()) == list(range(len(shards)))
    assert sorted(by_images(len(shards), 3, epoch).tolist()) == list(range(len(shards)))


def test_a_window_shows_its_own_shards_alone_in_a_random_order():
    shards = shards_of(*(50,) * 20)
    order, sequence = by_shards(shards, 0, 0), windows_of(20, 0, 0)
    for window in range(3):
        wanted = set(sequence[window * WINDOW : (window + 1) * WINDOW].tolist())
        seen = shards[order[window * WINDOW * 50 : (window + 1) * WINDOW * 50]]
        assert set(seen.tolist()) == wanted
        changes = np.count_nonzero(np.diff(seen)) / len(seen)
        assert changes > 0.6  # 0.875 and 0.75 would be expected of eight and four shards that are mixed


def test_seed_and_epoch_decide():
    shards = shards_of(*(10,) * 30)
    orders = {(seed, epoch): by_shards(shards, seed, epoch).tolist() for seed in (0, 1, 2**64 - 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 6
    assert all(by_shards(shards, *key).tolist() == order for key, order in orders.items())
    assert len({tuple(windows_of(30, 0, epoch)) for epoch in range(4)}) == 4


def test_labels_of_a_batch_are_a_sample_of_the_classes():
    """In a set packed at random the classes of a batch are counted as in any random sample, in either order."""
    random = np.random.default_rng(0)
    labels, shards = random.integers(0, 10, 20_000), shards_of(*(500,) * 40)
    for order in (by_images(20_000, 0, 0), by_shards(shards, 0, 0)):
        counts = np.stack([np.bincount(part, minlength=10) for part in labels[order].reshape(-1, 200)])
        assert abs(counts.var(axis=0).mean() - 18) < 3  # 200 x 0.1 x 0.9
