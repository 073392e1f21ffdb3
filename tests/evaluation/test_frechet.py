"""The Fréchet distance against closed forms and scipy's matrix root, and statistics against numpy's."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fastgan.evaluation import FeatureStatistics, Gaussian, frechet_distance


def covariance(random: np.random.Generator, width: int, rank: int | None = None) -> np.ndarray:
    factor = random.normal(size=(width, rank or width))
    return factor @ factor.T


def statistics(*batches: np.ndarray | torch.Tensor) -> FeatureStatistics:
    found = FeatureStatistics()
    for batch in batches:
        found.update(batch)
    return found


def test_one_dimension():
    assert frechet_distance(([1.5], [[4.0]]), ([-0.5], [[9.0]])) == pytest.approx(2.0**2 + (2.0 - 3.0) ** 2, rel=1e-14)


def test_diagonal():
    random = np.random.default_rng(0)
    mean1, mean2 = random.normal(size=(2, 7))
    deviation1, deviation2 = random.uniform(0.1, 3, size=(2, 7))
    expected = np.sum((mean1 - mean2) ** 2) + np.sum((deviation1 - deviation2) ** 2)
    found = frechet_distance((mean1, np.diag(deviation1**2)), (mean2, np.diag(deviation2**2)))
    assert found == pytest.approx(expected, rel=1e-13)


def test_commuting():
    """With common eigenvectors the distance is that of the eigenvalues' roots, here paired in another than ascending order."""
    random = np.random.default_rng(1)
    vectors, _ = np.linalg.qr(random.normal(size=(9, 9)))
    deviation1, deviation2 = random.uniform(0.1, 3, size=(2, 9))
    first, second = ((vectors * deviation**2) @ vectors.T for deviation in (deviation1, deviation2))
    found = frechet_distance((np.zeros(9), first), (np.zeros(9), second))
    assert found == pytest.approx(np.sum((deviation1 - deviation2) ** 2), rel=1e-12)


@pytest.mark.parametrize("width", [1, 2, 17, 64])
def test_against_the_matrix_root(width):
    random = np.random.default_rng(width)
    mean1, mean2 = random.normal(size=(2, width))
    first, second = covariance(random, width, width + 3), covariance(random, width, width + 3)
    root = sqrtm(first @ second).real
    expected = np.sum((mean1 - mean2) ** 2) + np.trace(first) + np.trace(second) - 2 * np.trace(root)
    assert frechet_distance((mean1, first), (mean2, second)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance((mean2, second), (mean1, first)) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances():
    """Of rank one, u u^T and v v^T, the distance is |u|^2 + |v|^2 - 2 |u v|; orthogonal ones share nothing."""
    random = np.random.default_rng(2)
    u, v = random.normal(size=(2, 12))
    zero = np.zeros(12)
    found = frechet_distance((zero, np.outer(u, u)), (zero, np.outer(v, v)))
    assert found == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-12)
    assert frechet_distance((np.zeros(2), np.diag([1.0, 0])), (np.zeros(2), np.diag([0, 4.0]))) == pytest.approx(5, rel=1e-14)
    assert frechet_distance((zero, np.zeros((12, 12))), (zero, np.outer(v, v))) == pytest.approx(v @ v, rel=1e-12)


