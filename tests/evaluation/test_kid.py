import pytest
import torch
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from fastgan.evaluation import kernel_distance


def sets(n=90, m=70, width=16, shift=0.3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator), torch.randn(m, width, generator=generator) + shift


def test_it_is_torch_fidelitys():
    real, generated = sets()
    found = kernel_distance(real, generated, subsets=20, subset_size=50)
    options = {"kid_subsets": 20, "kid_subset_size": 50, "verbose": False}
    theirs = kid_features_to_metric(generated.double(), real.double(), **options)
    assert found.value == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-12)
    assert found.deviation == pytest.approx(theirs[KEY_METRIC_KID_STD], rel=1e-12)
    in_float32 = kid_features_to_metric(generated, real, **options)
    assert found.value == pytest.approx(in_float32[KEY_METRIC_KID_MEAN], rel=1e-5)


def test_it_is_the_unbiased_estimate():
    """By the definition, of sets that are one subset each."""
    real, generated = (one.double() for one in sets(20, 20))

    def kernel(x, y):
        return (x @ y.T / 16 + 1) ** 3

    off = ~torch.eye(20, dtype=torch.bool)
    expected = kernel(real, real)[off].mean() + kernel(generated, generated)[off].mean() - 2 * kernel(real, generated).mean()
    found = kernel_distance(real, generated)
    assert (found.subset_size, found.subsets) == (20, 100)
    assert found.value == pytest.approx(float(expected), rel=1e-9)
    assert found.deviation == pytest.approx(0, abs=1e-12)


def test_alike_and_apart():
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 1500, 8, generator=generator)
    alike, apart = kernel_distance(one, other, 10), kernel_distance(one, other + 1, 10)
    assert abs(alike.value) < 0.01
    assert apart.value > 0.5


def test_what_cannot_be_compared_is_refused():
    for first, second in (((5, 2), (5, 3)), ((5,), (5,)), ((1, 2), (5, 2))):
        with pytest.raises(ValueError, match=r"features come|two images"):
            kernel_distance(torch.zeros(first), torch.zeros(second))
