import pytest
import torch
from torch import nn

from fastgan.networks.layers import Conv2d, ConvTranspose2d, LinearMap, SNConv2d, SNEmbedding, SNLinear
from fastgan.training.spectra import leading_singular_values, matrices


@pytest.mark.parametrize("shape", [(7, 33), (33, 7), (1, 5), (5, 1), (2, 2), (130, 517)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_they_are_those_of_the_decomposition(shape, dtype):
    torch.manual_seed(0)
    matrix = torch.randn(shape).to(dtype)
    expected = torch.linalg.svdvals(matrix.double())[:3].float()
    found = leading_singular_values(matrix)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=0)
    assert found[len(expected) :].tolist() == [0.0] * (3 - len(expected))


def test_one_that_has_exploded_hides_the_next_by_no_more_than_said():
    torch.manual_seed(0)
    matrix = torch.randn(64, 200)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = (u * torch.cat([torch.tensor([1000.0, 30.0, 10.0]), torch.ones(61)])) @ v
    torch.testing.assert_close(leading_singular_values(matrix), torch.tensor([1000.0, 30.0, 10.0]), rtol=1e-2, atol=0)
    torch.testing.assert_close(leading_singular_values(matrix)[:1], torch.tensor([1000.0]))


@pytest.mark.parametrize("scale", [1e-30, 1e19, 1e35])
def test_squares_that_overflow_or_vanish_do_not_hide_them(scale):
    torch.manual_seed(0)
    matrix = torch.randn(20, 30)
    torch.testing.assert_close(leading_singular_values(matrix * scale), leading_singular_values(matrix) * scale)


def test_the_largest_number_stands_for_what_passes_it():
    found = leading_singular_values(torch.full((30, 30), 3e38))
    assert found[0] == torch.finfo(torch.float32).max
    assert leading_singular_values(torch.zeros(3, 4)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_them(precision):
    matrix = torch.randn(20, 30)
    expected = leading_singular_values(matrix)
    with torch.autocast("cpu", precision):
        assert torch.equal(leading_singular_values(matrix), expected)


def test_sigma_0_of_a_normalised_layer_is_what_it_is_divided_by():
    torch.manual_seed(0)
    layers = SNConv2d(3, 5, 3), SNConv2d(4, 6, 3).to(memory_format=torch.channels_last), SNLinear(9, 4), SNEmbedding(8, 5)
    for layer in layers:
        layer.iterate(200)
        sigma = torch.dot(layer.u, layer._matrix() @ layer.v)
        (matrix,) = matrices(layer).values()
        torch.testing.assert_close(leading_singular_values(matrix)[0], sigma.detach())


def test_every_weight_is_a_matrix_of_outputs_and_the_rest():
    network = nn.Sequential(
        LinearMap(7, 6, 4), ConvTranspose2d(6, 5, 4), nn.BatchNorm2d(5), nn.Sequential(Conv2d(5, 3, 1)), nn.Embedding(10, 2)
    )
    assert {name: tuple(matrix.shape) for name, matrix in matrices(network).items()} == {
        "0.weight": (96, 7),
        "1.weight": (5, 96),
        "3.0.weight": (3, 5),
        "4.weight": (10, 2),
    }
