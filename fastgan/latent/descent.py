"""The optimisers of inversion: each row of latents descends by itself, so a row may leave the batch, and its neighbours never
know.

Their state is tensors with a row for each row of latents, in a dict that belongs to the search: it takes rows out. `best_z` and
`best_loss` are the iterate of the lowest loss so far. A step reads nothing from the device, so it can be captured (`replay`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from fastgan.kernels.latent_step import latent_step

OPTIMISERS = ("lbfgs", "adam", "rmsprop")
SCHEDULES = ("cosine", "constant", "linear")

_BETAS = {"adam": (0.9, 0.999), "rmsprop": (0.0, 0.99)}  # torch's defaults
_EPS = 1e-8
HALF_SLACK = 2.0**-6
"""Of L-BFGS in half precision: 32 real digits came to a mean error of 0.0032 in bf16, without it to 0.0048 (fp32: 0.0022)."""
_FLAT = 1e-6
"""Cosine between a move and the change of the gradient up to which L-BFGS learns nothing of it."""


@dataclass(frozen=True)
class Room:
    """Where latents may go."""

    pull: float = 0.0
    """The loss has pull / 2 |z|^2 beside the error: beta / D of a normal prior. Held coordinates don't count."""
    bound: float | None = None
    """Of every coordinate, in absolute value."""
    held: int = 0
    """Leading coordinates that stay."""

    def objective(self, losses: Tensor, z: Tensor) -> Tensor:
        """(B,) losses with the prior's share."""
        return losses + 0.5 * self.pull * z[:, self.held :].square().sum(1) if self.pull else losses


class Adaptive:
    """Adam, and RMSprop as Adam without momentum and corrections.

    Args:
        z: (B, D) starts; moved in place.
        scales: (gradient's, root's) of every step, see `scales`.
    """

    def __init__(self, z: Tensor, room: Room, kind: str, scales: Sequence[tuple[float, float]]) -> None:
        self.room, (self.beta1, self.beta2) = room, _BETAS[kind]
        zeros = {name: torch.zeros_like(z) for name in (("square", "momentum") if self.beta1 else ("square",))}
        self.state = {"z": z, **zeros, "best_z": z.clone(), "best_loss": torch.full_like(z[:, 0], torch.inf)}
        self.scales = torch.tensor(scales, dtype=z.dtype, device=z.device).view(-1, 2)
        self.now = torch.zeros(1, dtype=torch.int64, device=z.device)  # on the device: a captured step must count too

    def step(self, work: dict[str, Tensor], losses: Tensor, grad: Tensor) -> None:
        """One step of every row of `work`, the state, given (B,) losses and (B, D) gradients without the prior's share."""
        room, z = self.room, work["z"]
        scales = self.scales.index_select(0, self.now).flatten()
        latent_step(
            z, grad.to(z.dtype), work["square"], scales, losses, work["best_loss"], work["best_z"],
            momentum=work.get("momentum"), beta1=self.beta1, beta2=self.beta2, eps=_EPS, pull=room.pull, bound=room.bound,
            held=room.held,
        )  # fmt: skip
        self.now += 1


def scales(kind: str, schedule: str, rate: float, steps: int) -> list[tuple[float, float]]:
    """What each of `steps` steps multiplies the mean gradient and the root of the mean squared gradient by."""
    found = []
    for k in range(steps):
        left = {"cosine": 0.5 + 0.5 * cos(pi * k / steps), "linear": 1 - k / steps, "constant": 1.0}[schedule]
        if kind == "rmsprop":
            found.append((rate * left, 1.0))
        else:
            beta1, beta2 = _BETAS[kind]
            found.append((rate * left / (1 - beta1 ** (k + 1)), (1 - beta2 ** (k + 1)) ** -0.5))
    return found


