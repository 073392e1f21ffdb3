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
