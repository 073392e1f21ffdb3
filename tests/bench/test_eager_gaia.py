"""The eager baseline of GAIA is the same computation as the game: the same functions, losses and shares of the rate."""

import pytest
import torch

from bench import step
from bench.eager import check_written, eager_round
from fastgan import games
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.presets import preset


def tiny(*changes, channels=1, downsamplings=2, blocks=1):
    settings = (
        "data.resolution=16", f"data.channels={channels}", "network.width=4", "network.content=7", "network.style=6",
        f"network.blocks={blocks}", f"network.downsamplings={downsamplings}", "training.batch_size=6", "training.device=cpu",
    )  # fmt: skip
    return override(preset("gaia-digits"), [*settings, *changes])


def weights(ours):
    """Our weights by the names of the plain network, in its order."""
    found, content = {}, ours.from_content
    for name, value in ours.state_dict().items():
        part, _, rest = name.partition("_encoder.")
        if name.startswith("first."):
            for encoder, half in zip(("content", "style"), value.chunk(2), strict=True):
                found[f"{encoder}_encoder.0.{name.removeprefix('first.')}"] = half
            continue
        if rest:
            number, _, last = rest.partition(".")
            name = f"{part}_encoder.{int(number) + 1}.{last}"
        if name.startswith("from_content"):
            value = value.unflatten(0, content.map).movedim(2, 0).flatten(0, 2)
        if name == "to_content.weight":
            value = value.unflatten(1, content.map).movedim(3, 1).flatten(1)
        found[name] = value
    return found


def both(config):
    """The game and the eager round of it, with the same weights, all different from their first values, in float64."""
    torch.manual_seed(0)
    game, eager = games.build(config).double(), eager_round(config)
    with torch.no_grad():
        for parameter in game.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for ours, theirs in ((game.generator, eager.generator), (game.discriminator, eager.discriminator)):
        theirs.double().load_state_dict(weights(ours))
    return game, eager


@pytest.mark.parametrize("shape", [{"channels": 3}, {"downsamplings": 1, "blocks": 2}])
def test_plain_networks_are_the_same_functions_of_the_same_parameters(shape):
    config = tiny(**shape)
    game, eager = both(config)
    x = step._real(config).double()
    for ours, theirs in ((game.generator, eager.generator), (game.discriminator, eager.discriminator)):
        given = [x.clone().requires_grad_() for _ in range(2)]
        images = [network(one) for network, one in zip((ours, theirs), given, strict=True)]
        torch.testing.assert_close(*images)
        direction = torch.randn_like(x)
        torch.testing.assert_close(
            *(torch.autograd.grad((y * direction).sum(), one)[0] for y, one in zip(images, given, strict=True))
        )


@pytest.mark.parametrize("changes", [(), ("gaia.structure=0.3", "gaia.slope=3", "gaia.mix_deviation=0.5")])
def test_the_eager_round_has_the_games_losses(changes):
    config = tiny(*changes)
    game, eager = both(config)
    draw, real = Draw(3, "gaia", 0, torch.arange(6)), step._real(config).double()
    of_generator, _ = game.generator_loss({"images": real}, draw)
    of_discriminator, statistics = game.discriminator_loss({"images": real}, draw)
    share = game.paces({"D": statistics})["discriminator"]
    noise = draw.normal("mixture", 1).flatten().double()
    for ours, theirs in zip((of_generator, of_discriminator, share), eager.losses(real, noise), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)  # shares of mixtures are float32


def test_a_round_steps_both_by_their_own_losses_and_shares():
    config = tiny()
    _, eager = both(config)
    before = [p.clone() for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    eager(step._real(config).double())
    after = [p for network in (eager.generator, eager.discriminator) for p in network.parameters()]
    assert not any(map(torch.equal, before, after))
    rates = [optimiser.param_groups[0]["lr"] for optimiser in eager.optimisers]
    assert sum(rates) == pytest.approx(config.generator.rate)


def test_needed_work_in_units_of_forwards():
    config = tiny()
    generator, discriminator = (network.to("meta") for network in games.build(config).played().values())
    x = step._real(config).to("meta")
    encoder, whole = step._flop(generator.encode, x, None), step._flop(generator, x, None)
    decoder = whole - encoder
    assert step.needed_flop(config) == 3 * encoder + 6 * decoder + 13 * step._flop(discriminator, x, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gaia.detached=true", "no gaia.detached"),
        ("gaia.mixtures=batch", "no gaia.mixtures"),
        ("training.batch_size=5", "no odd batches"),
    ],
)
def test_what_is_not_written_is_refused(change, message):
    check_written(tiny())
    with pytest.raises(UserError, match=message):
        check_written(tiny(change))
    with pytest.raises(UserError, match="no game autoencoder"):
        check_written(preset("digits-autoencoder"))
