import math

import pytest
import torch

from fastgan.evaluation import different_bins


def mixture(counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(n, 2, generator=generator) * 0.1 + 10 * mode for mode, n in enumerate(counts)])


def test_a_mixture_with_known_coverage():
    """Ten modes in ten bins, half of which the generator covers: all shares differ, and the JSD is the two histograms'."""
    found = different_bins(mixture([100] * 10), mixture([200] * 5 + [0] * 5, seed=1), bins=10)
    assert (found.bins, found.different, found.value) == (10, 10, 1)
    expected = 0.5 * math.log(2 / 1.5) + 0.5 * (0.5 * math.log(0.1 / 0.15) + 0.5 * math.log(2))
    assert found.jsd == pytest.approx(expected)


def test_identical_and_disjoint():
    same = mixture([100] * 10)
    assert (different_bins(same, same, bins=10).different, different_bins(same, same, bins=10).jsd) == (0, 0)
    # Everything falls into one bin of ten.
    apart = different_bins(same, same + 1000, bins=10)
    assert apart.different == 10
    assert apart.jsd > 0.4


def test_few_bins_differ_by_chance():
    generator = torch.Generator().manual_seed(3)
    one, other = torch.randn(2, 4000, 3, generator=generator)
    assert different_bins(one, other).value < 0.15


def test_the_test_is_that_of_two_proportions():
    """In two bins 50 of 100 against 60 of 100: z = 1.42; against 70: z = 2.89."""
    real = mixture([50, 50])
    assert different_bins(real, mixture([60, 40], 1), bins=2).different == 0
    assert different_bins(real, mixture([70, 30], 1), bins=2).different == 2


def test_fewer_bins_of_fewer_samples():
    assert different_bins(mixture([20, 20]), mixture([20, 20], 1)).bins == 4
    with pytest.raises(ValueError, match="20 real samples"):
        different_bins(mixture([19]), mixture([19]))
