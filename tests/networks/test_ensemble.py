"""A generator that is several: who draws what, and that nothing else notices."""

import pytest
import torch
from torch import nn
from toys import TINY, mlp

from fastgan import games
from fastgan.checked import UserError
from fastgan.config import override
from fastgan.draw import Draw
from fastgan.latent import Prior, refine
from fastgan.networks import build
from fastgan.networks.ensemble import Ensemble
from fastgan.planning import plan
from fastgan.presets import preset
from fastgan.training.loop import build_session, check_batch_norm, check_shares, open_source


class Constant(nn.Module):
    """Draws its own number for any latent, or the latent's second coordinate beside it."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, z, *labels):
        return torch.stack([self.value.expand(len(z)), z[:, 0], *(label.float() for label in labels)], dim=1)


@pytest.mark.parametrize("kind", ["normal", "uniform", "truncated-normal"])
def test_each_member_draws_its_share_in_its_place(kind):
    z = Prior(3, kind, 1.0)(Draw(0, "test", 0, torch.arange(4000)))
    ensemble = Ensemble([Constant(k) for k in range(4)], kind, 1.0)
    images = ensemble(z, torch.arange(4000))
    assert torch.equal(images[:, 1], z[:, 1])
    assert torch.equal(images[:, 2], torch.arange(4000.0))
    assert torch.equal(images[:, 0].long(), ensemble.member_of(z))
    shares = images[:, 0].long().bincount(minlength=4) / 4000
    assert shares.sub(0.25).abs().max() < 0.03
    for bound in (0.0, torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max):
        assert 0 <= ensemble.member_of(torch.tensor([[bound]])) < 4


def test_a_batch_may_be_cut_anywhere_and_may_be_empty():
    torch.manual_seed(0)
    ensemble, z = Ensemble([mlp(3, 8, 2) for _ in range(3)]), torch.randn(7, 4)
    whole = ensemble(z)
    torch.testing.assert_close(torch.cat([ensemble(z[:2]), ensemble(z[2:])]), whole)
    assert ensemble(z[:0]).shape == (0, 2)
    lonely = z.clone()
    lonely[:, 0] = -9.0
    torch.testing.assert_close(ensemble(lonely), ensemble.members[0](lonely[:, 1:]))


def test_refinement_moves_every_coordinate_but_the_choice():
    torch.manual_seed(0)
    ensemble, judge, z = (
        Ensemble([mlp(3, 8, 2) for _ in range(3)]),
        nn.Sequential(mlp(2, 8, 1), nn.Flatten(0)),
        torch.randn(9, 4),
    )
    for options in ({}, {"direction": "l2"}, {"momentum": 0.5}):
        moved = refine(ensemble, judge, z, steps=3, **options)
        assert torch.equal(moved[:, 0], z[:, 0])
        assert (moved[:, 1:] != z[:, 1:]).all()


def test_a_run_trains_every_member():
    config = override(preset("digits-sngan-qua"), [*TINY, "network.ensemble=3"])
    session = build_session(config, open_source(config))
    members = session.game.generator.members
    before = [[p.clone() for p in member.parameters()] for member in members]
    assert len({sum(p.sum().item() for p in start) for start in before}) == 3  # initial weights of their own
    for _ in range(2):
        session.play_round()
    session.stream.close()
    assert session.is_finite()
    for member, start in zip(members, before, strict=True):
        assert any((p != q).any() for p, q in zip(member.parameters(), start, strict=True))


def test_a_plan_knows_it():
    config = override(preset("digits-sngan"), ["network.ensemble=2", "latent.dim=65"])
    alone, both = (build(override(config, [f"network.ensemble={n}"]))[0] for n in (1, 2))
    assert sum(p.numel() for p in both.parameters()) > 1.9 * sum(p.numel() for p in alone.parameters())
    assert plan(config, 1, "h100")


def test_a_latent_of_one_coordinate_is_refused():
    with pytest.raises(UserError, match=r"network\.ensemble spends a coordinate of z"):
        override(preset("digits-sngan"), ["network.ensemble=2", "latent.dim=1"])


@pytest.mark.parametrize("field", ["terms.zcr.weight=5", "terms.zcr_diversity.weight=1", "terms.mode_seeking.weight=1"])
def test_terms_that_compare_latents_are_refused(field):
    with pytest.raises(UserError, match=r"compares images of two latents, which network\.ensemble may"):
        override(preset("digits-sngan"), ["network.ensemble=2", field])


def test_ranks_that_would_wait_for_each_other_are_refused():
    config = override(preset("digits-sngan"), [*TINY, "network.ensemble=2"])
    game = games.build(config).train()
    with pytest.raises(UserError, match=r"network\.batch_norm_ranks=1"):
        check_batch_norm(config, game, 2)
    assert check_batch_norm(override(config, ["network.batch_norm_ranks=1"]), game, 2) == 1
    check_shares(config, 2)
    with pytest.raises(UserError, match=r"engine\.kind=local"):
        check_shares(override(config, ["engine.kind=deepspeed"]), 2)
