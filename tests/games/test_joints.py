"""Games of other kinds than the ordinary one, played by the same session: the joints carry them."""

from functools import partial

import pytest
import torch
from toys import Began, CycleGan, Growing, PointStream, make_session, saved, tensors


def make(name):
    torch.manual_seed(0)
    if name == "began":
        return make_session(Began())
    if name == "cyclegan":
        return make_session(CycleGan(), partial(PointStream, keys=("a", "b")))
    return grown()


def grown():
    session = make_session(Growing())
    session.make_stream = lambda stage: PointStream(16, size=2 + 2 * stage)
    return session


def play(session, rounds):
    for _ in range(rounds):
        session.play_round()


@pytest.mark.parametrize("name", ["began", "cyclegan", "growing"])
def test_a_game_resumes_bit_for_bit(name):
    undisturbed = make(name)
    play(undisturbed, 7)
    interrupted = make(name)
    play(interrupted, 5)
    resumed = make(name)
    resumed.load_state_dict(saved(interrupted))
    play(resumed, 2)
    expected, found = tensors(undisturbed), tensors(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[path], tensor) for path, tensor in expected.items())
    assert resumed.read_tally() == undisturbed.read_tally()


def test_began_balances_by_its_own_state():
    session = make("began")
    assert session.game.k == 0
    play(session, 1)
    tally = session.read_tally()
    assert session.game.k.item() == pytest.approx(max(0, 0.01 * (0.5 * tally["D/real"] - tally["D/fake"])))
    play(session, 300)
    assert 0 < session.game.k < 1
    assert "game/k" in "".join(tensors(session))


def test_cyclegan_learns_to_come_back():
    session = make("cyclegan")
    play(session, 1)
    start = session.read_tally()["G/cycle"]
    play(session, 300)
    session.read_tally()
    play(session, 1)
    assert session.read_tally()["G/cycle"] < 0.25 * start
    assert set(session.average.networks) == {"to_a", "to_b"}


def test_a_growing_game_enters_its_stage_with_new_engines_and_stream():
    session = make("growing")
    before = session.engines["generator"]
    play(session, 4)
    assert session.stage == 0
    learned = session.game.generator[0].weight.clone()
    play(session, 1)
    assert session.stage == 1
    assert session.engines["generator"] is not before
    assert session.images == 5 * 16
    assert session.stream.seen == 5 * 16  # the new stream goes on in the order of the old one
    assert next(session.stream)["images"].shape == (16, 4)
    assert session.average.networks["generator"](torch.zeros(1, 2)).shape == (1, 4)
    assert (session.game.generator[0].weight - learned).abs().max() < 0.1  # what was learned is kept
