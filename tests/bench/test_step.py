import json

import pytest
import torch

from bench import step
from bench.eager import EagerStep
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.networks.sn_cnn import Discriminator, Generator
from fastgan.presets import preset


def tiny(**fields):
    settings = ("data.resolution=16", "data.channels=1", "network.width=2", "latent.dim=8", "training.batch_size=4")
    return override(preset("digits-sngan-qua"), [*settings, *(f"{name.replace('__', '.')}={v}" for name, v in fields.items())])


@pytest.mark.parametrize(("steps", "multiple", "of_g", "of_d"), [(0, 1, 4, 8), (1, 1, 6, 10), (1, 2, 9, 12), (3, 2, 13, 16)])
def test_needed_work_counted_by_hand(steps, multiple, of_g, of_d):
    config = tiny(latent__refine_steps=steps, training__generator_batch=multiple)
    # two operations for each product: outputs x inputs of a linear layer; a transposed convolution works at its input's places
    generator = 2 * 4 * (8 * 16 * 4 + 4 * 16 * 8 * 16 + 16 * 8 * 4 * 16 + 64 * 4 * 2 * 16 + 256 * 2 * 1 * 9)
    convolutions = 256 * 1 * 2 * 9 + 64 * 2 * 2 * 16 + 64 * 2 * 4 * 9 + 16 * 4 * 4 * 16 + 16 * 4 * 8 * 9 + 4 * 8 * 8 * 16
    discriminator = 2 * 4 * (convolutions + 4 * 8 * 16 * 9 + 64)
    assert step.needed_flop(config) == of_g * generator + of_d * discriminator


def test_the_eager_networks_are_ours_in_another_hand():
    """The same parameters, and the same function of them for the generator (D's spectral vectors start elsewhere)."""
    config = tiny()
    eager = EagerStep(config)
    ours, theirs = Generator(8, 16, 1, 2), eager.generator
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
        # ours reads the linear layer's output channels last, theirs channels first
        ours.linear.weight.copy_(theirs[0].weight.view(16, 4, 8).transpose(0, 1).reshape(64, 8))
        ours.linear.bias.copy_(theirs[0].bias.view(16, 4).T.flatten())
    z = torch.randn(4, 8)
    torch.testing.assert_close(ours(z), theirs(z))
    count = [sum(p.numel() for p in network.parameters()) for network in (Discriminator(16, 1, 2), eager.discriminator)]
    assert count[0] == count[1]


def test_the_eager_round_steps_both_players():
    eager = EagerStep(tiny())
    before = [p.clone() for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    eager(torch.rand(4, 1, 16, 16))
    after = [p for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_measurement_is_written_and_drawn(tmp_path):
    result = step.measure(tiny(), turns=1)
    step.draw(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    found = json.loads(json.dumps(result))
    assert set(found["seconds"]) == {"eager", "fp32", "bf16"}
    assert found["speedup"]["fp32"] == pytest.approx(found["seconds"]["eager"] / found["seconds"]["fp32"])
    assert found["share_of_product_rate"]["bf16"] > 0


@pytest.mark.parametrize("name", ["cifar10-dcgan-qua", "digits-r1-qua", "grid25"])
def test_presets_without_a_baseline_are_refused(name):
    with pytest.raises(UserError, match="baseline"):
        step._config(name, 4, None)
