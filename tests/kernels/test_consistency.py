"""What the catalogue's tests don't say of the consistency loss: numbers by hand, sides, and wrong arguments."""

import pytest
import torch
from operations import PATHS, through

from fastgan.kernels.consistency import consistency


@pytest.mark.parametrize("path", PATHS)
def test_by_hand(path):
    a, b = torch.tensor([1.0, 2.0, 5.0], requires_grad=True), torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    with through(path):
        loss = consistency(a, b, weight=3.0)
        loss.backward()
    assert loss.item() == pytest.approx(3 * (0 + 4 + 9) / 3)
    torch.testing.assert_close(a.grad, torch.tensor([0.0, 4.0, 6.0]))
    torch.testing.assert_close(b.grad, -a.grad)


@pytest.mark.parametrize("path", PATHS)
def test_a_stopped_side_is_a_constant(path):
    for stop, moving in (("first", 1), ("second", 0)):
        sides = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
        with through(path):
            consistency(*sides, stop=stop).backward()
        assert sides[1 - moving].grad is None
        torch.testing.assert_close(sides[moving].grad, (sides[moving] - sides[1 - moving]).detach() / 6)
    with torch.no_grad():
        assert not consistency(torch.ones(2), torch.ones(2)).requires_grad


def test_close_scores_keep_their_difference():
    """Differences are taken before anything is rounded: scores of 1000 and 1000.0625 in float32."""
    loss = consistency(torch.full((64,), 1000.0), torch.full((64,), 1000.0625))
    assert loss.item() == pytest.approx(0.0625**2, rel=1e-6)


def test_operators():
    a, b = torch.randn(3, 2, 5, requires_grad=True), torch.randn(3, 2, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.fastgan.consistency.default, (a, b, 10.0))
    upstream = torch.tensor(2.0)
    for sides in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.fastgan.consistency_backward.default, (a.detach(), b.detach(), upstream, 10.0, *sides))


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (torch.ones(2), torch.ones(3), {}, r"one shape, type and device, not torch.float32 \(2,\) on cpu and .* \(3,\)"),
        (torch.ones(2), torch.ones(2).double(), {}, "one shape, type and device"),
        (torch.ones(2).long(), torch.ones(2).long(), {}, "floating-point"),
        (torch.ones(2), torch.ones(2), {"stop": "left"}, "stop must be one of none, first, second"),
    ],
)
def test_wrong_arguments_are_named(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        consistency(a, b, **options)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_sum_of_millions_of_squares_is_accurate(layout):
    a, b = (torch.randn(32, 3, 129, 127, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    found = consistency(a.contiguous(memory_format=layout), b.contiguous(memory_format=layout))
    assert found.item() == pytest.approx((a.double() - b.double()).square().mean().item(), rel=1e-6)
