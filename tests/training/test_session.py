"""What a session says of its stability, and how it goes back. How games are played and resumed: tests/games/test_joints.py."""

import time

import pytest
import torch
from torch import nn
from toys import Began, CycleGan, Growing, PointStream, make_session, saved, tensors

from fastgan.engine import LocalEngine
from fastgan.training.session import Rollbacks


def began(**options):
    torch.manual_seed(0)
    return make_session(Began(), **options)


def play(session, rounds):
    for _ in range(rounds):
        session.play_round()
    return session


def test_measuring_changes_nothing_and_is_asked_of_its_rounds_alone():
    plain, measured = play(began(), 3), began(spectra_every=2)
    assert [bool(play(measured, 1).measure()) for _ in range(3)] == [False, True, False]
    assert plain.measure() == {}
    expected, found = tensors(plain), tensors(measured)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[path], tensor) for path, tensor in expected.items())
    assert not plain.gradient_norms


def test_what_is_measured():
    session, seen = began(spectra_every=2), {}
    for player, engine in session.engines.items():
        engine.optimiser.register_step_pre_hook(
            lambda optimiser, *_, player=player: seen.update(
                {player: torch.cat([p.grad.flatten() for p in optimiser.param_groups[0]["params"]]).norm().item()}
            )
        )
    found = play(session, 2).measure()
    assert found["D/gradient_norm"] == pytest.approx(seen["discriminator"])
    assert found["G/gradient_norm"] == pytest.approx(seen["generator"])
    for player in ("discriminator", "generator"):
        weights = [p.detach().flatten() for p in session.game.get_submodule(player).parameters()]
        assert found[f"weight_norm/{player}"] == pytest.approx(torch.cat(weights).norm().item())
    sigmas = torch.linalg.svdvals(session.game.generator[0].weight.detach()).tolist()
    assert [found[f"sigma_{k}/generator.0.weight"] for k in range(2)] == pytest.approx(sigmas)
    assert "sigma_2/generator.0.weight" not in found  # it has two columns
    assert "sigma_1/discriminator.body.2.weight" in found


def test_a_norm_is_of_the_round_that_is_measured():
    """A lazy phase that has not played in it has none, as after a resume."""
    game = Began()
    lazy = game.phases()[0]
    game.phases = lambda: (*Began.phases(game), type(lazy)("Dreg", "discriminator", game.reconstruct, every=3))
    session = make_session(game, spectra_every=2)
    assert [("Dreg/gradient_norm" in play(session, 2).measure()) for _ in range(3)] == [False, True, False]


def test_a_gradient_that_overflows_has_no_norm():
    session = began(spectra_every=1)
    engine = session.engines["generator"]
    backward = engine.backward
    engine.backward = lambda loss: backward(loss * float("inf"))
    found = play(session, 1).measure()
    assert "D/gradient_norm" in found
    assert "G/gradient_norm" not in found


def test_a_player_of_two_networks_has_one_norm_and_all_their_weights():
    torch.manual_seed(0)
    session = play(make_session(CycleGan(), lambda size: PointStream(size, ("a", "b")), spectra_every=1), 1)
    found = session.measure()
    weights = [p for network in (session.game.to_a, session.game.to_b) for p in network.parameters()]
    assert found["weight_norm/translators"] == pytest.approx(nn.utils.get_total_norm(weights).item())
    assert {"sigma_0/to_a.0.weight", "sigma_0/to_b.0.weight", "sigma_0/on_a.body.0.weight"} <= found.keys()


def test_back_in_an_earlier_round_it_goes_on_otherwise():
    rates = []
    session = began()
    play(session, 2)
    earlier, engine = saved(session), session.engines["generator"]
    set_rate = LocalEngine.set_rate
    engine.set_rate = lambda factor, burnt_in: (rates.append(factor), set_rate(engine, factor, burnt_in))
    before = tensors(play(session, 2))
    session.go_back(earlier, 0.5)
    assert (session.round, session.images, session.stream.seen) == (2, 32, 32)
    assert session.rollbacks == Rollbacks(1, 0.5, 2)
    after = tensors(play(session, 2))
    assert rates == [1.0, 1.0, 0.5, 0.5]
    assert not torch.equal(before["/game/generator.0.weight"], after["/game/generator.0.weight"])
    session.go_back(earlier, 1.0)  # other latents alone
    again = tensors(play(session, 2))
    assert session.rollbacks == Rollbacks(2, 0.5, 2)
    assert not torch.equal(again["/game/generator.0.weight"], after["/game/generator.0.weight"])


def test_what_went_back_resumes_bit_for_bit():
    session = play(began(), 2)
    session.go_back(saved(session), 0.5)
    play(session, 1)
    resumed = began()
    resumed.load_state_dict(saved(session))
    expected, found = tensors(play(session, 2)), tensors(play(resumed, 2))
    assert all(torch.equal(found[path], tensor) for path, tensor in expected.items())
    assert resumed.rollbacks == session.rollbacks


def test_a_state_of_before_rollbacks_were_counted_has_none():
    session = play(began(), 1)
    older = saved(session)
    del older["rollbacks"]
    session.go_back(saved(session), 0.5)
    session.load_state_dict(older)
    assert session.rollbacks == Rollbacks()


def test_a_stage_that_was_left_is_not_entered_again():
    session = make_session(Growing())
    session.make_stream = lambda stage: PointStream(16, size=2 + 2 * stage)
    earlier = saved(play(session, 4))
    play(session, 1)
    with pytest.raises(ValueError, match="stage 0, which this session has left"):
        session.go_back(earlier, 0.5)


class SlowStream(PointStream):
    def __next__(self):
        time.sleep(0.05)
        return super().__next__()


def test_a_session_counts_how_long_it_waits_for_its_stream():
    quick, slow = make_session(Began()), make_session(Began(), SlowStream, accumulate=2)
    for session in (quick, slow):
        session.play_round()
        session.play_round()
    assert 0 < quick.waited < 0.1
    assert slow.waited >= 4 * 0.05
