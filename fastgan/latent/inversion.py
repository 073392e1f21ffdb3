"""Inversion of a generator: the latents whose images lie nearest to given ones.

    z* = argmin_z  E(x, G(z)) - beta / D log p(z),     E = m (x - G(z))^2   or   m BCE((x + 1) / 2, (G(z) + 1) / 2)

m is the mean over the numbers of an image and D the number of coordinates of z. Creswell and Bharath, "Inverting the generator
of a generative adversarial network" (2018), algorithm 1: gradient descent on whole batches from draws of the prior, through G
alone, in evaluation mode. There: RMSprop, rate 0.01, 5,000 to 10,000 steps, beta 0.01 or none. An image's latent is no other
image's business, so no mean is taken over the batch and rows may leave it.

An iteration costs a forward of G and a backward towards z alone: 2 units of work, where a loop that lets `backward()` fill
every `.grad` spends 3. Batch norms that follow a convolution are folded into it (`folding`). What follows G's image is one
kernel for errors and their slope (`kernels/image_error.py`), and what follows the gradient another (`kernels/latent_step.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from math import cos, isfinite, pi
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.kernels.image_error import image_error
from fastgan.kernels.latent_step import latent_step
from fastgan.latent.folding import folded
from fastgan.latent.frozen import frozen
from fastgan.latent.leaves import Latent, Leaves
from fastgan.latent.prior import Prior
from fastgan.latent.replay import repeat

CHECK_EVERY = 10
"""Iterations between two looks at which images are done. A look waits for the device."""

LEAVING = 1 / 8
"""Share of a batch's rows that must be done before the batch shrinks: a new shape costs the choice of new kernels, on CUDA the
capture of a new graph. Until then rows that are done are carried along, their results kept as they were."""

_BETAS = {"adam": (0.9, 0.999), "rmsprop": (0.0, 0.99)}  # torch's defaults
_EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How images are inverted.

    Raises:
        ValueError: a setting out of range.
    """

    steps: int = 200
    """Iterations of each start, at least 0; each is a forward of G and a backward towards z. Adam wants 1,000."""
    rate: float = 0.1
    """Of Adam and RMSprop, above 0: about how far a coordinate moves in an iteration. Of L-BFGS: how far the first one does."""
    optimiser: Literal["lbfgs", "adam", "rmsprop"] = "lbfgs"
    """Each row of latents by itself, L-BFGS too."""
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    """Of the rate, down to 0 after `steps`. L-BFGS has none."""
    loss: Literal["mse", "bce"] = "mse"
    """E. Binary cross-entropy is of images mapped to [0, 1]; its least value is the entropy of the image, not 0."""
    prior_weight: float = 0.0
    """beta, at least 0: pulls z to where its prior is dense. The density of uniform coordinates is flat inside."""
    starts: int = 1
    """Latents from which each image is sought, at least 1; the one that ends with the lowest loss is kept."""
    nearest: int = 0
    """So many latents of the prior are drawn once for all images, and each start is the one whose picture lies nearest; each of
    several starts has as many of its own. 0: starts are plain draws, other ones for each image."""
    stop_error: float | None = None
    """An image is done once the mean squared error of one of its starts is at most this."""
    patience: int = 0
    """A start is done once its loss has not fallen, by `min_improvement` at least, for so many iterations; 0: never."""
    min_improvement: float = 0.01
    """Share of the loss, in [0, 1)."""
    history: int = 32
    """Pairs of steps and changes of the gradient that L-BFGS keeps of each row, at least 1."""
    batch_size: int = 256
    """Rows (images x starts x labels tried) that are sought at once. An image's rows stay together where they are no more."""
    seed: int = 0
    """Of the starts."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        for name, least in {"steps": 0, "starts": 1, "nearest": 0, "patience": 0, "history": 1, "batch_size": 1}.items():
            if getattr(self, name) != int(getattr(self, name)) or getattr(self, name) < least:
                raise ValueError(f"{name} must be a whole number, at least {least}, not {getattr(self, name)}")
        if not (self.rate > 0 and isfinite(self.rate)):
            raise ValueError(f"rate must be above 0, not {self.rate}")
        if not (self.prior_weight >= 0 and isfinite(self.prior_weight)):
            raise ValueError(f"prior_weight must be at least 0, not {self.prior_weight}")
        if not 0 <= self.min_improvement < 1:
            raise ValueError(f"min_improvement must be at least 0 and below 1, not {self.min_improvement}")
        if self.stop_error is not None and not self.stop_error >= 0:
            raise ValueError(f"stop_error must be at least 0, not {self.stop_error}")


_CHOICES = {
    "optimiser": ("lbfgs", "adam", "rmsprop"),
    "schedule": ("cosine", "constant", "linear"),
    "loss": ("mse", "bce"),
}


@dataclass(frozen=True)
class Inverted:
    """What was found for each of N images, on the device of the images."""

    latents: Latent
    """z*, float32 (N, D), or what the prior draws: the structure of a latent of several tensors."""
    reconstructions: Tensor
    """G(z*), float32 (N, C, H, W)."""
    errors: Tensor
    """Mean squared error of each image in [-1, 1], whatever the loss; (N,)."""
    losses: Tensor
    """E - beta / D log p(z*) without the constant of a normal density; (N,)."""
    labels: Tensor | None
    """Given, or found; int64 (N,)."""
    steps: Tensor
    """Iterations that the kept start took, a multiple of CHECK_EVERY where it was done before all of them; int64 (N,)."""
    converged: Tensor
    """Whether it was done (`stop_error`, `patience`) rather than out of iterations; bool (N,)."""
    starts: Tensor
    """Which of the starts was kept; int64 (N,)."""

    def __len__(self) -> int:
        return len(self.errors)


def invert(
    generator: nn.Module | Callable[..., Tensor],
    images: Tensor,
    labels: Tensor | Literal["search"] | None = None,
    *,
    prior: Prior | Callable[[Draw], Latent] | None = None,
    dim: int | None = None,
    classes: int | None = None,
    settings: Inversion | None = None,
    numbers: Tensor | None = None,
    progress: Callable[[float], None] | None = None,
    fold: bool = True,
    capture: bool = True,
    **options,
) -> Inverted:
    """Find each image's latent by gradient descent through the generator.

    Pure: the generator runs in evaluation mode, and on leaving no mode, parameter, buffer, `.grad` or `requires_grad` of it has
    changed. Works under autocast (latents and the optimiser's state stay in float32) and in a `no_grad` block.

    z stays in the support of a prior that has bounds: after each iteration it is put back to the nearest latent inside.

    An ensemble's first coordinate, which chooses the member and has no slope, stays as it was drawn: ask for several starts, or
    for `nearest` samples, so that more than one member is tried.

    Args:
        generator: `generator(z)` or `generator(z, labels)` -> images (B, C, H, W) in [-1, 1]; any module, or function.
        images: floating point (N, C, H, W) in [-1, 1], of the generator's size, on any device. Not modified.
        labels: int64 (N,), each image's class; "search" tries every class, at `classes` times the cost, and keeps the best;
            None for a generator without classes.
        prior: what starts are drawn from; any function of a draw that gives a latent, of several tensors too, but then no
            `prior_weight`. The standard normal of `dim` coordinates where not given.
        dim: coordinates of z; needed without a prior.
        classes: how many the generator has; needed for a search, and labels are checked against it.
        settings: all settings in one; `options` are single ones in its place or on top.
        numbers: int64 (N,), what each image's starts are drawn from together with the seed: with an image's number in the whole
            set, its starts don't depend on how the set is cut. 0 .. N-1 where not given.
        progress: is told the share of the work that is done, now and then.
        fold: whether batch norms may be folded into the convolutions before them; they are not where images then differ.
        capture: on CUDA replay the iterations from a captured graph (`replay`); False for networks that look at values.

    Returns:
        Latents, reconstructions, errors and what it took.

    Raises:
        ValueError: an option out of range, images that are not finite, not in [-1, 1] or not of the generator's size, labels
            that are missing or out of range, or a prior missing.
    """
    known = {field.name for field in fields(Inversion)}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"inversion has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
    settings = replace(settings or Inversion(), **options)
    _check_images(images)
    labels = _check_labels(labels, len(images), classes)
    if prior is None:
        if dim is None:
            raise ValueError("say what latents are drawn from: prior, or dim for a standard normal one")
        prior = Prior(dim)
    if settings.prior_weight and not isinstance(prior, Prior):
        raise ValueError("prior_weight needs a prior whose density is known, a fastgan.latent.Prior")
    numbers = torch.arange(len(images)) if numbers is None else numbers
    if numbers.shape != images.shape[:1] or numbers.dtype != torch.int64:
        raise ValueError(f"numbers must be int64 ({len(images)},), not {numbers.dtype} {tuple(numbers.shape)}")

    module = generator if isinstance(generator, nn.Module) else nn.Module()
    with torch.inference_mode(False), torch.no_grad(), _evaluating(module), frozen(module):
        search = _Search(generator, module, prior, settings, capture, images)
        probe = search.draw(numbers[:1], 1), None if labels is None else labels[:1, :1].flatten()
        with folded(module, lambda: search.pictures(*probe)) if fold and len(images) else _nothing():
            return search(images, labels, numbers, progress or (lambda share: None))


class _Search:
    """The parts of `invert` that know of its arguments."""

    def __init__(
        self,
        generator: Callable[..., Tensor],
        module: nn.Module,
        prior: Callable[[Draw], Latent],
        settings: Inversion,
        capture: bool,
        images: Tensor,
    ) -> None:
        weight = next((p for p in module.parameters() if p.is_floating_point()), images)
        self.generator, self.prior, self.settings, self.capture = generator, prior, settings, capture
        self.device, self.given = weight.device, weight.dtype
        """Where the work is done, and the type that the generator takes latents in."""
        self.real = torch.promote_types(weight.dtype, torch.float32)
        self.bound, self.pull = None, 0.0
        self.leaves = Leaves(prior(self._source("start", torch.zeros(1, dtype=torch.int64))), joined=True)
        """The structure of a latent. Here it is one row (D,) for each start, whatever its leaves."""
        if isinstance(prior, Prior):
            self.bound = {"normal": None, "truncated-normal": prior.truncation, "uniform": 1.0}[prior.kind]
            self.pull = settings.prior_weight / prior.dim if prior.kind != "uniform" else 0.0
        self.held = getattr(generator, "choosing", 0)
        """Leading coordinates that have no slope."""

    def __call__(self, images: Tensor, labels: Tensor | None, numbers: Tensor, progress: Callable[[float], None]) -> Inverted:
        settings = self.settings
        tried = 1 if labels is None else labels.shape[1]
        rows_each = tried * settings.starts  # labels outside, starts inside
        at_once = max(1, settings.batch_size // rows_each)
        banks = self._banks(labels) if settings.nearest and len(images) else {}
        found = []
        for first in range(0, len(images), at_once):
            part = slice(first, first + at_once)
            mine = None if labels is None else labels[part].to(self.device)
            targets = images[part].to(self.device, self.real)
            starts = self._starts(targets, mine, numbers[part], banks)
            rows = torch.arange(len(targets), device=self.device).repeat_interleave(rows_each)
            row_labels = None if mine is None else mine.repeat_interleave(settings.starts, 1).flatten()
            share = len(targets) / len(images)
            pieces = [
                self._descend(z, targets[row], label, row, lambda done, f=first, s=share: progress(f / len(images) + s * done))
                for z, row, label in zip(
                    starts.split(settings.batch_size),
                    rows.split(settings.batch_size),
                    [None] * len(rows) if row_labels is None else row_labels.split(settings.batch_size),
                    strict=False,
                )
            ]
            z, losses, steps, done = (torch.cat(parts) for parts in zip(*pieces, strict=True))
            losses = losses.view(len(targets), rows_each)
            best = losses.nan_to_num(torch.inf, torch.inf).argmin(1)
            kept = best + torch.arange(len(targets), device=self.device) * rows_each
            chosen = None if row_labels is None else row_labels[kept]
            drawn = self.pictures(z[kept], chosen)
            of_image = image_error(drawn, targets, settings.loss)
            found.append(
                {
                    "latents": z[kept],
                    "reconstructions": drawn.to(self.real),
                    "errors": of_image.errors,
                    "losses": self._objective(of_image.losses, z[kept]),
                    "labels": chosen,
                    "steps": steps[kept],
                    "converged": done[kept],
                    "starts": best % settings.starts,
                }
            )
            progress((first + len(targets)) / len(images))
        return self._result(images, labels, found)

    def pictures(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """What the generator draws for rows of latents."""
        drawn = self.generator(self.leaves.assemble([z.to(self.given)]), *(() if labels is None else (labels,)))
        return drawn if isinstance(drawn, Tensor) else _refuse_output(drawn)

    def exact(self) -> torch.autocast:
        """Inside, nothing is cast to half precision."""
        return torch.autocast(self.device.type, enabled=False)

    def draw(self, numbers: Tensor, starts: int) -> Tensor:
        """(B starts, D) rows of latents from the prior, by the numbers of their images."""
        return self._rows(self.prior(self._source("start", numbers).times(starts)))

    def _source(self, name: str, numbers: Tensor) -> Draw:
        return Draw(self.settings.seed, f"inversion/{name}", 0, numbers.to(self.device))

    def _rows(self, latent: Latent) -> Tensor:
        return Leaves(latent, joined=True).rows()[0].to(self.device, self.real)

    def _objective(self, losses: Tensor, z: Tensor) -> Tensor:
        return losses + 0.5 * self.pull * z.square().sum(1) if self.pull else losses

    def _starts(self, targets: Tensor, labels: Tensor | None, numbers: Tensor, banks: dict) -> Tensor:
        """(B labels starts, D): the starts are the same for every label that is tried, unless samples are looked through."""
        tried = 1 if labels is None else labels.shape[1]
        if not banks:
            plain = self.draw(numbers, self.settings.starts).unflatten(0, (len(targets), self.settings.starts))
            return plain[:, None].expand(-1, tried, -1, -1).flatten(0, 2).clone()
        near = {label: self._nearest(bank, targets, label) for label, bank in banks.items()}
        if labels is None:
            return near[None].flatten(0, 1)
        every = torch.stack([near[label] for label in sorted(near)], 1)  # (B, labels known, starts, D)
        place = torch.searchsorted(torch.tensor(sorted(near), device=self.device), labels)
        return every[torch.arange(len(targets), device=self.device)[:, None], place].flatten(0, 2)

    def _banks(self, labels: Tensor | None) -> dict[int | None, Tensor]:
        """Latents to look through, for each label that some image may have."""
        settings = self.settings
        known = [None] if labels is None else labels.unique().tolist()
        rows = torch.arange(settings.nearest * settings.starts)
        return {label: self._rows(self.prior(self._source(f"bank/{label}", rows))) for label in known}

    def _nearest(self, bank: Tensor, targets: Tensor, label: int | None) -> Tensor:
        """(B, starts, D): of each start's share of the bank, the latent with the nearest picture."""
        flat = targets.flatten(1)
        distance = []
        for part in bank.split(self.settings.batch_size):
            labels = None if label is None else torch.full((len(part),), label, device=self.device)
            drawn = self._checked(self.pictures(part, labels), targets).to(self.real).flatten(1)
            with self.exact():
                distance.append(drawn.square().sum(1) - 2 * flat @ drawn.T)  # and |x|^2, which is the same for all
        best = torch.cat(distance, 1).view(len(targets), self.settings.starts, -1).argmin(2)
        return bank[best + torch.arange(self.settings.starts, device=self.device) * self.settings.nearest]

    def _checked(self, drawn: Tensor, targets: Tensor) -> Tensor:
        if drawn.shape[1:] != targets.shape[1:]:
            raise ValueError(f"the generator draws {tuple(drawn.shape[1:])}, the images are {tuple(targets.shape[1:])}")
        return drawn

    def _descend(
        self, z: Tensor, targets: Tensor, labels: Tensor | None, images: Tensor, progress: Callable[[float], None]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, losses, iterations and whether each was done, of rows of starts."""
        settings, count = self.settings, len(z)
        optimiser = (_LBFGS if settings.optimiser == "lbfgs" else _Adaptive)(self, z)
        work = optimiser.state | {"x": targets, "row": torch.arange(count, device=self.device), "image": images}
        work |= {"error": torch.full((count,), torch.inf, dtype=self.real, device=self.device)}
        if labels is not None:
            work["label"] = labels
        watched = bool(settings.patience or settings.stop_error is not None)
        if watched:
            work |= {"reference": work["best_loss"].clone(), "since": torch.zeros_like(work["row"])}
        result = {
            "z": z.clone(),
            "loss": work["best_loss"].clone(),
            "steps": torch.full((count,), settings.steps, dtype=torch.int64, device=self.device),
            "done": torch.zeros(count, dtype=torch.bool, device=self.device),
        }

        def look() -> tuple[Tensor, Tensor]:
            here = work["z"].detach().requires_grad_()
            with torch.enable_grad():
                drawn = self._checked(self.pictures(here, work.get("label")), work["x"])
            if drawn.stride() != work["x"].stride() and drawn.shape == work["x"].shape:
                work["x"] = torch.empty_like(drawn, dtype=self.real).copy_(work["x"])  # once: both are read in memory's order
            of_image = image_error(drawn.detach(), work["x"], settings.loss)
            work["error"].copy_(of_image.errors)
            return of_image.losses, torch.autograd.grad(drawn, here, of_image.slope)[0]

        def step() -> None:
            losses, grad = look()
            with self.exact():
                optimiser.step(work, losses, grad)

        def leave(rows: Tensor, taken: int, done: bool) -> None:
            """Keep the results of these rows of the work."""
            at = work["row"][rows]
            result["z"][at], result["loss"][at] = work["best_z"][rows], work["best_loss"][rows]
            result["steps"][at], result["done"][at] = taken, done

        taken, every = 0, CHECK_EVERY if watched else 50
        while taken < settings.steps and len(work["row"]):
            turns = min(every if watched or self.device.type != "cuda" else settings.steps, settings.steps - taken)
            repeat(step, turns, self.device, self.capture)
            taken += turns
            progress(taken / max(settings.steps, 1))
            if not watched or taken == settings.steps:
                continue
            done = self._done(work, taken, count) & ~result["done"][work["row"]]
            gone = result["done"][work["row"]] | done
            leave(done, taken, True)
            if gone.sum().item() >= LEAVING * len(gone):
                for name in work:
                    work[name] = work[name][~gone]
        left = ~result["done"][work["row"]]
        if len(left):  # the last iterate has not been looked at
            of_image = image_error(
                self._checked(self.pictures(work["z"], work.get("label")), work["x"]), work["x"], settings.loss
            )
            loss = self._objective(of_image.losses, work["z"])
            better = loss < work["best_loss"]
            work["best_loss"] = torch.where(better, loss, work["best_loss"])
            work["best_z"] = torch.where(better[:, None], work["z"], work["best_z"])
            leave(left, taken, False)
        return result["z"], result["loss"], result["steps"], result["done"]

    def _done(self, work: dict[str, Tensor], taken: int, count: int) -> Tensor:
        settings, best = self.settings, work["best_loss"]
        done = torch.zeros(len(best), dtype=torch.bool, device=self.device)
        if settings.patience:
            better = best < work["reference"] * (1 - settings.min_improvement)
            work["reference"] = torch.where(better, best, work["reference"])
            work["since"] = torch.where(better, taken, work["since"])
            done |= taken - work["since"] >= settings.patience
        if settings.stop_error is not None:  # one of an image's rows takes the others with it
            reached = torch.zeros(int(work["image"].max()) + 1, dtype=torch.bool, device=self.device)
            reached[work["image"][work["error"] <= settings.stop_error]] = True
            done |= reached[work["image"]]
        return done

    def _result(self, images: Tensor, labels: Tensor | None, found: list[dict]) -> Inverted:
        if not found:
            none = {name: images.new_zeros(0) for name in ("errors", "losses")}
            counts = {name: torch.zeros(0, dtype=torch.int64, device=images.device) for name in ("steps", "starts")}
            found = [
                none
                | counts
                | {
                    "latents": images.new_zeros(0, sum(self.leaves.sizes)),
                    "reconstructions": images,
                    "labels": None if labels is None else counts["steps"],
                    "converged": counts["steps"].bool(),
                }
            ]
        joined = {
            name: None if found[0][name] is None else torch.cat([part[name] for part in found]).to(images.device)
            for name in found[0]
        }
        return Inverted(**joined | {"latents": self.leaves.assemble([joined["latents"]])})


class _Adaptive:
    """Adam, and RMSprop as Adam without momentum and corrections. Remembers the iterate of the lowest loss."""

    def __init__(self, search: _Search, z: Tensor) -> None:
        settings = search.settings
        self.search, (self.beta1, self.beta2) = search, _BETAS[settings.optimiser]
        self.state = {"z": z, "v": torch.zeros_like(z), "best_z": z.clone(), "best_loss": _worst(z)}
        if self.beta1:
            self.state["m"] = torch.zeros_like(z)
        if search.held:
            self.state["held"] = z[:, : search.held].clone()
        scales = [_scales(settings, k) for k in range(settings.steps)]
        self.scales = torch.tensor(scales, dtype=search.real, device=search.device).view(-1, 2)
        self.now = torch.zeros(1, dtype=torch.int64, device=search.device)  # on the device: a captured step must count too

    def step(self, work: dict[str, Tensor], losses: Tensor, grad: Tensor) -> None:
        search = self.search
        latent_step(
            work["z"], grad, work["v"], self.scales.index_select(0, self.now).flatten(),
            losses, work["best_loss"], work["best_z"],
            momentum=work.get("m"), beta1=self.beta1, beta2=self.beta2, eps=_EPS, pull=search.pull, bound=search.bound,
        )  # fmt: skip
        if search.held:
            work["z"][:, : search.held] = work["held"]
        self.now += 1


def _scales(settings: Inversion, k: int) -> tuple[float, float]:
    """What iteration k multiplies the mean gradient and the root of its mean square by."""
    passed = k / settings.steps
    rate = settings.rate * {"cosine": 0.5 + 0.5 * cos(pi * passed), "linear": 1 - passed, "constant": 1.0}[settings.schedule]
    if settings.optimiser == "rmsprop":
        return rate, 1.0
    beta1, beta2 = _BETAS["adam"]
    return rate / (1 - beta1 ** (k + 1)), (1 - beta2 ** (k + 1)) ** -0.5


class _LBFGS:
    """L-BFGS of each row by itself (Nocedal and Wright, "Numerical optimization", 2nd edition, algorithms 7.4 and 3.1).

    Every iteration looks at one trial point of each row, z + t d. Where the loss has fallen enough (Armijo, 1e-4 of the slope's
    promise) the row moves there, learns from it and tries a whole step along its next direction; elsewhere t is cut to the
    minimum of the parabola through what is known, between 0.1 and 0.5 of it. A direction that fails MAX_CUTS times running is
    dropped with all that was learnt. So rows search along lines of their own, at one forward and backward of the batch each
    time.

    Moves s and changes of the gradient y are kept divided by sqrt(s . y), which changes no direction: s . y is 1 then, a pair
    of zeros is none, and what two loops over the pairs compute is two triangular systems.
    """

    ARMIJO, MAX_CUTS = 1e-4, 10

    def __init__(self, search: _Search, z: Tensor) -> None:
        history = search.settings.history
        self.search = search
        self.state = {
            "z": z,  # the trial point
            "best_z": z.clone(),
            "best_loss": _worst(z),
            "grad": torch.zeros_like(z),  # at best_z
            "direction": torch.zeros_like(z),
            "length": z.new_zeros(len(z)),
            "cuts": z.new_zeros(len(z)),
            "moves": z.new_zeros(len(z), history, z.shape[1]),  # the newest stands last
            "turns": z.new_zeros(len(z), history, z.shape[1]),
        }

    def step(self, work: dict[str, Tensor], losses: Tensor, grad: Tensor) -> None:
        search = self.search
        loss = search._objective(losses, work["z"])
        grad = grad.to(work["z"].dtype) + search.pull * work["z"]
        if search.held:
            grad[:, : search.held] = 0
        move, turn = work["z"] - work["best_z"], grad - work["grad"]
        promise = (work["grad"] * move).sum(1)
        first = work["best_loss"].isinf()
        fell = first | (loss <= work["best_loss"] + self.ARMIJO * promise)
        lost = ~fell & (work["cuts"] + 1 >= self.MAX_CUTS)
        anew = fell | lost
        cut = (-promise / (2 * (loss - work["best_loss"] - promise))).nan_to_num(0.1).clamp(0.1, 0.5)

        curvature = (move * turn).sum(1)
        learns = fell & ~first & (curvature > _FLAT * move.norm(dim=1) * turn.norm(dim=1))
        scale = curvature.clamp_min(torch.finfo(curvature.dtype).tiny).rsqrt()[:, None]
        for pairs, new in ((work["moves"], move), (work["turns"], turn)):
            later = torch.cat([pairs[:, 1:], (new * scale)[:, None]], 1)
            pairs.copy_(torch.where(learns[:, None, None], later, pairs).masked_fill_(lost[:, None, None], 0))
        for name, new in (("best_loss", loss), ("best_z", work["z"]), ("grad", grad)):
            work[name].copy_(torch.where(fell if new.dim() == 1 else fell[:, None], new, work[name]))
        work["direction"].copy_(torch.where(anew[:, None], self._direction(work), work["direction"]))
        work["length"].copy_(torch.where(anew, 1.0, work["length"] * cut))
        work["cuts"].copy_(torch.where(anew, 0.0, work["cuts"] + 1))
        trial = torch.addcmul(work["best_z"], work["direction"], work["length"][:, None])
        work["z"].copy_(trial if search.bound is None else trial.clamp(-search.bound, search.bound))

    def _direction(self, work: dict[str, Tensor]) -> Tensor:
        """-H grad; where nothing is learnt, against the gradient, by `rate` in the root mean square."""
        moves, turns, grad = work["moves"], work["turns"], work["grad"][:, :, None]
        upper = moves @ turns.mT  # its diagonal is 1, and what is below it is not read
        first = torch.linalg.solve_triangular(upper, moves @ grad, upper=True, unitriangular=True)
        rest = grad - turns.mT @ first
        newest = turns[:, -1].square().sum(1)
        plain = self.search.settings.rate / work["grad"].square().mean(1).sqrt().clamp_min(torch.finfo(newest.dtype).tiny)
        scale = torch.where(newest > 0, 1 / newest, plain)[:, None, None]
        second = first - scale * (turns @ rest)
        second = torch.linalg.solve_triangular(upper.mT, second, upper=False, unitriangular=True)
        return -(scale * rest + moves.mT @ second).squeeze(2)


_FLAT = 1e-6
"""Cosine between a move and the change of the gradient up to which nothing is learnt of it."""


def _worst(z: Tensor) -> Tensor:
    return z.new_full((len(z),), torch.inf)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _check_images(images: Tensor) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floating-point (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
    if not images.numel():
        return
    least, most = images.flatten(1).aminmax(dim=1)
    wrong = ~(least.isfinite() & most.isfinite())
    if wrong.any():
        raise ValueError(f"image {int(wrong.nonzero()[0])} holds numbers that are not finite")
    wrong = (least < -_RANGE) | (most > _RANGE)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"images must be in [-1, 1]; image {first} goes from {float(least[first]):g} to {float(most[first]):g}"
        )


_RANGE = 1.01  # half precision, and resizing without a clamp, may overshoot a little


def _check_labels(labels: Tensor | str | None, count: int, classes: int | None) -> Tensor | None:
    """(N, labels to be tried)."""
    if labels is None:
        return None
    if isinstance(labels, str):
        if labels != "search" or not classes:
            raise ValueError(f'labels are int64 ({count},), or "search" together with the number of classes, not {labels!r}')
        return torch.arange(classes).expand(count, classes)
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 ({count},), not {labels.dtype} {tuple(labels.shape)}")
    if classes is not None and count and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"labels must be at least 0 and below {classes}, not {int(wrong)}")
    return labels[:, None]


def _refuse_output(drawn: Sequence) -> Tensor:
    raise ValueError(f"the generator must return a tensor of images, not a {type(drawn).__name__}")
