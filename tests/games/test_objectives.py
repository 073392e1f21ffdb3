"""What the game does for objectives of its own kinds: real images in G's phase, features, a memory, draws for real images."""

import pytest
import torch
from toys import TINY

from fastgan.config import override
from fastgan.draw import Draw
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset
from fastgan.training.loop import build_session, open_source


def session_of(*fields, name="grid25", small=("network.width=8", "training.batch_size=6")):
    config = override(preset(name), [*small, *fields])
    return build_session(config, open_source(config))


def judged_images(session, phase):
    """Rows that D is shown in this phase's loss, pass by pass."""
    rows = []
    handle = session.game.discriminator.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    batch = next(session.stream)
    with session.game.turn({"D": "discriminator", "G": "generator"}[phase.name]):
        phase.loss(batch, Draw(0, phase.name, 3, torch.arange(6)))
    handle.remove()
    session.stream.close()
    return rows


@pytest.mark.parametrize("name", OBJECTIVES)
def test_real_images_are_judged_in_gs_phase_where_the_objective_asks(name):
    session = session_of(f"objective={name}", "terms.r1=null")
    discriminate, generate = session.game.phases()
    assert judged_images(session, discriminate) == [12]
    assert judged_images(session, generate) == ([6, 6] if OBJECTIVES[name].real_in_generator else [6])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rounds_are_finite_and_move_both_players(name):
    """Only D's head stays where it does not matter: a constant added to all scores, or all of a head without a score."""
    fields = [f"objective={name}", "terms.r1=null", "discriminator.weight_decay=0"]
    session = session_of(*fields, *([] if OBJECTIVES[name].pairs else ["training.generator_batch=2"]))
    before = {key: tensor.clone() for key, tensor in session.game.named_parameters()}
    for _ in range(3):
        session.play_round()
    session.stream.close()
    assert session.is_finite()
    still = {key for key, tensor in session.game.named_parameters() if torch.equal(tensor, before[key])}
    head = {key for key in before if key.startswith("discriminator") and key.split(".")[-2] == "6"}
    assert len(head) == 2
    shifts = {key for key in head if key.endswith("bias")}
    unmoved = {"wasserstein", "gan-qp", "softmax", "relativistic", "relativistic-average", "c-transform"}
    assert still == (head if not OBJECTIVES[name].refines else set()) or (name in unmoved and still <= shifts)


def test_fishers_multiplier_follows_its_rule_and_is_part_of_the_state():
    session = session_of("objective=fisher", "objective_options.rho=0.25", "training.n_dis=3", "terms.r1=null")
    expected = 0.0
    for _ in range(3):
        session.play_round()
        constraint = session.read_tally()["D/constraint"]  # the mean over the round's three turns
        expected -= 0.25 * constraint
        state = session.state_dict()["game"]
        assert state["memory.objective.multiplier"].item() == pytest.approx(expected, rel=1e-5)
    session.stream.close()

    other = session_of("objective=fisher", "objective_options.rho=0.25", "training.n_dis=3", "terms.r1=null")
    batch, draw = next(other.stream), Draw(0, "D", 3, torch.arange(6))
    other.game.load_state_dict(state)
    loss, statistics = other.game.discriminator_loss(batch, draw)
    other.stream.close()
    gap, c = statistics["score_real"] - statistics["score_fake"], statistics["constraint"]
    torch.testing.assert_close(loss.detach(), -gap - expected * c + 0.125 * c**2)


@pytest.mark.parametrize("name", ["relativistic-average", "mmd", "fisher"])
@pytest.mark.parametrize("family", ["digits-sngan-qua", "digits-cdcgan"])
def test_images_with_augmentation_pairs_and_more_latents_than_images(name, family):
    """Transforms are drawn for the samples that there are: of real images for B, of generated ones for 2 B."""
    fields = [f"objective={name}", "augmentation.policy=diffaugment", "latent.refine_steps=0"]
    if family == "digits-sngan-qua":
        fields.append("training.generator_batch=2")
    else:
        fields += ["latent.pair=random", "terms.mode_seeking.weight=1"]
    session = session_of(*fields, name=family, small=TINY)
    shown, forward = [], session.game.augmentation.forward

    def watched(draw, view, images):
        assert len(draw.rows) == len(images)
        shown.append((draw.purpose, view))
        return forward(draw, view, images)

    session.game.augmentation.forward = watched
    for _ in range(2):
        session.play_round()
    session.stream.close()
    assert session.is_finite()
    assert (("G", "real") in shown) == OBJECTIVES[name].real_in_generator
