import pytest
import torch

from fastgan.evaluation import diversity_within_classes


def test_mean_over_classes_of_the_mean_distance_of_two():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 3.0], [0.0, 7.0], [9.0, 9.0]])
    labels = torch.tensor([2, 2, 5, 5, 5, 7])  # the last class has one image, which has no distance
    assert diversity_within_classes(features, labels) == pytest.approx((5 + (2 + 6 + 4) / 3) / 2)


def test_one_image_a_class_has_none():
    features = torch.randn(3, 4)[[0, 1, 2, 0, 1, 2]]
    assert diversity_within_classes(features, torch.tensor([0, 1, 2] * 2)) == 0


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="no class has two"):
        diversity_within_classes(torch.zeros(3, 2), torch.arange(3))
    with pytest.raises(ValueError, match="features come as"):
        diversity_within_classes(torch.zeros(3, 2), torch.arange(2))
