"""Hubs against neighbours that scikit-learn counts by brute force in float64."""

import pytest
import torch
from lines import Affine, Function, draw, make_pair
from sklearn.neighbors import NearestNeighbors

from fastgan.checked import UserError
from fastgan.draw import Draw
from fastgan.latent import Prior, samplers
from fastgan.latent.samplers import Hubness
from fastgan.latent.samplers.hubness import occurrences


def by_hand(z, neighbours):
    found = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(z.double().numpy())
    nearest = torch.from_numpy(found.kneighbors(return_distance=False))  # of each other than itself
    return torch.bincount(nearest.flatten(), minlength=len(z))


def pool(number, size, dim):
    return Prior(dim)(Draw(0, "samples/hubness", 0, torch.arange(number * size, (number + 1) * size)))


def pair(dim):
    return make_pair(Affine(), Function(lambda x: x[:, 0]), dim)


@pytest.mark.parametrize(("count", "dim", "neighbours"), [(300, 2, 1), (1500, 40, 5), (2100, 64, 10), (6, 3, 5)])
def test_counts_are_those_of_brute_force(count, dim, neighbours):
    z = pool(0, count, dim)
    counts = occurrences(z, neighbours)
    assert torch.equal(counts, by_hand(z, neighbours))
    assert counts.sum() == count * neighbours


def test_samples_are_the_hubs_of_one_pool_after_another():
    settings = Hubness(pool=400, neighbours=5, threshold=12)
    expected = []
    while sum(map(len, expected)) < 100:
        z = pool(len(expected), 400, 50)
        expected.append(z[by_hand(z, 5) > 12])
    assert len(expected) > 1
    found = draw(settings, pair(50), 100)
    assert torch.equal(found.z, torch.cat(expected)[:100])
    assert found.images is None


def test_hubs_lie_nearer_to_the_centre():
    """Which is why truncation works, says the paper."""
    found, plain = draw(Hubness(pool=2000, threshold=25), pair(64), 100).z, pool(0, 2000, 64)
    assert found.norm(dim=1).mean() < plain.norm(dim=1).mean() - 2 * plain.norm(dim=1).std()


def test_a_sample_is_the_same_in_every_batch_and_number():
    settings = Hubness(pool=200, threshold=10)
    whole = draw(settings, pair(30), 60).z
    assert torch.equal(draw(settings, pair(30), 60, 7).z, whole)
    assert torch.equal(draw(settings, pair(30), 11).z, whole[:11])
    last = settings.prepare(pair(30))(Draw(0, "samples", 0, torch.tensor([59])), None).z
    assert torch.equal(last, whole[59:])
    assert not torch.equal(draw(settings, pair(30), 60, seed=1).z, whole)


def test_no_discriminator_is_asked():
    asked = pair(30)
    draw(Hubness(pool=200, threshold=10), asked, 20)
    assert not asked.passes


def test_what_can_not_be_is_refused():
    with pytest.raises(
        UserError, match=r"of 500 latents of 2 numbers none .* more than 50 others; the greatest count is 1\d: choose"
    ):
        draw(Hubness(pool=500), pair(2), 5)
    with pytest.raises(UserError, match="must be larger than neighbours"):
        samplers.choose("hubness", ["pool=5"])
