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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from math import inf
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.kernels.image_error import LOSSES, ImageError, image_error
from fastgan.latent.descent import HALF_SLACK, LBFGS, OPTIMISERS, SCHEDULES, Adaptive, Room, scales
from fastgan.latent.folding import folded
from fastgan.latent.frozen import frozen
from fastgan.latent.leaves import Latent, Leaves
from fastgan.latent.prior import Prior
from fastgan.latent.replay import repeat

CHECK_EVERY = 10
"""Iterations between two looks at which images are done. A look waits for the device."""

TOLD_EVERY = 50
"""Iterations between two words to `progress` where nothing is looked at."""

LEAVING = 1 / 8
"""Share of a batch's rows that must be done before the batch shrinks: a new shape costs the choice of new kernels, on CUDA the
capture of a new graph. Until then rows that are done are carried along, their results kept as they were."""


MOST = 1_000_000
"""Iterations, rows and samples that may be asked for: more would not fit into memory, nor a life."""

PROBES = 32
"""Latents of an ensemble by which folding is judged: one of eight members is missed once in 70 times."""


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
    """An image is done once the mean squared error of the best latent so far, that of the lowest loss, is at most this."""
    patience: int = 0
    """A start is done once its loss has not fallen, by `min_improvement` at least, for so many iterations; 0: never."""
    min_improvement: float = 0.01
    """Share of the loss, in [0, 1)."""
    history: int = 32
    """Pairs of steps and changes of the gradient that L-BFGS keeps of each row, at least 1; no more than `steps`."""
    batch_size: int = 256
    """Rows (images x starts x labels tried) that are sought at once. An image's rows stay together where they are no more."""
    seed: int = 0
    """Of the starts."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        least = {"steps": 0, "starts": 1, "nearest": 0, "patience": 0, "history": 1, "batch_size": 1, "seed": 0}
        for name, value in ((name, getattr(self, name)) for name in least):
            most = 2**64 - 1 if name == "seed" else MOST
            if not hasattr(value, "__index__") or value < least[name]:
                raise ValueError(f"{name} must be a whole number, at least {least[name]}, not {value!r}")
            if value > most:
                raise ValueError(f"{name} must be at most {most}, not {value}")
        if self.nearest * self.starts > MOST:
            raise ValueError(f"nearest times starts must be at most {MOST}, not {self.nearest * self.starts}")
        for name, fits, limits in (
            ("rate", lambda rate: 0 < rate < inf, "above 0"),
            ("prior_weight", lambda weight: 0 <= weight < inf, "at least 0"),
            ("min_improvement", lambda share: 0 <= share < 1, "at least 0 and below 1"),
            ("stop_error", lambda error: error >= 0, "at least 0"),
        ):
            value = getattr(self, name)
            if name == "stop_error" and value is None:
                continue
            if not (isinstance(value, Real) and fits(value)):
                raise ValueError(f"{name} must be {limits}, not {value!r}")


_CHOICES = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "loss": LOSSES}


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
        generator: `generator(z)` or `generator(z, labels)` -> images (B, C, H, W) in [-1, 1]; any module, TorchScript's too, a
            method of one, or another function: modules that it hides must be in evaluation mode, and keep taking gradients.
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
            that are missing or out of range, a prior missing, or a generator that does not draw an image for each latent, or
            none that can be differentiated.
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

    module = _module(generator)
    with torch.inference_mode(False), torch.no_grad(), _evaluating(module), frozen(module):
        search = _Search(generator, module, prior, settings, capture, images)
        probes = PROBES if search.room.held else 1  # each member of an ensemble has norms of its own
        probe = search.draw(numbers[:1], probes), None if labels is None else labels[:1, :1].flatten().repeat(probes)
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
        self.shape = images.shape[1:]
        self.device, self.given = weight.device, weight.dtype
        """Where the work is done, and the type that the generator takes latents in."""
        self.real = torch.promote_types(weight.dtype, torch.float32)
        self.leaves = Leaves(prior(self._source("start", torch.zeros(1, dtype=torch.int64))), joined=True)
        """The structure of a latent. Here it is one row (D,) for each start, whatever its leaves."""
        held = getattr(module, "choosing", 0)
        self.room = Room(held=held)
        if isinstance(prior, Prior):
            bound = {"normal": None, "truncated-normal": prior.truncation, "uniform": 1.0}[prior.kind]
            self.room = Room(settings.prior_weight / prior.dim if prior.kind != "uniform" else 0.0, bound, held)

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
            pieces = []
            for begin in range(0, len(rows), settings.batch_size):  # several where an image has more rows than a batch
                some = slice(begin, begin + settings.batch_size)
                label = None if row_labels is None else row_labels[some]

                def told(done: float, before: int = first * rows_each + begin, count: int = len(rows[some])) -> None:
                    progress((before + done * count) / (len(images) * rows_each))

                pieces.append(self._descend(starts[some], targets[rows[some]], label, rows[some], told))
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
                    "losses": self.room.objective(of_image.losses, z[kept]),
                    "labels": chosen,
                    "steps": steps[kept],
                    "converged": done[kept],
                    "starts": best % settings.starts,
                }
            )
        return self._result(images, labels, found)

    def pictures(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """What the generator draws for rows of latents."""
        drawn = self.generator(self.leaves.assemble([z.to(self.given)]), *(() if labels is None else (labels,)))
        if not isinstance(drawn, Tensor):
            raise ValueError(f"the generator must return a tensor of images, not a {type(drawn).__name__}")
        if drawn.shape[1:] != self.shape:
            raise ValueError(f"the generator draws {tuple(drawn.shape[1:])}, the images are {tuple(self.shape)}")
        if len(drawn) != len(z):
            raise ValueError(f"the generator must draw an image for each latent, not {len(drawn)} for {len(z)}")
        return drawn

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

    def _starts(self, targets: Tensor, labels: Tensor | None, numbers: Tensor, banks: dict) -> Tensor:
        """(B labels starts, D): the starts are the same for every label that is tried, unless samples are looked through."""
        tried = 1 if labels is None else labels.shape[1]
        if not banks:
            plain = self.draw(numbers, self.settings.starts).unflatten(0, (len(targets), self.settings.starts))
            return plain[:, None].expand(-1, tried, -1, -1).flatten(0, 2).clone()
        if labels is None:
            return self._nearest(banks[None], targets, None).flatten(0, 1)
        starts = targets.new_empty(*labels.shape, self.settings.starts, sum(self.leaves.sizes))
        for label in labels.unique().tolist():
            image, place = (labels == label).nonzero(as_tuple=True)
            starts[image, place] = self._nearest(banks[label], targets[image], label)
        return starts.flatten(0, 2)

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
            drawn = self.pictures(part, labels).to(self.real).flatten(1)
            with self.exact():
                distance.append(drawn.square().sum(1) - 2 * flat @ drawn.T)  # and |x|^2, which is the same for all
        best = torch.cat(distance, 1).nan_to_num(torch.inf, torch.inf).view(len(targets), self.settings.starts, -1).argmin(2)
        return bank[best + torch.arange(self.settings.starts, device=self.device) * self.settings.nearest]

    def _descend(
        self, z: Tensor, targets: Tensor, labels: Tensor | None, images: Tensor, progress: Callable[[float], None]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, losses, iterations and whether each was done, of rows of starts."""
        settings, count = self.settings, len(z)
        if settings.optimiser == "lbfgs":
            half = torch.is_autocast_enabled(self.device.type) or self.given.itemsize == 2
            optimiser = LBFGS(z, self.room, settings.rate, min(settings.history, settings.steps), HALF_SLACK if half else 0.0)
        else:
            every = scales(settings.optimiser, settings.schedule, settings.rate, settings.steps)
            optimiser = Adaptive(z, self.room, settings.optimiser, every)
        work = optimiser.state | {"x": targets, "row": torch.arange(count, device=self.device), "image": images}
        if labels is not None:
            work["label"] = labels
        watched = bool(settings.patience or settings.stop_error is not None)
        if watched:
            work |= {"reference": work["best_loss"].clone(), "since": torch.zeros_like(work["row"])}
            work["error"] = work["best_loss"].clone()  # of the best iterate
        result = {
            "z": z.clone(),
            "loss": work["best_loss"].clone(),
            "steps": torch.full((count,), settings.steps, dtype=torch.int64, device=self.device),
            "done": torch.zeros(count, dtype=torch.bool, device=self.device),
        }

        def look() -> tuple[ImageError, Tensor]:
            here = work["z"].detach().requires_grad_()
            with torch.enable_grad():
                drawn = self.pictures(here, work.get("label"))
            if not drawn.requires_grad:
                raise ValueError(
                    "the generator's images have no gradient: does it detach them, or use no_grad or inference_mode?"
                )
            if drawn.stride() != work["x"].stride():
                work["x"] = torch.empty_like(drawn, dtype=self.real).copy_(work["x"])  # once: both are read in memory's order
            of_image = image_error(drawn.detach(), work["x"], settings.loss)
            return of_image, torch.autograd.grad(drawn, here, of_image.slope)[0]

        def step() -> None:
            of_image, grad = look()
            with self.exact():
                if watched:
                    better = self.room.objective(of_image.losses, work["z"]) < work["best_loss"]
                    work["error"].copy_(torch.where(better, of_image.errors, work["error"]))
                optimiser.step(work, of_image.losses, grad)

        def leave(rows: Tensor, taken: int, done: bool) -> None:
            """Keep the results of these rows of the work."""
            at = work["row"][rows]
            result["z"][at], result["loss"][at] = work["best_z"][rows], work["best_loss"][rows]
            result["steps"][at], result["done"][at] = taken, done

        taken = 0
        turns = CHECK_EVERY if watched else settings.steps if self.device.type == "cuda" else TOLD_EVERY
        while taken < settings.steps and len(work["row"]):
            repeat(step, min(turns, settings.steps - taken), self.device, self.capture)
            taken = min(taken + turns, settings.steps)
            progress(taken / settings.steps)
            if watched:
                gone = result["done"][work["row"]]
                done = self._done(work, taken) & ~gone
                leave(done, taken, True)
                gone |= done
                if gone.sum().item() >= LEAVING * len(gone):
                    for name in work:
                        work[name] = work[name][~gone]
        left = ~result["done"][work["row"]]
        if len(left):  # the last iterate has not been looked at
            drawn = self.pictures(work["z"], work.get("label"))
            loss = self.room.objective(image_error(drawn, work["x"], settings.loss).losses, work["z"])
            better = loss < work["best_loss"]
            work["best_loss"] = torch.where(better, loss, work["best_loss"])
            work["best_z"] = torch.where(better[:, None], work["z"], work["best_z"])
            leave(left, taken, False)
        return result["z"], result["loss"], result["steps"], result["done"]

    def _done(self, work: dict[str, Tensor], taken: int) -> Tensor:
        settings, best = self.settings, work["best_loss"]
        done = torch.zeros(len(best), dtype=torch.bool, device=self.device)
        if settings.patience:
            better = best < work["reference"] * (1 - settings.min_improvement)
            work["reference"] = torch.where(better, best, work["reference"])
            work["since"] = torch.where(better, taken, work["since"])
            done |= (taken - work["since"] >= settings.patience) & best.isfinite()
        if settings.stop_error is not None:  # an image's best row takes the others with it
            least = best.new_full((int(work["image"].max()) + 1,), torch.inf).scatter_reduce(0, work["image"], best, "amin")
            reached = torch.zeros_like(least, dtype=torch.bool)
            reached[work["image"][(work["error"] <= settings.stop_error) & (best <= least[work["image"]])]] = True
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


def _module(generator: nn.Module | Callable[..., Tensor]) -> nn.Module:
    """What is put into evaluation mode, and frozen: the generator, or the module whose method it is."""
    module = generator if isinstance(generator, nn.Module) else getattr(generator, "__self__", None)
    module = module if isinstance(module, nn.Module) else nn.Module()
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise ValueError("the generator's weights were made in inference_mode, so nothing can be differentiated through them")
    return module


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
