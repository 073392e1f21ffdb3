"""Objectives, penalties, consistency, refinement and networks combine freely: every pair of them is played, and the most used
ones in every combination. A new objective enters by itself."""

from itertools import combinations, product

import pytest
import torch

from fastgan import games
from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.networks import build as build_networks
from fastgan.objectives import OBJECTIVES
from fastgan.training.loop import engine_maker
from fastgan.training.session import Session

SMALL = ("network.width=2", "latent.dim=8", "data.resolution=16")
LABELLED = ("network.classes=3",)
BIGGAN = ("latent.dim=16", "data.resolution=32", "network.embedding=4", "network.attention=[16]")
WEIGHT = "terms.wgan_gp.weight=1"

AXES = {
    "network": {
        "mlp": ("network.width=8", "latent.dim=2", "data.source=grid25"),
        "sn-cnn": SMALL,
        "sn-resnet": (*SMALL, "data.resolution=32"),
        "dcgan-cnn": SMALL,
        "wgan-cnn": SMALL,
        "biggan": (*SMALL, *LABELLED, *BIGGAN),
        "dcgan-conditional": (*SMALL, *LABELLED),
    },
    "objective": {name: (f"objective={name}",) for name in OBJECTIVES},
    "penalty": {
        "none": (),
        "r1": ("terms.r1.gamma=1",),
        "r1 lazy": ("terms.r1.gamma=1", "terms.r1.every=2"),
        "r2": ("terms.r2.gamma=1",),
        "r1 and r2": ("terms.r1.gamma=1", "terms.r2.gamma=1"),
        "wgan-gp": (WEIGHT,),
        "wgan-lp": (WEIGHT, "terms.wgan_gp.kind=one-sided"),
        "wgan-div": (WEIGHT, "terms.wgan_gp.kind=power"),
        "max-gp": (WEIGHT, "terms.wgan_gp.kind=max"),
        "dragan": ("terms.dragan.weight=1",),
        "dragan normal": ("terms.dragan.form=normal",),
        "gn": ("network.gradient_norm=gn",),
        "gran": ("network.gradient_norm=gran",),
        "clip": ("discriminator.clip_weights=0.1",),
        "lecam": ("terms.lecam.weight=0.3",),
    },
    "consistency": {
        "none": (),
        "cr": ("terms.cr.weight=10",),
        "bcr": ("terms.bcr.real=10",),
        "zcr": ("terms.zcr.weight=20", "terms.zcr_diversity.weight=0.5"),
        "icr": ("terms.bcr.real=10", "terms.zcr.weight=20", "terms.zcr_diversity.weight=0.5"),
        "diffaugment": ("augmentation.policy=diffaugment",),
        "ada": ("augmentation.policy=ada", "augmentation.target=0.6", "augmentation.every=1", "augmentation.images=8"),
    },
    "refinement": {
        "off": (),
        "1 step": ("latent.refine_steps=1",),
        "2 steps, radius": ("latent.refine_steps=2", "latent.radius=0.01"),
    },
}
"""Axis -> its values and what each sets. Where it makes no difference, the first one is played: what is quick, or nothing."""

MOST_USED = {
    "network": ("sn-cnn", "biggan"),
    "objective": ("hinge", "non-saturating"),
    "penalty": ("none", "r1"),
    "consistency": ("none", "icr"),
    "refinement": ("off", "1 step"),
}
SATURATING = {"f-gan-total-variation"}
"""tanh of a score of 12, where networks of this size may begin, has no slope in float32, and G stays."""
NEEDS_IMAGES = {"cr", "bcr", "icr", "diffaugment", "ada"}

Choice = tuple[str, str]
"""An axis and one of its values."""


def config(choices):
    """What so many choices make, the usual ones on every other axis.

    Raises:
        UserError: they don't go together.
    """
    usual = {axis: next(iter(values)) for axis, values in AXES.items()}
    chosen = usual | {"network": "sn-cnn"} | dict(choices)
    fields = [field for axis, value in chosen.items() for field in AXES[axis][value]]
    fields.append(f"network.family={chosen['network']}")
    common = ("training.batch_size=4", "training.precision=fp32", "training.device=cpu", "training.steps=4")
    return override(Config(), [*fields, *common])


