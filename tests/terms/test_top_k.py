"""Top-k training against its formula."""

import pytest
import torch
from scenes import scene

from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.terms import TopK


def chosen(scores, step=0, **settings):
    return TopK(**settings).chosen(scene(batch=len(scores), step=step), scores)


@pytest.mark.parametrize(
    ("batch", "share", "rounds", "step", "k"),
    [
        (10, 0.5, 100, 0, 10),  # all at first
        (10, 0.5, 100, 50, 7),  # 10 / sqrt 2
        (10, 0.5, 100, 100, 5),
        (10, 0.5, 100, 10**6, 5),
        (10, 0.5, 0, 0, 5),  # at once
        (7, 0.5, 0, 3, 3),
        (3, 0.1, 0, 3, 1),  # never none
        (100, 0.29, 0, 0, 29),
        (1, 0.5, 0, 0, 1),
    ],
)
def test_the_highest_k_scores(batch, share, rounds, step, k):
    torch.manual_seed(0)
    scores = torch.randn(batch, dtype=torch.float64)
    found = chosen(scores, step, share=share, rounds=rounds)
    assert found.tolist() == sorted(scores.tolist(), reverse=True)[:k]


def test_the_gradient_goes_to_those_alone():
    scores = torch.tensor([0.1, -2.0, 3.0, 0.4], dtype=torch.float64, requires_grad=True)
    loss = -chosen(scores, share=0.5, rounds=0).mean()
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.tolist() == [0, 0, -0.5, -0.5]


def test_of_maps_those_with_the_highest_means():
    maps = torch.tensor([[9.0, -9.0], [1.0, 2.0], [8.0, -4.0]])[:, None, :, None]
    assert torch.equal(chosen(maps, share=0.7, rounds=0), maps[[2, 1]])


def test_equal_scores_in_the_order_of_the_batch():
    scores = torch.zeros(6, requires_grad=True)
    (gradient,) = torch.autograd.grad(chosen(scores, share=0.5, rounds=0).sum(), scores)
    assert gradient.tolist() == [1, 1, 1, 0, 0, 0]


def test_scores_are_those_of_all_ranks():
    others = torch.tensor([5.0, -5.0, 4.0])
    seen = scene(batch=3, gather=lambda mine: torch.cat([mine, others]))
    assert TopK(share=0.5, rounds=0).chosen(seen, torch.tensor([0.0, 4.5, -1.0])).tolist() == [5, 4.5, 4]


def test_it_adds_nothing_and_takes_whole_batches_of_every_round():
    assert TopK().loss(scene(), {}) == 0
    assert (TopK().player, TopK().couples, TopK().spans_ranks) == ("generator", True, True)
    for field, said in (
        ("training.accumulate=2", "top_k couples the samples of a batch"),
        ("terms.top_k.every=2", "every must be 1"),
        ("terms.top_k.share=0", "share"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            override(Config(), ["terms.top_k.share=0.5", field])
        assert "\n" not in str(caught.value)
