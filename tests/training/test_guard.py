import pytest
import torch

from fastgan.training.guard import PATIENCE, CollapseGuard, spread


def test_spread_is_the_deviation_between_images():
    assert spread(torch.ones(5, 1, 2, 2)) == 0
    images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert spread(images) == pytest.approx(2**0.5)


def test_collapsed_samples_are_said_once_an_episode():
    real = torch.randn(64, 1, 4, 4)
    guard = CollapseGuard(spread(real))
    alike = torch.randn(1, 1, 4, 4) + 0.05 * torch.randn(64, 1, 4, 4)
    assert guard.look_at_samples(real) is None
    assert "collapsing" in guard.look_at_samples(alike)
    assert guard.look_at_samples(alike) is None
    assert guard.look_at_samples(real) is None
    assert "collapsing" in guard.look_at_samples(alike)


def test_a_saturated_discriminator_is_said_after_some_patience():
    guard = CollapseGuard(1.0)
    said = [guard.look_at_metrics({"D/separation": s}) for s in [1.0] * PATIENCE + [1.0, 0.9] + [1.0] * PATIENCE]
    assert [i for i, line in enumerate(said) if line] == [PATIENCE - 1, 2 * PATIENCE + 1]
    assert guard.look_at_metrics({"G/loss": 1.0}) is None


def test_its_state_continues():
    guard, other = CollapseGuard(1.0), CollapseGuard(1.0)
    for _ in range(PATIENCE - 1):
        guard.look_at_metrics({"D/separation": 1.0})
    other.load_state_dict(guard.state_dict())
    assert other.look_at_metrics({"D/separation": 1.0})


def test_an_exploding_sigma_is_wrong_where_the_user_says_so():
    plain, guard = CollapseGuard(1.0), CollapseGuard(1.0, sigma_growth=2.0)

    def sigma(value):
        return {
            "sigma_0/generator.a": value,
            "sigma_0/generator.b": 1.0,
            "sigma_0/discriminator.a": 1e3,
            "sigma_1/generator.c": 1e3,
        }

    assert [guard.look_at_spectra(sigma(value)) for value in (3.0, 6.0, 0.5)] == [None] * 3
    assert guard.look_at_spectra({}) is None
    assert guard.look_at_spectra(sigma(1.9)) is None  # b has the largest one before
    other = CollapseGuard(1.0, sigma_growth=2.0)
    other.load_state_dict(guard.state_dict())
    for one in (guard, other):
        assert one.look_at_spectra(sigma(3.9)) == "the largest singular value of the generator's weights grew from 1.9 to 3.9"
    assert [plain.look_at_spectra(sigma(value)) for value in (1.0, 1e6)] == [None] * 2


def test_a_state_of_before_spectra_were_looked_at():
    guard = CollapseGuard(1.0, sigma_growth=2.0)
    guard.load_state_dict({"collapsed": 0, "saturated_for": 1})
    assert guard.sigma is None
