import math

import pytest
import torch

from fastgan.latent.paths import KINDS, interpolate


def pairs(*shape, seed=0):
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_both_ends_are_exact_and_a_pair_is_a_row_of_pairs(kind):
    for shape in ((5, 7), (3, 2, 4)):
        a, b = pairs(*shape)
        path = interpolate(a, b, 6, kind)
        assert path.shape == (shape[0], 6, *shape[1:])
        assert torch.equal(path[:, 0], a)
        assert torch.equal(path[:, -1], b)
    a, b = pairs(5, 7)
    assert torch.equal(interpolate(a[2], b[2], 6, kind), interpolate(a, b, 6, kind)[2])
    assert torch.equal(interpolate(a, b, 2, kind), torch.stack([a, b], 1))


def test_a_line_is_the_mean_in_its_middle_and_even():
    a, b = pairs(4, 9)
    path = interpolate(a, b, 5)
    torch.testing.assert_close(path[:, 2], (a + b) / 2)
    torch.testing.assert_close(path.diff(dim=1), ((b - a) / 4)[:, None].expand(-1, 4, -1))


def test_an_arc_is_the_closed_form():
    """In the plane, from angle 0.3 to 1.7 at radius 2: radius 2 at even angles."""
    ends = [2 * torch.tensor([math.cos(x), math.sin(x)], dtype=torch.float64) for x in (0.3, 1.7)]
    angles = torch.linspace(0.3, 1.7, 8, dtype=torch.float64)
    expected = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    torch.testing.assert_close(interpolate(*ends, 8, "spherical"), expected, rtol=0, atol=1e-14)


def test_an_arc_keeps_the_length_and_its_steps_are_equal_angles():
    a, b = (torch.nn.functional.normalize(end, dim=1) * 3 for end in pairs(6, 12))
    path = interpolate(a, b, 7, "spherical")
    torch.testing.assert_close(path.norm(dim=2), torch.full((6, 7), 3.0, dtype=torch.float64))
    chords = path.diff(dim=1).norm(dim=2)
    torch.testing.assert_close(chords, chords[:, :1].expand_as(chords))
    assert (interpolate(a, b, 7)[:, 3].norm(dim=1) < 2.9).all()  # where the line cuts the corner


def test_where_there_is_no_arc_the_line_is_taken():
    a = pairs(3, 5)[0]
    for b in (a, 2 * a, -a, torch.zeros_like(a), a * (1 + 1e-15)):
        torch.testing.assert_close(interpolate(a, b, 4, "spherical"), interpolate(a, b, 4))
    zero = torch.zeros(3, 5)
    assert torch.equal(interpolate(zero, zero, 4, "spherical"), torch.zeros(3, 4, 5))


def test_near_the_bound_arc_and_line_agree():
    a, tangent = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for angle in (0.9e-4, 1.1e-4):
        b = math.cos(angle) * a + math.sin(angle) * tangent
        torch.testing.assert_close(interpolate(a, b, 5, "spherical"), interpolate(a, b, 5), rtol=0, atol=2e-9)


def test_in_half_and_single_precision_and_on_tiny_numbers():
    a, b = pairs(4, 8)
    exact = interpolate(a, b, 5, "spherical")
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        path = interpolate(a.to(dtype), b.to(dtype), 5, "spherical")
        assert path.dtype == dtype
        torch.testing.assert_close(path.double(), exact, rtol=tolerance, atol=tolerance)
    tiny = interpolate(1e-30 * a, 1e-30 * b, 5, "spherical")
    torch.testing.assert_close(tiny, 1e-30 * exact, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_differentiable(kind):
    a, b = (end.requires_grad_() for end in pairs(2, 3))
    assert torch.autograd.gradcheck(lambda a, b: interpolate(a, b, 4, kind), (a, b))
    assert interpolate(torch.zeros(0, 3), torch.zeros(0, 3), 4, kind).shape == (0, 4, 3)


def test_what_makes_no_path_is_refused():
    a = torch.zeros(2, 3)
    for arguments, line in (
        ((a, a[:1], 3), "same shape"),
        ((a[0, 0], a[0, 0], 3), "one dimension or more"),
        ((a, a, 1), "steps should be at least 2, not 1"),
        ((a, a, 3, "cubic"), "kind should be linear or spherical, not 'cubic'"),
    ):
        with pytest.raises(ValueError, match=line):
            interpolate(*arguments)
