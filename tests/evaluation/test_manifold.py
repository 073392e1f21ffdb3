import pytest
import torch
from prdc import compute_prdc

from fastgan.evaluation import density_and_coverage, manifold, neighbours


def by_hand(real, generated, k):
    """From the papers' definitions, sample by sample; a ball reaches to the k-th neighbour and is open."""

    def radius(points, i):
        return sorted((points[i] - other).norm().item() for j, other in enumerate(points) if j != i)[k - 1]

    real_radii, generated_radii = ([radius(points, i) for i in range(len(points))] for points in (real, generated))

    def inside(point, centres, radii):
        return [(point - centre).norm().item() < r for centre, r in zip(centres, radii, strict=True)]

    of_generated = [inside(x, real, real_radii) for x in generated]
    of_real = [inside(x, generated, generated_radii) for x in real]
    return {
        "precision": sum(map(any, of_generated)) / len(generated),
        "recall": sum(map(any, of_real)) / len(real),
        "density": sum(map(sum, of_generated)) / (k * len(generated)),
        "coverage": sum(any(column) for column in zip(*of_generated, strict=True)) / len(real),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_it_is_the_definition(k):
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    generated = 0.8 * torch.randn(25, 4, generator=generator, dtype=torch.float64) + 0.5
    found, expected = manifold(real, generated, nearest=k), by_hand(real, generated, k)
    assert all(0 < expected[name] < 1 for name in ("precision", "recall", "coverage"))
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)
    assert (found.nearest, found.real_count, found.generated_count) == (k, 30, 25)


def test_it_is_prdcs_block_by_block(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    real, generated = torch.randn(150, 9, generator=generator), 0.9 * torch.randn(130, 9, generator=generator)
    theirs = compute_prdc(real.double().numpy(), generated.double().numpy(), nearest_k=5)
    for block in (1 << 23, 1000):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        found, part = manifold(real, generated), density_and_coverage(real, generated)
        assert {name: getattr(found, name) for name in theirs} == pytest.approx(theirs, rel=1e-12)
        assert (part.density, part.coverage) == (found.density, found.coverage)


def test_half_of_the_modes_is_precise_and_recalls_half():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 40, 3, generator=generator)
    found = manifold(torch.cat([one, other + 100]), one.roll(1, 0) + 1e-3)
    assert found.precision == 1
    assert found.recall == 0.5
    assert found.coverage == 0.5


@pytest.mark.parametrize(
    ("real", "generated", "nearest"), [((9, 2), (9, 3), 1), ((9,), (9,), 1), ((9, 2), (5, 2), 5), ((9, 2), (9, 2), 0)]
)
def test_what_cannot_be_compared_is_refused(real, generated, nearest):
    with pytest.raises(ValueError, match=r"features come|nearest must be"):
        manifold(torch.zeros(real), torch.zeros(generated), nearest)
