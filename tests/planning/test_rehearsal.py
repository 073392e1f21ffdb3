import pytest

from fastgan.config import override
from fastgan.planning.rehearsal import PARTS, imagine, rehearse
from fastgan.presets import preset


def test_a_game_is_left_as_it_was_and_rehearsed_again_the_same():
    config = override(preset("digits-r1-qua"), ["terms.r1.every=4", "training.n_dis=2"])
    game = imagine(config)
    before = dict(game.__dict__)
    first, second = (rehearse(game, config, 4, "bf16") for _ in range(2))
    assert {name: game.__dict__[name] for name in before if name != "training"} == {
        name: value for name, value in before.items() if name != "training"
    }
    assert (first.places, first.flops, first.bytes, first.live) == (second.places, second.flops, second.bytes, second.live)
    phases = {place.phase for place in first.places}
    assert phases == {"", "D", "Dreg4", "G"}
    assert {place.part for place in first.places} <= set(PARTS)
    assert {place.part for place in first.places if place.phase == "Dreg4"} == {"forward", "terms", "backward", "step"}
    assert {place.micro for place in first.places if place.part == "refine"} == {0, 1}
    assert {place.micro for place in first.places if place.part == "step"} == {-1}


def test_real_tensors_are_neither_made_nor_computed():
    config = override(preset("cifar10-sngan-cnn"), ["network.width=2048"])
    assert max(rehearse(imagine(config), config, 2**16, "bf16").live) > 2**40


def test_attention_is_counted_without_its_matrix_on_a_gpu():
    fields = ["network.width=32", "network.attention=[32]", "training.n_dis=1", "latent.refine_steps=0"]
    config = override(preset("cifar10-biggan"), fields)  # rows of 16 and 64 halves
    game = imagine(config)
    fused, plain = (rehearse(game, config, 4, "bf16", on_gpu=where) for where in (True, False))
    matrix = 4 * 1024 * 256 * 2
    assert max(fused.live) + matrix < max(plain.live)
    config = override(config, ["network.recompute=true"])
    assert max(rehearse(imagine(config), config, 4, "bf16").live) < max(fused.live)
    assert sum(fused.flops) == pytest.approx(sum(plain.flops), rel=0.05)  # the fused backward computes the matrix once more
