import pytest
import torch
from torch import nn

from fastgan.judgement import Judgement, View, judge


class Counting(nn.Module):
    """A conditional D that notes the size of every forward."""

    def __init__(self, normalise=False):
        super().__init__()
        self.linear = nn.Linear(4, 1, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(4, dtype=torch.float64) if normalise else nn.Identity()
        self.sizes = []

    def forward(self, x, labels=None):
        self.sizes.append(len(x))
        score = self.linear(self.norm(x.flatten(1))).squeeze(1)
        return score if labels is None else score + labels


def images(count):
    return torch.randn(count, 1, 2, 2, dtype=torch.float64)


def test_merged_views_are_one_forward_and_lone_ones_are_their_own():
    network = Counting()
    views = {"real": View(images(3)), "r1": View(images(2), alone=True), "fake": View(images(5))}
    judged = judge(network, views)
    assert network.sizes == [2, 8]
    assert list(judged) == ["real", "r1", "fake"]
    for name, view in views.items():
        torch.testing.assert_close(judged[name].score, network(view.images))
        assert judged[name].images is view.images


def test_labels_go_with_their_images():
    network = Counting()
    views = {"a": View(images(2), torch.tensor([10, 20])), "b": View(images(1), torch.tensor([30]))}
    judged = judge(network, views)
    torch.testing.assert_close(judged["b"].score, network(views["b"].images, torch.tensor([30])))


@pytest.mark.parametrize(("training", "sizes"), [(True, [3, 5]), (False, [8])])
def test_batch_statistics_keep_views_apart(training, sizes):
    network = Counting(normalise=True).train(training)
    judge(network, {"real": View(images(3)), "fake": View(images(5))})
    assert network.sizes == sizes


def test_every_field_is_split():
    whole = Judgement(score=torch.arange(5.0), features=torch.arange(10.0).view(5, 2))
    first, second = whole.split([2, 3])
    assert first.score.tolist() == [0, 1]
    assert second.features.tolist() == [[4, 5], [6, 7], [8, 9]]
    assert first.logits is None


def test_energy_games_have_no_score():
    first, _ = Judgement(score=None, reconstruction=images(4)).split([1, 3])
    assert first.score is None
    assert len(first.reconstruction) == 1


def test_a_single_view_is_not_copied():
    seen = []

    class Looking(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(1).sum(1)

    x = images(3)
    judge(Looking(), {"fake": View(x)})
    assert seen[0] is x