def refusal(*choices: Choice) -> str | None:
    """Why these don't go together."""
    try:
        made = config(choices)
        if {axis for axis, _ in choices} == {"objective", "network"}:  # some ask for networks of a kind
            build_networks(made)
    except UserError as error:
        return str(error)
    return None


def pairs(row):
    """Every two choices of a row, or of all axes where it has all values of each."""
    return {frozenset(pair) for pair in combinations(row, 2)}


def cover(wanted: list[frozenset[Choice]]) -> list[list[Choice]]:
    """Few rows, with a value of each axis, whose pairs are all among those wanted, and are all of them: the first that is
    missing, then axis by axis the value that brings the most missing ones (the greedy algorithm of AETG, Cohen et al. 1997,
    without its dice)."""
    allowed, missing, rows = set(wanted), dict.fromkeys(wanted), []
    while missing:
        row = sorted(next(iter(missing)))
        for axis, values in AXES.items():
            if axis in dict(row):
                continue
            fitting = [(axis, value) for value in values if all(frozenset({(axis, value), other}) in allowed for other in row)]
            assert fitting, f"nothing of {axis} goes with {row}"
            row.append(max(fitting, key=lambda choice: sum(frozenset({choice, other}) in missing for other in row)))
        rows.append(row)
        for pair in pairs(row):
            missing.pop(pair, None)
    return rows


class Images:
    """The same four images, or points, again and again."""

    def __init__(self, config: Config) -> None:
        side = config.data.resolution
        shape = (4, 2) if config.network.family == "mlp" else (4, 3, side, side)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.batch = {"images": images, "labels": torch.arange(4) % 3}

    def __next__(self):
        return self.batch


def wrong(row) -> str | None:
    """Two rounds: what is not finite, or has not moved."""
    made = config(row)
    game = games.build(made).train()
    session = Session(game, engine_maker(made), lambda stage: Images(made), batch_size=4)
    before = [p.detach().clone() for p in game.parameters()]
    for _ in range(2):
        session.play_round()
    if not session.is_finite():
        return "not finite"
    moved = dict(zip(game.parameters(), before, strict=True))
    for player in game.players:
        if player == "generator" and made.objective in SATURATING:
            continue
        if not any((p != moved[p]).any() for network in game.networks_of(player) for p in network.parameters()):
            return f"the {player} has not moved"
    return None


def played(rows) -> None:
    found = {" x ".join(value for _, value in row): wrong(row) for row in rows}
    assert not {row: said for row, said in found.items() if said}


def test_every_pair():
    everything = [(axis, value) for axis, values in AXES.items() for value in values]
    all_pairs = [frozenset(pair) for pair in combinations(everything, 2) if pair[0][0] != pair[1][0]]
    refused = {pair: said for pair in all_pairs if (said := refusal(*pair))}
    assert not any("\n" in said for said in refused.values())
    by_images = {frozenset({("network", "mlp"), ("consistency", value)}) for value in NEEDS_IMAGES}
    assert by_images <= refused.keys()
    assert all(pair in by_images or any(axis == "objective" for axis, _ in pair) for pair in refused), refused
    wanted = [pair for pair in all_pairs if pair not in refused]
    rows = cover(wanted)
    assert set().union(*map(pairs, rows)) == set(wanted)
    assert len(rows) <= 1.5 * len(AXES["objective"]) * len(AXES["penalty"])  # no fewer would do than their product
    played(rows)


@pytest.mark.parametrize("network", MOST_USED["network"])
def test_all_combinations_of_the_most_used(network):
    rest = {axis: values for axis, values in MOST_USED.items() if axis != "network"}
    played([[("network", network), *zip(rest, values, strict=True)] for values in product(*rest.values())])
