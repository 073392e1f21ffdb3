import torch
from toys import Began

from fastgan.networks.layers import SNLinear
from fastgan.training.average import MovingAverage


def test_a_weight_counts_half_after_its_half_life():
    game = Began()
    average = MovingAverage(game, half_life=100.0, rampup=None)
    before = average.networks["generator"][0].weight.clone()
    with torch.no_grad():
        game.generator[0].weight.fill_(1.0)
    for seen in range(10, 110, 10):
        average.update(game, 10, seen)
    torch.testing.assert_close(average.networks["generator"][0].weight, (before + 1) / 2)


def test_early_on_the_half_life_is_a_share_of_the_images_seen():
    game = Began()
    average = MovingAverage(game, half_life=1e9, rampup=0.05)
    before = average.networks["generator"][0].weight.clone()
    with torch.no_grad():
        game.generator[0].weight.fill_(1.0)
    average.update(game, 10, 200)  # the half-life is 0.05 * 200 images
    torch.testing.assert_close(average.networks["generator"][0].weight, (before + 1) / 2)


def test_no_half_life_is_a_plain_copy_that_takes_no_gradient():
    game = Began()
    average = MovingAverage(game, half_life=0.0, rampup=0.05)
    with torch.no_grad():
        game.generator[0].weight.fill_(1.0)
    average.update(game, 10, 10)
    assert torch.equal(average.networks["generator"][0].weight, game.generator[0].weight)
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


def test_spectral_vectors_are_those_of_the_averaged_weight():
    torch.manual_seed(0)
    game = Began()
    game.generator.append(SNLinear(2, 2))
    average = MovingAverage(game, half_life=20.0, rampup=None)
    for seen in range(10, 300, 10):
        with torch.no_grad():
            game.generator[-1].weight.normal_()
        game.generator[-1].iterate()
        average.update(game, 10, seen)
    layer = average.networks["generator"][-1]
    torch.testing.assert_close(layer.u.norm(), torch.tensor(1.0))
    assert torch.linalg.matrix_norm(layer.normalised_weight(), 2) < 1.1


def test_integer_buffers_are_copied():
    game = Began()
    game.generator.append(torch.nn.BatchNorm1d(2))
    average = MovingAverage(game, half_life=100.0, rampup=None)
    game.generator(torch.randn(4, 2))
    average.update(game, 10, 10)
    assert average.networks["generator"][-1].num_batches_tracked == 1
    assert 0 < average.networks["generator"][-1].running_mean.abs().max() < game.generator[-1].running_mean.abs().max()
