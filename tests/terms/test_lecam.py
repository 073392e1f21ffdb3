"""LeCam against its formula, and the averages that it keeps."""

import pytest
import torch
from scenes import Critic, applied, assert_same, scene, weights
from toys import TINY

from fastgan.checked import UserError
from fastgan.config import Config, override
from fastgan.presets import preset
from fastgan.terms import LeCam
from fastgan.training.loop import build_session, open_source


def knowing(real, fake, rounds=5.0):
    return {
        "lecam": {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in (("real", real), ("fake", fake), ("rounds", rounds))
        }
    }


def by_hand(network, seen, term, real, fake):
    labels = ((), ()) if seen.real_labels is None else ((seen.real_labels,), (seen.fake.labels,))
    above = network(seen.real, *labels[0]) - fake
    below = real - network(seen.fake.images, *labels[1])
    if term.one_sided:
        above, below = above * (above > 0), below * (below > 0)
    return term.weight * ((above**2).sum() / above.numel() + (below**2).sum() / below.numel())


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize(("maps", "classes"), [(False, 0), (True, 0), (False, 3)])
def test_value_and_gradients(one_sided, maps, classes):
    network, term = Critic(maps, classes), LeCam(weight=0.7, one_sided=one_sided)
    middle = network(*(x for x in (scene(classes=classes).real, scene(classes=classes).real_labels) if x is not None))
    real, fake = middle.median().item(), middle.median().item() + 0.01  # scores on either side
    seen = scene(classes=classes, memory=knowing(real, fake))
    expected = by_hand(network, seen, term, real, fake)
    assert_same(applied(term, network, seen), expected, weights(network))


@pytest.mark.parametrize(("start", "rounds", "counts"), [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1), (5, 4, 0), (5, 5, 1)])
def test_it_begins_when_it_should(start, rounds, counts):
    """Never before the averages know a round."""
    seen = scene(memory=knowing(-1.0, 1.0, float(rounds)))
    loss = applied(LeCam(start=start, one_sided=False), Critic(), seen)
    assert (loss > 0) == bool(counts)


def test_half_precision():
    """Distances of scores in bf16 are squared and added up in float32: to 1e-6 of what the rounded scores give."""
    network, seen = Critic(maps=True), scene(memory=knowing(0.3, -0.4))

    def rounded(x):
        return network(x).bfloat16()

    for kept in seen.memory["lecam"].values():
        kept.data = kept.data.float()
    found = applied(LeCam(), rounded, seen)
    assert found.dtype == torch.float32
    exact = by_hand(lambda x: rounded(x).double(), seen, LeCam(), 0.3, -0.4)
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)


def test_averages_are_plain_while_young_and_decay_later():
    term, memory, seen = LeCam(decay=0.8), None, [3.0, -1.0, 2.0, 5.0, 0.5, 7.0, -2.0, 1.0]
    memory = {name: torch.tensor(value) for name, value in term.memory.items()}
    average = 0.0
    for number, score in enumerate(seen, 1):
        statistics = {"score_real": torch.tensor(score), "score_fake": torch.tensor(-score), "loss": torch.tensor(9.0)}
        memory = term.remember(memory, statistics)
        average = sum(seen[:number]) / number if number <= 5 else 0.8 * average + 0.2 * score
        assert memory["real"].item() == pytest.approx(average, rel=1e-5)
        assert memory["fake"].item() == pytest.approx(-average, rel=1e-5)
        assert memory["rounds"].item() == number


FIELDS = [
    "terms.lecam.weight=0.5",
    "terms.lecam.decay=0.7",
    "latent.refine_steps=0",
    "training.precision=fp32",
    "discriminator.rate=1e-2",
]


def begun(*fields):
    config = override(preset("digits-sngan-qua"), [*TINY, *FIELDS, *fields])
    return build_session(config, open_source(config))


def test_a_game_remembers_what_its_rounds_have_seen():
    """Over n_dis turns, accumulated or not."""
    for parts in (1, 2):
        session, scores = begun("training.n_dis=2", f"training.accumulate={parts}"), []
        after = session.game.after
        session.game.after = lambda statistics, after=after, scores=scores: (scores.append(statistics["D"]), after(statistics))
        for _ in range(4):
            session.play_round()
        session.stream.close()
        memory = session.game.memory["lecam"].read()
        for side in ("real", "fake"):
            average = 0.0
            for number, statistics in enumerate(scores, 1):
                share = max(1 / number, 1 - 0.7)
                average += share * (statistics[f"score_{side}"].item() - average)
            assert memory[side].item() == pytest.approx(average, rel=1e-5)
        assert {"memory.lecam.real", "memory.lecam.fake", "memory.lecam.rounds"} <= session.game.state_dict().keys()


def test_it_holds_ds_scores_together():
    spread = {}
    for weight in (0, 30):
        session = begun(f"terms.lecam.weight={weight}")
        for _ in range(12):
            session.play_round()
        session.stream.close()
        memory = session.game.memory["lecam"].read()
        spread[weight] = (memory["real"] - memory["fake"]).abs().item()
    assert spread[30] < spread[0]


@pytest.mark.parametrize(("wrong", "named"), [("decay=1", "decay"), ("start=-1", "start"), ("weight=-1", "weight")])
def test_settings_out_of_range_are_one_line(wrong, named):
    with pytest.raises(UserError, match=named) as caught:
        override(Config(), [f"terms.lecam.{wrong}"])
    assert "\n" not in str(caught.value)
