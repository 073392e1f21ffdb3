"""Samples from a trained generator: by any sampler, refined (AdvLatGAN-z) or not, truncated, with standing statistics."""

import io
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import make_grid

from fastgan.checked import UserError, nearest
from fastgan.draw import Draw
from fastgan.engine import ALONE, Ranks, resolve_precision
from fastgan.engine.local import AUTOCAST
from fastgan.evaluation import quantised
from fastgan.latent import Prior, samplers
from fastgan.latent.samplers import PASSES, Hubness, Pair, Plain, Refined, Sampler, Truncation
from fastgan.objectives import OBJECTIVES, UNTRAINED, chosen
from fastgan.progress import progress
from fastgan.training.coding import prior_of
from fastgan.training.files import make_room_for
from fastgan.training.real import real_images
from fastgan.training.run import Run

_OTHER_FORMATS = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".npz"}
MOST_COLUMNS = 16
"""Columns of a grid with one class a column, at most."""
BATCH = 64
"""Samples that are drawn together, unless told otherwise."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How samples are drawn. Sample i is the same for every number of samples, batch size and number of ranks, up to the
    rounding in which networks differ from one batch size to another.

    Raises:
        UserError: there is no such sampler or setting, or a number is out of range.
    """

    refine_steps: int = 0
    """K of I-FGSM on the sampler's latents before G draws them (AdvLatGAN-z); 0 for none."""
    step_size: float = 0.05
    """eps of a refinement step."""
    refine: Mapping[str, Any] | Sequence[str] = ()
    """Further settings of refinement (`samplers.Refined`), by name or as "name=value"."""
    sampler: str | Sampler = "plain"
    """How latents are chosen: a name of `samplers.SAMPLERS`, with its usual settings, or a sampler."""
    seed: int = 0
    """Of the latents."""
    truncation: float | None = None
    """Draw from the normal prior with every coordinate outside +-truncation drawn again (Brock et al. 2019, section 3.1), in
    the place of the run's own prior: closer to the mode, better images of less variety."""
    standing_statistics: int = 0
    """Batches of 64 samples from which the generator's batch-norm statistics are computed anew, from the same prior (Brock et
    al. 2019, appendix E); 0 leaves those of training. The run's own stay as they are."""
    labels: Sequence[int] | Literal["uniform"] | None = None
    """Classes to draw in turn, image i of class labels[i % len(labels)], for class-conditional runs; every class where None;
    "uniform" draws each one's class."""
    raw_weights: bool = False
    """Use the generator as last stepped instead of its moving average."""
    precision: str | None = None
    """What networks compute in: "fp32" or "bf16", "fp16" on CUDA; the run's own where None."""
    batch_size: int = BATCH
    """Samples that are drawn together."""

    def __post_init__(self) -> None:
        if self.refine_steps < 0 or not 0 <= self.step_size < float("inf"):
            raise UserError(f"refine_steps and step_size must be at least 0, not {self.refine_steps} and {self.step_size}")
        if self.truncation is not None and not 0 < self.truncation < float("inf"):
            raise UserError(f"truncation must be above 0, not {self.truncation}")
        if self.standing_statistics < 0:
            raise UserError(f"standing_statistics must be at least 0, not {self.standing_statistics}")
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.precision is not None and self.precision not in AUTOCAST:
            raise UserError(f"unknown precision {self.precision!r}: {nearest(self.precision, AUTOCAST)}")
        for part in ("chosen", "refinement"):  # checked now, not when the first sample is drawn
            getattr(self, part)

    @cached_property
    def chosen(self) -> Sampler:
        """The sampler."""
        return self.sampler if isinstance(self.sampler, Sampler) else samplers.choose(self.sampler)

    @cached_property
    def refinement(self) -> Refined:
        """Refinement with all of its settings."""
        return replace(samplers.refinement(self.refine), steps=self.refine_steps, step_size=self.step_size)

    @property
    def plain(self) -> bool:
        """Whether latents are as the prior gives them."""
        return not self.refine_steps and type(self.chosen) in (Plain, Truncation)

    @property
    def asks_discriminator(self) -> bool:
        """Whether samples depend on D's scores."""
        return self.refine_steps > 0 or type(self.chosen) not in (Plain, Truncation, Hubness)

    @property
    def baseline(self) -> "Recipe":
        """The same without refinement, by the plain sampler."""
        return replace(self, sampler="plain", refine_steps=0, refine=())

    @property
    def title(self) -> str:
        """For people: "plain", "drs", "drs, refined, 20 x 0.05"."""
        chosen = samplers.name_of(self.chosen)
        refined = f"refined, {self.refine_steps} x {self.step_size:g}"
        return chosen if not self.refine_steps else refined if chosen == "plain" else f"{chosen}, {refined}"


