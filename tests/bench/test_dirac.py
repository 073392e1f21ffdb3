"""The smallest game: what is known of its paths (Mescheder, Geiger, Nowozin, ICML 2018, sections 2 to 4), asserted."""

import numpy as np
import pytest

from bench import dirac
from bench.dirac import DiracGan, distances
from fastgan.checked import UserError


@pytest.mark.parametrize(("objective", "pull"), [("wasserstein", 1.0), ("hinge", 1.0), ("minimax", None)])
def test_without_a_penalty_it_circles(objective, pull):
    """For ever, at its distance: the flow keeps a function of it, for Wasserstein's the distance itself."""
    path = DiracGan(objective).path(step=0.1, steps=200)
    radius = np.hypot(*path.T)
    turns = np.abs(np.diff(np.unwrap(np.arctan2(path[:, 1], path[:, 0])))).sum() / (2 * np.pi)
    assert turns > 1
    assert 0.9 * radius[0] < radius.min() < radius.max() < 1.1 * radius[0]
    if pull is not None:  # psi' = -theta, theta' = psi
        wanted = np.array([np.cos(2.0) + np.sin(2.0), np.cos(2.0) - np.sin(2.0)])
        np.testing.assert_allclose(DiracGan("wasserstein").path(step=0.1, steps=20)[-1], wanted, rtol=1e-5)


@pytest.mark.parametrize("penalty", ["R1", "R2", "R1 + R2"])
@pytest.mark.parametrize(
    "objective", ["wasserstein", "minimax", "non-saturating", "hinge", "relativistic", "relativistic-average"]
)
def test_with_zero_centred_penalties_it_converges(objective, penalty):
    """At the rate of the linearised flow: exp(-gamma t / 2) for Wasserstein's."""
    path = DiracGan(objective, penalty).path(step=0.1, steps=200)
    assert distances(path)[0] < 1e-2
    if objective == "wasserstein":
        assert distances(path)[0] == pytest.approx(np.exp(-0.5 * 20), rel=1.0)


@pytest.mark.parametrize("penalty", ["WGAN-GP", "DRAGAN"])
@pytest.mark.parametrize("objective", ["wasserstein", "minimax", "non-saturating", "hinge"])
def test_penalties_that_ask_for_a_slope_of_one_do_not_converge(objective, penalty):
    assert distances(DiracGan(objective, penalty).path(step=0.1, steps=200))[1] > 0.5


@pytest.mark.parametrize("penalty", ["none", "R1", "WGAN-GP"])
def test_least_squares_leaves_theta_where_psi_has_vanished(penalty):
    theta, psi = DiracGan("least-squares", penalty).path(step=0.1, steps=300)[-1]
    assert abs(theta) > 1
    assert abs(psi) < 0.15


def test_the_non_saturating_game_creeps_in():
    end = [distances(DiracGan("non-saturating", penalty).path(step=0.1, steps=200))[0] for penalty in ("none", "R1")]
    assert end[0] > 0.3 > 1e-2 > end[1]


def test_steps_of_both_at_once_lead_outward_and_turns_do_not():
    """Each step of both at once multiplies Wasserstein's distance by sqrt(1 + h^2); taken in turns they keep an ellipse."""
    game = DiracGan("wasserstein")
    assert distances(game.path("simultaneous", 0.1, 200))[0] == pytest.approx(1.01**100, rel=1e-6)
    assert distances(game.path("alternating", 0.1, 200))[1] < 1.1


def test_the_command_prints_and_draws(tmp_path, capsys):
    dirac.main(tmp_path / "dirac.png", step=0.1, steps=2)
    assert (tmp_path / "dirac.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "wasserstein" in printed
    assert "simultaneous" in printed


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="unknown 'R3'"):
        DiracGan("hinge", "R3")
