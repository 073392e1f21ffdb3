from dataclasses import replace

import pytest
import torch

from fastgan.draw import Draw


def test_whole_numbers_are_uniform_and_follow_their_rows():
    draw = Draw(1, "D", 7, torch.arange(20_000))
    numbers = draw.integers("labels", 10)
    assert numbers.dtype == torch.int64
    counts = numbers.bincount(minlength=10)
    assert len(counts) == 10
    assert (counts - 2000).abs().max() < 5 * (2000 * 0.9) ** 0.5
    part = Draw(1, "D", 7, torch.arange(500, 600)).integers("labels", 10)
    assert torch.equal(part, numbers[500:600])
    assert not torch.equal(Draw(1, "D", 7, torch.arange(20_000), turn=1).integers("labels", 10), numbers)


@pytest.mark.parametrize("size", [(2,), (3, 8, 8)])
def test_points_between_have_the_uniform_numbers_of_their_name(size):
    """To the bit what torch.lerp gives with `uniform`, for any part of the rows."""
    draw, (x, y) = Draw(2**63 + 5, "D", 7, torch.arange(40, 60), turn=2), torch.randn(2, 20, *size)
    between = draw.interpolate("between", x, y)
    assert torch.equal(between, torch.lerp(y, x, draw.uniform("between", *[1] * len(size))))
    part = replace(draw, rows=draw.rows[5:])
    assert torch.equal(part.interpolate("between", x[5:], y[5:]), between[5:])


def test_the_bound_itself_never_comes():
    """The largest uniform number times any bound of classes, in the arithmetic that `integers` uses."""
    largest = torch.tensor(1 - 2.0**-24)
    bounds = torch.arange(1, 1 << 16)
    assert (largest < 1) & ((largest * bounds).long() < bounds).all()