@dataclass(frozen=True)
class Cost:
    """What samples have cost, in passes: one sample through one network."""

    num: int
    """Samples delivered."""
    generator: float
    """Forwards of G for each of them, the one of the image itself included."""
    discriminator: float
    """Forwards of D for each."""
    backward: float
    """Backwards through D and G towards the latent for each."""
    once: dict[str, int] = field(default_factory=dict)
    """Passes of all in all before the first sample: calibration."""
    exhausted: int = 0
    """Samples for which the sampler has given up and kept its best proposal."""

    def __str__(self) -> str:
        said = f"passes a sample: G {self.generator:.4g}, D {self.discriminator:.4g}, backward {self.backward:.4g}"
        if any(self.once.values()):
            said += f"; once: G {self.once['generator']}, D {self.once['discriminator']}, backward {self.once['backward']}"
        return said + (f"; exhausted: {self.exhausted} of {self.num}" if self.exhausted else "")


class Samples:
    """`num` samples of a run, drawn as they are asked for, and what they cost.

    Args:
        num: over all ranks.
        ranks: the processes that share the work; every one must make the same calls.
        quiet: show no progress.

    Raises:
        UserError: a number is out of range, the run has no such class, or none at all, its prior is uniform where it is to be
            truncated, or its generator has no batch norm where standing statistics are asked for. From the iterators: what the
            sampler finds.
    """

    def __init__(self, run: Run, num: int, recipe: Recipe | None = None, ranks: Ranks = ALONE, quiet: bool = True) -> None:
        if num < 1:
            raise UserError(f"num must be at least 1, not {num}")
        self.run, self.num, self.recipe = run, num, recipe or Recipe()
        if self.recipe.asks_discriminator and not OBJECTIVES[run.config.objective].refines:
            raise UserError(f"these samples can't be had of a run with objective {run.config.objective}: {UNTRAINED}")
        self.ranks, self.quiet = ranks, quiet or not ranks.first
        self.classes = classes_in_turn(run, self.recipe.labels)
        self.prior = self.recipe.chosen.prior_of(_prior(run, self.recipe.truncation))
        if run.config.network.ensemble > 1 and self.prior != Prior.of(run.config.latent):
            raise UserError(
                f"the run's {run.config.network.ensemble} generators would not draw equal shares of a truncated prior"
            )
        self.precision = resolve_precision(self.recipe.precision or run.precision, run.device)
        self.generator = run.generator if self.recipe.raw_weights else run.ema_generator
        if self.recipe.standing_statistics:
            _norms(run, self.generator)
        self._once, self._passes = Counter(), Counter()

    def own(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share, by batches: numbers int64 (B,), and samples (B, ...) on the run's device. Batch k is rank k mod
        count's, so that every batch is what one process would draw."""
        recipe, size = self.recipe, self.recipe.batch_size
        generator = self.generator
        if recipe.standing_statistics:
            options = recipe.standing_statistics, recipe.seed, self.precision
            generator = with_standing_statistics(self.run, generator, self.prior, *options)
        pair = Pair(
            generator,
            self.run.discriminator,
            self.prior,
            classes=self.run.config.network.classes,
            objective=chosen(self.run.config.objective, self.run.config.objective_options),
            real=partial(real_images, self.run),
            seed=self.run.config.seed,
            batch_size=size,
            device=self.run.device,
        )
        with progress("sampling", self.num, quiet=self.quiet, announced=False) as advance:
            with self.ranks.agreed(), _autocast(self.run, self.precision):
                sample = recipe.chosen.prepare(pair)
            self._once, self._passes = pair.passes.copy(), pair.passes
            pair.passes.clear()
            for first in range(self.ranks.rank * size, self.num, self.ranks.count * size):
                draw = Draw(recipe.seed, "samples", 0, torch.arange(first, min(first + size, self.num), device=self.run.device))
                with _autocast(self.run, self.precision), self.ranks.alone():
                    drawn = recipe.refinement(pair, sample(draw, self._labels(draw)))
                    images = drawn.images if drawn.images is not None else pair.generate(drawn.z, drawn.labels)
                yield draw.rows, images
                advance(min(self.ranks.count * size, self.num - first))  # shown by the first rank, for all

    def gathered(self) -> Iterator[Tensor]:
        """All samples in order, by batches (B, ...): on the first rank. On the others there is nothing to see, but they must
        run through it to the end. Several ranks hand them over on the CPU."""
        return self.looked_at(lambda numbers, images: images if self.ranks.count == 1 else images.cpu())

    def looked_at(self, look: Callable[[Tensor, Tensor], Value]) -> Iterator[Value]:
        """`look(numbers, samples)` of each batch of `own`, in order: computed by the rank that has drawn it, and handed over on
        the first rank as `gathered` does. Among several ranks its tensors lie on the CPU."""
        return self.ranks.in_turn((look(*batch) for batch in self.own()), -(-self.num // self.recipe.batch_size))

    def labels(self, numbers: Tensor) -> Tensor | None:
        """The classes of these samples, int64 (B,); None for a run without classes."""
        return self._labels(Draw(self.recipe.seed, "samples", 0, numbers))

    def cost(self) -> Cost:
        """What they have cost, over all ranks: on the first rank; ask when they are drawn. What is done once is counted once,
        however many ranks have repeated it."""
        passes = sum(self.ranks.gathered(self._passes) or [], Counter())
        each = {name: passes[name] / self.num for name in PASSES}
        return Cost(self.num, **each, once={name: self._once[name] for name in PASSES}, exhausted=passes["exhausted"])

    def _labels(self, draw: Draw) -> Tensor | None:
        if not self.classes:
            return None
        if self.recipe.labels == "uniform":
            return draw.integers("labels", len(self.classes))
        return cycled(self.classes, draw.rows)


def sample(run: Run, num: int = 64, refine_steps: int = 0, step_size: float = 0.05, **options: Any) -> Tensor:
    """Draw samples: images, or points where the run was trained on points.

    Args:
        run: from `train` or `load_run`.
        num: how many.
        refine_steps, step_size: of refinement (AdvLatGAN-z).
        options: the other fields of `Recipe`: sampler, refine, seed, truncation, standing_statistics, labels, raw_weights,
            precision, batch_size.

    Under a launcher every process draws all of them; the commands `sample` and `evaluate` share the work.

    Returns:
        float32 on the CPU: images (num, C, H, W) in [-1, 1], points (num, 2), unbounded.

    Raises:
        UserError: as `Recipe` and `Samples` do, and what the sampler finds.
    """
    drawn = Samples(run, num, Recipe(refine_steps=refine_steps, step_size=step_size, **options))
    return torch.cat([batch.cpu() for batch in drawn.gathered()])


def with_standing_statistics(
    run: Run, generator: nn.Module, prior: Prior, batches: int, seed: int, precision: str
) -> nn.Module:
    """A copy of `generator` whose batch-norm statistics are the mean of those of `batches` batches of 64 fresh samples.

    Brock et al. 2019, appendix E: the averages kept in training fit neither averaged weights nor a truncated prior. Latents are
    as `prior` gives them, not refined; classes are drawn uniformly. What is drawn is independent of the samples' own latents.

    Raises:
        UserError: the generator has no batch norm.
    """
    generator = deepcopy(generator)
    norms = _norms(run, generator)
    momenta = [norm.momentum for norm in norms]
    generator.train()
    for number in range(batches):
        draw = Draw(seed, "standing statistics", 0, torch.arange(number * BATCH, (number + 1) * BATCH, device=run.device))
        for norm in norms:
            norm.momentum = 1 / (number + 1)  # the mean so far; the first batch takes the place of what was there
        labels = (draw.integers("labels", classes),) if (classes := run.config.network.classes) else ()
        with _autocast(run, precision), torch.no_grad():
            generator(prior(draw), *labels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return generator.eval()


def cycled(classes: Sequence[int], rows: Tensor) -> Tensor:
    """The class of each row, int64 (B,), when `classes` come in turn."""
    return torch.tensor(classes, device=rows.device)[rows % len(classes)]


def classes_in_turn(run: Run, labels: Sequence[int] | Literal["uniform"] | None) -> list[int]:
    """The classes that `labels` asks a run for: all of them where it names none, empty for a run without classes.

    Raises:
        UserError: the run has no such class, or none at all.
    """
    classes = run.config.network.classes
    if labels is None or labels == "uniform":
        return list(range(classes))
    if not classes:
        raise UserError(f"the run in {run.path} is not class-conditional: it takes no labels")
    for label in labels:
        if not 0 <= label < classes:
            raise UserError(f"label {label} is out of range: the classes of the run in {run.path} are 0 to {classes - 1}")
    if not labels:
        raise UserError("labels names no class")
    return list(labels)


def _prior(run: Run, truncation: float | None) -> Prior:
    """The run's own prior, or the normal one cut at +-truncation."""
    prior = prior_of(run)
    return prior if truncation is None else Truncation(threshold=truncation).prior_of(prior)


def _norms(run: Run, generator: nn.Module) -> list[_BatchNorm]:
    norms = [module for module in generator.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise UserError(f"the generator of the run in {run.path} has no batch norm: it takes no standing statistics")
    return norms


def _autocast(run: Run, precision: str) -> torch.autocast:
    dtype = AUTOCAST[precision]
    return torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None)


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """(N, C, H, W) in [-1, 1] as one picture (3, h, w) in [0, 1], row by row; nearly square where `columns` is None."""
    columns = columns or max(1, round(len(images) ** 0.5))
    return make_grid(images.float().cpu().clamp(-1, 1), nrow=columns, padding=2, normalize=True, value_range=(-1, 1))


def write_image(picture: Tensor, path: Path) -> None:
    """Write (C, h, w) in [0, 1] as a PNG.

    Raises:
        UserError: the file can't be written.
    """
    from torchvision.transforms.functional import to_pil_image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(picture.mul(255).round().to(torch.uint8)).save(path, format="PNG")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None


def columns_for(classes: Sequence[int]) -> int | None:
    """Columns of a grid that shows one class a column; None, the nearly square one, without classes or with too many."""
    return len(classes) if 0 < len(classes) <= MOST_COLUMNS else None


def write_images(samples: Samples, out: Path, columns: int | None = None) -> None:
    """Write images in [-1, 1] as one grid, where `out` ends in .png, or one by one into the folder `out`, numbered: each rank
    its own. A grid is the first rank's to write.

    Raises:
        UserError: the place can't be written, or is named after a format that is not written.
    """
    if out.suffix.lower() == ".png":
        with samples.ranks.agreed():
            make_room_for(out)
        batches = [batch.cpu() for batch in samples.gathered()]
        if samples.ranks.first:
            write_image(grid(torch.cat(batches), columns), out)
        return
    if out.suffix.lower() in _OTHER_FORMATS:
        raise UserError(f"{out}: grids are written as .png")
    with samples.ranks.agreed():
        make_room_for(out / "000000.png")
        drawn = {f"{number:06d}.png" for number in range(samples.num)}
        if other := next((path.name for path in sorted(out.glob("*.png")) if path.name not in drawn), None):
            raise UserError(f"{out} holds other images, {other}: choose a new folder")
    for numbers, images in samples.own():
        for number, image in zip(numbers.tolist(), images, strict=True):
            write_image((image.float().clamp(-1, 1) + 1) / 2, out / f"{number:06d}.png")


def write_shards(samples: Samples, out: Path) -> None:
    """Write images in [-1, 1] as a packed set of PNGs with their classes (`fastgan.data.shards`), in order: each rank encodes
    its own, the first one writes.

    Raises:
        UserError: the place can't be written, or holds anything.
    """
    from fastgan.data.pack import Item, check_empty, write_set

    with samples.ranks.agreed():
        check_empty(out)
        make_room_for(out / "manifest.json")

    def encode(numbers: Tensor, images: Tensor) -> list[tuple[Item, int]]:
        labels = samples.labels(numbers)
        with samples.ranks.alone():
            levels = as_bytes(images).cpu()
        chosen = labels.tolist() if labels is not None else [0] * len(levels)
        return [
            (Item(_png(one), "png", *one.shape[1:], len(one) == 1), label) for one, label in zip(levels, chosen, strict=True)
        ]

    batches = samples.looked_at(encode)
    if not samples.ranks.first:
        deque(batches, maxlen=0)
        return
    config = samples.run.config
    classes = [str(label) for label in range(config.network.classes)] or ["all"]
    settings = {"resolution": config.data.resolution, "encoding": "png"}
    with samples.ranks.alone():
        write_set(
            (item for batch in batches for item in batch), out, classes, of=f"samples of {samples.run.path}", settings=settings
        )


def as_bytes(images: Tensor) -> Tensor:
    """Samples in [-1, 1] as a file would hold them, uint8.

    Raises:
        UserError: they hold numbers that are not finite.
    """
    try:
        return quantised(images)
    except ValueError as error:
        raise UserError(f"these samples are no images: {error}") from None


def _png(image: Tensor) -> bytes:
    """uint8 (C, H, W) as a file."""
    from torchvision.transforms.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(image).save(buffer, format="PNG")
    return buffer.getvalue()