def test_singular_against_full_rank():
    random = np.random.default_rng(3)
    u, full = random.normal(size=12), covariance(random, 12, 15)
    found = frechet_distance((np.zeros(12), np.outer(u, u)), (np.zeros(12), full))
    assert found == pytest.approx(u @ u + np.trace(full) - 2 * np.sqrt(u @ full @ u), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_zero_for_equal(rank):
    random = np.random.default_rng(4)
    gaussian = Gaussian(random.normal(size=20) + 100, covariance(random, 20, rank))
    assert 0 <= frechet_distance(gaussian, gaussian) < 1e-24 * np.trace(gaussian.covariance)


def test_nearly_equal_keeps_its_digits():
    """Covariances a relative 1e-6 apart in deviation: the trace formula would lose the 1e-12 of the trace that is left."""
    matrix = covariance(np.random.default_rng(5), 20, 25)
    found = frechet_distance((np.zeros(20), matrix), (np.zeros(20), matrix * (1 + 1e-6) ** 2))
    assert found == pytest.approx(1e-12 * np.trace(matrix), rel=1e-3)


@pytest.mark.parametrize(
    ("gaussian", "message"),
    [
        ((np.zeros(3), np.eye(2)), "mean"),
        ((np.zeros((2, 1)), np.eye(2)), "mean"),
        ((np.zeros(3), np.eye(3)), "as many features"),
        ((np.array([0.0, np.nan]), np.eye(2)), "not finite"),
        ((np.zeros(2), np.diag([1.0, np.inf])), "not finite"),
        ((np.zeros(2), np.diag([1.0, -0.1])), "negative eigenvalues"),
        ((np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
    ],
)
def test_refuses_what_is_no_gaussian(gaussian, message):
    for pair in ((gaussian, (np.zeros(2), np.eye(2))), ((np.zeros(2), np.eye(2)), gaussian)):
        with pytest.raises(ValueError, match=message):
            frechet_distance(*pair)


def test_statistics_against_numpy():
    features = np.random.default_rng(6).normal(size=(50, 8)) @ np.random.default_rng(7).normal(size=(8, 8)) + 3
    found = statistics(features).gaussian()
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [[1] * 60, [59, 1], [1, 0, 17, 42], [0, 60]])
def test_batches_do_not_matter(sizes):
    """Nor does a mean that is 1e8 deviations from zero, where sums of squares about zero would have no digit left."""
    features = np.random.default_rng(8).normal(size=(60, 5)) + 1e8
    batches = np.split(features, np.cumsum(sizes)[:-1])
    whole, parts = statistics(features).gaussian(), statistics(*batches).gaussian()
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=0, atol=1e-6)
    centred = np.cov((features - 1e8).T)
    np.testing.assert_allclose(parts.covariance, centred, rtol=0, atol=1e-6)


def test_merge_is_the_union():
    features = np.random.default_rng(9).normal(size=(40, 4))
    merged = FeatureStatistics()  # as a rank that had no share
    for share in (features[:7], features[7:8], features[:0], features[8:]):
        merged.merge(statistics(share))
    assert merged.count == 40
    whole, found = statistics(features).gaussian(), merged.gaussian()
    np.testing.assert_allclose(found.mean, whole.mean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.covariance, whole.covariance, rtol=1e-12, atol=1e-14)


def test_merging_leaves_the_other_alone():
    first, second = np.random.default_rng(10).normal(size=(2, 6, 3))
    other, merged = statistics(first), FeatureStatistics()
    merged.merge(other)
    merged.update(second)
    assert other.count == 6
    np.testing.assert_array_equal(other.gaussian().covariance, statistics(first).gaussian().covariance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors(dtype):
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    found = statistics(features).gaussian()
    np.testing.assert_allclose(found.covariance, np.cov(features.detach().double().numpy().T), rtol=1e-12, atol=1e-15)
    assert found.covariance.dtype == np.float64


@pytest.mark.parametrize("count", [0, 1])
def test_needs_two_samples(count):
    with pytest.raises(ValueError, match="at least two samples"):
        statistics(np.ones((count, 3))).gaussian()


@pytest.mark.parametrize(
    ("features", "message"),
    [(np.ones((5, 4)), "3 features"), (np.ones(3), "shape"), (np.full((2, 3), np.nan), "not finite")],
)
def test_refuses_features_that_do_not_fit(features, message):
    found = statistics(np.eye(3))
    with pytest.raises(ValueError, match=message):
        found.update(features)
    assert found.count == 3
    np.testing.assert_allclose(found.gaussian().covariance, np.cov(np.eye(3)))


def test_refuses_to_merge_another_width():
    with pytest.raises(ValueError, match="3 features"):
        statistics(np.eye(3)).merge(statistics(np.eye(4)))
