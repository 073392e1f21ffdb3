"""Mixtures of a batch's latents."""

import pytest
import torch

from fastgan.draw import Draw
from fastgan.latent import Mixtures, mix, mixing_weights


def draw(rows, step=3):
    return Draw(5, "G", step, torch.as_tensor(rows))


@pytest.mark.parametrize("count", [2, 6, 8])
def test_pairs_are_those_of_the_paper(count):
    """First half with second half, then the first half reversed with the second, each row with an a of its own."""
    z = torch.randn(count, 3, dtype=torch.float64)
    whole = draw(torch.arange(count))
    a = (0.5 + 0.25 * whole.normal("mixture", 1)).double()
    first, second = z.chunk(2)
    expected = torch.cat([
        a[: count // 2] * first + (1 - a[: count // 2]) * second,
        a[count // 2 :] * first.flip(0) + (1 - a[count // 2 :]) * second,
    ])  # fmt: skip
    torch.testing.assert_close(mix(mixing_weights(whole, count), z), expected)


def test_the_last_of_an_odd_batch_is_mixed_with_the_first():
    weights = mixing_weights(draw(torch.arange(5)), 5)
    assert weights.ne(0).sum(1).tolist() == [2] * 5
    assert weights[4].nonzero().flatten().tolist() == [0, 4]
    torch.testing.assert_close(weights.sum(1), torch.ones(5))


def test_shares_have_their_mean_and_deviation():
    a = mixing_weights(draw(torch.arange(20_000)), 20_000, mean=0.3, deviation=0.1)[:10_000].gather(
        1, torch.arange(10_000)[:, None]
    )
    assert abs(a.mean() - 0.3) < 0.005
    assert abs(a.std() - 0.1) < 0.003


@pytest.mark.parametrize("kind", ["pairs", "batch"])
def test_a_share_of_the_batch_gets_its_rows_of_the_whole(kind):
    whole = mixing_weights(draw(torch.arange(8)), 8, kind)
    parts = [mixing_weights(draw(rows), 8, kind) for rows in torch.arange(8).chunk(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_mixtures_of_the_whole_batch():
    weights = mixing_weights(draw(torch.arange(2000)), 4, "batch")
    torch.testing.assert_close(weights.sum(1), torch.ones(2000))
    assert weights.min() >= 0
    assert (weights.mean(0) - 0.25).abs().max() < 0.02
    assert (weights.var(0) - 0.0375).abs().max() < 0.005  # of a Dirichlet(1, 1, 1, 1)


def test_maps_are_mixed_in_their_own_type_under_autocast():
    z = torch.randn(4, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    weights = mixing_weights(draw(torch.arange(4)), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mix(weights, z)
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", weights, z))


def test_mixtures_stand_for_a_prior():
    """Samples lie on the lines through pairs of codes, and are functions of their row alone."""
    codes = torch.randn(7, 3)
    prior = Mixtures(codes)
    whole = draw(torch.arange(40))
    z = prior(whole)
    assert z.shape == (40, prior.dim)
    assert torch.equal(z[10:20], prior(draw(torch.arange(10, 20))))
    one, other = codes[whole.integers("latent/one", 7)], codes[whole.integers("latent/other", 7)]
    apart = one.ne(other).any(1)
    along = ((z - other) * (one - other)).sum(1) / (one - other).square().sum(1)
    torch.testing.assert_close((other + along[:, None] * (one - other))[apart], z[apart], rtol=1e-4, atol=1e-5)
    assert not torch.equal(prior(whole, "another"), z)