class LBFGS:
    """L-BFGS of each row by itself (Nocedal and Wright, "Numerical optimization", 2nd edition, algorithms 7.4 and 3.1).

    Every iteration looks at one trial point of each row, z + t d. Where the loss has fallen enough (Armijo, 1e-4 of the slope's
    promise) the row moves there, learns from it and tries a whole step along its next direction; elsewhere t is cut to the
    minimum of the parabola through what is known, between 0.1 and 0.5 of it. A direction that fails MAX_CUTS times running is
    dropped with all that was learnt. So rows search along lines of their own, at one forward and backward of the batch each
    time.

    In half precision losses that differ by less than a picture's rounding tell nothing, and a row that waits for its own to
    fall stands still: there a point may lie higher by a share `slack`.

    Moves s and changes of the gradient y are kept divided by sqrt(s . y), which changes no direction: s . y is 1 then, a pair
    of zeros is none, and what two loops over the pairs compute is two triangular systems.

    A trial point beyond a bound is put back to it, and coordinates that the gradient holds on their bound take no part in the
    direction: projected descent (Bertsekas, "Projected Newton methods for optimization problems with simple constraints",
    1982, section 2).
    """

    ARMIJO, MAX_CUTS = 1e-4, 10

    def __init__(self, z: Tensor, room: Room, rate: float, history: int, slack: float = 0.0) -> None:
        self.room, self.rate, self.slack = room, rate, slack
        self.state = {
            "z": z,  # the trial point
            "best_z": z.clone(),
            "best_loss": torch.full_like(z[:, 0], torch.inf),
            "base_z": z.clone(),  # the point that the row has moved to
            "base_loss": torch.full_like(z[:, 0], torch.inf),
            "grad": torch.zeros_like(z),  # there
            "direction": torch.zeros_like(z),
            "length": torch.zeros_like(z[:, 0]),
            "cuts": torch.zeros_like(z[:, 0]),
            "moves": z.new_zeros(len(z), history, z.shape[1]),  # the newest stands last
            "turns": z.new_zeros(len(z), history, z.shape[1]),
        }

    def step(self, work: dict[str, Tensor], losses: Tensor, grad: Tensor) -> None:
        room = self.room
        loss = room.objective(losses, work["z"])
        grad = grad.to(work["z"].dtype) + room.pull * work["z"]
        if room.held:
            grad[:, : room.held] = 0
        move, turn = work["z"] - work["base_z"], grad - work["grad"]
        promise = (work["grad"] * move).sum(1)
        first = work["base_loss"].isinf()
        fell = first | (loss <= (1 + self.slack) * work["base_loss"] + self.ARMIJO * promise)
        lost = ~fell & (work["cuts"] + 1 >= self.MAX_CUTS)
        anew = fell | lost
        cut = (-promise / (2 * (loss - work["base_loss"] - promise))).nan_to_num(0.1).clamp(0.1, 0.5)

        curvature = (move * turn).sum(1)
        learns = fell & ~first & (curvature > _FLAT * move.norm(dim=1) * turn.norm(dim=1))
        scale = _scale(curvature, learns)[:, None]
        for pairs, new in ((work["moves"], move), (work["turns"], turn)):
            later = torch.cat([pairs[:, 1:], (new * scale)[:, None]], 1)
            pairs.copy_(torch.where(learns[:, None, None], later, pairs).masked_fill_(lost[:, None, None], 0))
        better = loss < work["best_loss"]
        for name, new, where in (
            ("base_loss", loss, fell), ("base_z", work["z"], fell), ("grad", grad, fell),
            ("best_loss", loss, better), ("best_z", work["z"], better),
        ):  # fmt: skip
            work[name].copy_(torch.where(where if new.dim() == 1 else where[:, None], new, work[name]))
        work["direction"].copy_(torch.where(anew[:, None], self._direction(work), work["direction"]))
        work["length"].copy_(torch.where(anew, 1.0, work["length"] * cut))
        work["cuts"].copy_(torch.where(anew, 0.0, work["cuts"] + 1))
        trial = torch.addcmul(work["base_z"], work["direction"], work["length"][:, None])
        work["z"].copy_(trial if room.bound is None else trial.clamp(-room.bound, room.bound))

    def _direction(self, work: dict[str, Tensor]) -> Tensor:
        """-H grad; where nothing is learnt, against the gradient, by `rate` in the root mean square.

        Coordinates on a bound that the gradient pushes outwards stay: the others go as if these were constants."""
        moves, turns, grad = work["moves"], work["turns"], work["grad"]
        bound, base = self.room.bound, work["base_z"]
        if bound is not None:
            stays = ((base >= bound) & (grad < 0)) | ((base <= -bound) & (grad > 0))
            grad = grad.masked_fill(stays, 0)
            moves, turns = (pairs.masked_fill(stays[:, None], 0) for pairs in (moves, turns))
            curvature = (moves * turns).sum(2)
            scale = _scale(curvature, curvature > _FLAT * moves.norm(dim=2) * turns.norm(dim=2))[:, :, None]
            moves, turns = moves * scale, turns * scale
        upper = moves @ turns.mT  # its diagonal is 1, and what is below it is not read
        first = torch.linalg.solve_triangular(upper, moves @ grad[:, :, None], upper=True, unitriangular=True)
        rest = grad[:, :, None] - turns.mT @ first
        newest = turns[:, -1].square().sum(1)
        plain = self.rate / grad.square().mean(1).sqrt().clamp_min(torch.finfo(newest.dtype).tiny)
        scale = torch.where(newest > 0, 1 / newest, plain)[:, None, None]
        second = first - scale * (turns @ rest)
        second = torch.linalg.solve_triangular(upper.mT, second, upper=False, unitriangular=True)
        direction = -(scale * rest + moves.mT @ second).squeeze(2)
        return direction if bound is None else direction.masked_fill_(stays, 0)


def _scale(curvature: Tensor, learns: Tensor) -> Tensor:
    """What a pair's move and turn are multiplied by, so that their product is 1; 0 where nothing is learnt of it."""
    return torch.where(learns, curvature, torch.inf).rsqrt()
