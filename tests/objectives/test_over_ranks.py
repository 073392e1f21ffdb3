"""Two ranks play every objective as one process of the same global batch does: all in one start of the processes."""

from pathlib import Path

import pytest
import ranks
import torch

from fastgan.config import override
from fastgan.engine import ALONE, join
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset
from fastgan.training.loop import build_session, check_shares, open_source

ROUNDS = 2
SMALL = (
    "network.width=8", "training.batch_size=12", "training.n_dis=2", "training.precision=fp32", "training.device=cpu",
    "generator.eps=1e-4", "discriminator.eps=1e-4",  # with Adam's usual eps rounding alone would move weights by whole steps
    "generator.rate=0.01", "discriminator.rate=0.01",  # without what is gathered no two would be equal
    "terms.r1=null", "training.ema_half_life=100",
)  # fmt: skip
OWN = {"fisher": ("objective_options.rho=0.5",), "mmd": ("objective_options.kernel=gaussian",)}
MANY = ("training.generator_batch=2",)
SHIFTED = {"hinge", "wasserstein", "softmax", "relativistic", "relativistic-average", "gan-qp", "c-transform"}
"""Those to which a constant added to all scores (hinge: to small ones) makes no difference: D's last bias has rounding for its
gradient, which Adam keeps."""
HERE = Path(__file__).parent
PROGRAM = f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]; import test_over_ranks as t; t.main(sys.argv[1])"


def states(count):
    """What each objective's game comes to on this rank."""
    held = join(torch.device("cpu")) if count > 1 else ALONE
    found = {}
    for name, objective in OBJECTIVES.items():
        config = override(preset("grid25"), [*SMALL, f"objective={name}", *OWN.get(name, ()), *(MANY * (not objective.pairs))])
        check_shares(config, count)
        session = build_session(config, open_source(config), held)
        for _ in range(ROUNDS):
            session.play_round()
        found[name] = session.state_dict() | {"read": session.read_tally()}
        session.stream.close()
    return found


def main(folder):
    """What each of the two ranks does."""
    torch.save(states(2), Path(folder) / f"{join(torch.device('cpu')).rank}.pt")


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    for code, _, said in ranks.finish(ranks.start(2, "-c", PROGRAM, folder)):
        assert code == 0, said
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return states(1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_equal_each_other_and_one_process(played, alone, name):
    first, second = (rank[name] for rank in played)
    ranks.assert_equal(first, second)
    read = first.pop("read"), alone[name].pop("read")
    if name in SHIFTED:
        for state in (first, alone[name]):
            state["engines"]["discriminator"]["optimiser"]["state"].pop(7)
            state["game"].pop("discriminator.main.6.bias")
    ranks.assert_close(first, alone[name])
    for statistic, value in read[1].items():
        if not statistic.endswith("separation") or OBJECTIVES[name].couples:  # else a share of pairs within each rank's part
            assert read[0][statistic] == pytest.approx(value, rel=1e-4, abs=1e-5), statistic


def test_the_multiplier_of_fisher_is_the_same_everywhere(played, alone):
    multiplier = alone["fisher"]["game"]["memory.objective.multiplier"]
    assert multiplier != 0
    for rank in played:
        torch.testing.assert_close(rank["fisher"]["game"]["memory.objective.multiplier"], multiplier)
