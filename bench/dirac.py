"""The Dirac-GAN: how objectives and penalties move the smallest game there is, drawn: `python -m bench.dirac`.

One real point, 0; G is a point theta, D a line, D(x) = psi x (Mescheder, Geiger, Nowozin, "Which training methods for GANs do
actually converge?", ICML 2018, section 2). At the only equilibrium both are 0. The losses are those that training takes, of
`AdversarialGame`, with its terms; only the optimiser is another:

    flow            d theta/dt = -dL_G/d theta,  d psi/dt = -dL_D/d psi,  by Runge and Kutta's fourth-order method
    alternating     a step of D, then one of G: the round
    simultaneous    both at once: merged training (`training.merged`)
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fastgan.checked import UserError, nearest
from fastgan.draw import Draw
from fastgan.games import AdversarialGame
from fastgan.latent import Prior
from fastgan.objectives import OBJECTIVES
from fastgan.terms import R1, R2, Dragan, Term, WganGP

START = (1.0, 1.0)
PICTURE = Path("docs/images/dirac.png")
PENALTIES: dict[str, Mapping[str, Term]] = {
    "none": {},
    "R1": {"r1": R1(gamma=1.0)},
    "R2": {"r2": R2(gamma=1.0)},
    "R1 + R2": {"r1": R1(gamma=0.5), "r2": R2(gamma=0.5)},
    "WGAN-GP": {"wgan_gp": WganGP(weight=0.5)},
    "DRAGAN": {"dragan": Dragan(weight=0.5, form="normal")},
}
OF_SCORES = ("wasserstein", "minimax", "non-saturating", "hinge", "least-squares", "relativistic", "relativistic-average")
"""Objectives that are drawn, where the table has them."""
Play = Literal["flow", "alternating", "simultaneous"]


class Point(nn.Module):
    """theta, whatever the latent: (B, dim) -> (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return self.theta.expand(len(z), 1)


class Line(nn.Module):
    """psi x: (B, 1) -> (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.psi * x).squeeze(1)


class DiracGan:
    """The game of an objective and a penalty, and where it goes.

    Args:
        objective: a name of `OBJECTIVES` that looks at scores.
        penalty: a name of `PENALTIES`.

    Raises:
        UserError: there is no such one.
    """

    def __init__(self, objective: str, penalty: str = "none") -> None:
        for name, known in ((objective, OBJECTIVES), (penalty, PENALTIES)):
            if name not in known:
                raise UserError(f"unknown {name!r}: {nearest(name, known)}")
        options = {"prior": Prior(1), "objective": OBJECTIVES[objective], "terms": PENALTIES[penalty]}
        self.game = AdversarialGame(Point(), Line(), **options)
        self.batch = {"images": torch.zeros(1, 1, dtype=torch.float64)}

    def path(self, play: Play = "flow", step: float = 0.05, steps: int = 600) -> np.ndarray:
        """(steps + 1, 2) float64: theta and psi from `START` on, one row a step of this size."""
        here, found = np.array(START), [START]
        for _ in range(steps):
            here = self._moved(here, play, step)
            found.append(tuple(here))
        return np.array(found)

    def slope(self, at: np.ndarray) -> np.ndarray:
        """(-dL_G/d theta, -dL_D/d psi) at (theta, psi)."""
        theta, psi = self.game.generator.theta, self.game.discriminator.psi
        with torch.no_grad():
            theta.fill_(at[0])
            psi.fill_(at[1])
        found = []
        for player, loss, weight in (
            ("generator", self.game.generator_loss, theta),
            ("discriminator", self.game.discriminator_loss, psi),
        ):
            with self.game.turn(player):
                value, _ = loss(self.batch, Draw(0, player, 0, torch.arange(1)))
                found.append(-torch.autograd.grad(value, weight)[0].item())
        return np.array(found)

    def _moved(self, here: np.ndarray, play: Play, step: float) -> np.ndarray:
        if play == "simultaneous":
            return here + step * self.slope(here)
        if play == "alternating":
            first = here + step * self.slope(here) * (0, 1)
            return first + step * self.slope(first) * (1, 0)
        a = self.slope(here)
        b = self.slope(here + step / 2 * a)
        c = self.slope(here + step / 2 * b)
        return here + step / 6 * (a + 2 * b + 2 * c + self.slope(here + step * c))


def distances(path: np.ndarray) -> tuple[float, float]:
    """The path's distance from the equilibrium at its end, and the largest over its last quarter, over that of its start."""
    radius = np.hypot(*path.T) / np.hypot(*path[0])
    return float(radius[-1]), float(radius[-len(path) // 4 :].max())


def main(picture: Path = PICTURE, step: float = 0.05, steps: int = 600) -> None:
    """Draw the paths, and print how far from the equilibrium each ends, as a share of where it began.

    Args:
        picture: Where they are drawn.
        step: Size of a step.
        steps: Steps of each path.
    """
    rows = [name for name in OF_SCORES if name in OBJECTIVES]
    columns: list[tuple[str, Play]] = [(penalty, "flow") for penalty in PENALTIES]
    columns += [("none", "alternating"), ("none", "simultaneous")]
    paths = {(row, column): DiracGan(row, column[0]).path(column[1], step, steps) for row in rows for column in columns}
    table = Table("objective", *(_title(column) for column in columns), box=None)
    for row in rows:
        table.add_row(row, *(f"{distances(paths[row, column])[0]:.2g}" for column in columns))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    draw(paths, rows, columns, picture)


def draw(
    paths: Mapping[tuple[str, tuple[str, Play]], np.ndarray], rows: list[str], columns: list[tuple[str, Play]], picture: Path
) -> None:
    """Objectives by rows, penalties by columns: theta across, psi up; a ring where a path begins, a dot where it ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 * len(columns), 1.6 * len(rows)), dpi=100, layout="constrained")
    for axes, (row, column) in zip(
        figure.subplots(len(rows), len(columns), squeeze=False).flat, [(r, c) for r in rows for c in columns], strict=True
    ):
        theta, psi = paths[row, column].T
        axes.plot(theta, psi, color="#1f5fa8", linewidth=0.7)
        axes.plot(theta[0], psi[0], "o", color="#1f5fa8", markerfacecolor="white", markersize=5)
        axes.plot(theta[-1], psi[-1], "o", color="#c44e2d", markersize=4)
        axes.plot(0, 0, "+", color="black", markersize=6)
        axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
        if row == rows[0]:
            axes.set_title(_title(column), fontsize=8)
        if column == columns[0]:
            axes.set_ylabel(row, fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def _title(column: tuple[str, Play]) -> str:
    penalty, play = column
    return play if play != "flow" else "no penalty" if penalty == "none" else penalty


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m bench.dirac")
    except UserError as error:
        print(f"bench.dirac: {error}", file=sys.stderr)
        sys.exit(2)
