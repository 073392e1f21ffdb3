"""Inversion of a run's generator over a set of images of any size: batch after batch, each kept as soon as it is done.

    settings.json          everything that the results depend on: a second start with other settings is refused
    parts/00000000.npz     a finished batch; gone when all are joined
    latents.npz            or .safetensors: a row an image, in the images' order
    errors.csv, .jsonl     a line an image
    reconstructions.png    rows of originals, each above what the generator draws
    summary.json           what the tables say in all

Image i's latents are drawn for its number i, and batch k always holds the same images: where the work was stopped and taken up
again changes no result. In memory lie a batch, and a few numbers an image.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic.dataclasses
import torch
from torch import Tensor, nn

from fastgan.checked import CHECKED, UserError, built, nearest
from fastgan.draw import Draw
from fastgan.engine import resolve_precision
from fastgan.engine.local import AUTOCAST
from fastgan.latent.inversion import Inversion, Inverted, invert
from fastgan.progress import progress
from fastgan.training.coding import prior_of
from fastgan.training.files import make_room_for, write_json
from fastgan.training.parts import FORMS, Parts, arrays_in, read_lines, take, write_csv, write_lines
from fastgan.training.run import Run
from fastgan.training.sampling import BATCH, MOST_COLUMNS, grid, write_image
from fastgan.training.targets import Targets, labels_of

SETTINGS, SUMMARY, ERRORS, LINES, PICTURE = "settings.json", "summary.json", "errors.csv", "errors.jsonl", "reconstructions.png"
THRESHOLDS = (1e-3, 1e-2, 1e-1)
"""Errors below which the summary counts images; images that the generator itself drew come under the first."""

Look = Callable[[Tensor, Inverted], Mapping[str, Tensor]]
"""(images, what was found for them) -> further columns of the tables, (B,) each."""


def inversion(settings: Mapping[str, Any] | Iterable[str] = ()) -> Inversion:
    """Settings of the inversion by name, or as "name=value" texts.

    Raises:
        UserError: there is no such setting, or a value is of the wrong kind or out of range.
    """
    return built(_Checked, "inversion", settings)


_Checked = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=CHECKED)(Inversion)


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How images are inverted: with run and images, all that the results depend on, and how they are shown.

    Raises:
        UserError: a number is out of range, or there is no such precision or form.
    """

    inversion: Inversion = field(default_factory=Inversion)
    labels: str | None = None
    """The classes that images are drawn in, as `targets.labels_of` takes them."""
    raw_weights: bool = False
    """Invert the generator as last stepped instead of its moving average."""
    precision: str = "fp32"
    """What networks compute in: "fp32" or "bf16", "fp16" on CUDA. Not the run's own: held-out digits came to 0.0022 in fp32 and
    0.0038 in bf16, and errors of a run that was trained elsewhere should compare."""
    batch_size: int = 256
    """Images that are inverted together, and kept when they are done; of their rows (images x starts x labels tried)
    `inversion.batch_size` at once."""
    form: Literal["npz", "safetensors"] = "npz"
    """Of the file of latents."""
    pictured: int = 64
    """Images that the picture shows, evenly spaced over all; 0 for no picture."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.pictured < 0:
            raise UserError(f"the picture must show at least 0 images, not {self.pictured}")
        for what, word, known in (("precision", self.precision, AUTOCAST), ("form of latents", self.form, FORMS)):
            if word not in known:
                raise UserError(f"unknown {what} {word!r}: {nearest(word, known)}")


class Job:
    """The inversion of images by a run, as it is kept in a folder.

    Args:
        out: a new or empty folder, or one where the same job was begun.
        look: gives further columns of the tables.
        looks: what these depend on, beside the generator.

    Raises:
        UserError: the labels are none of the run's, its prior has no density where that is to have weight, or `out` lies among
            the images.
    """

    def __init__(
        self,
        run: Run,
        targets: Targets,
        out: str | Path,
        manner: Manner | None = None,
        look: Look | None = None,
        looks: Mapping[str, Any] | None = None,
    ) -> None:
        self.run, self.targets, self.out, self.manner = run, targets, Path(out), manner or Manner()
        self.look, self.looks = look, dict(looks or {})
        if run.codes_images and self.manner.inversion.prior_weight:
            raise UserError(f"the run in {run.path} codes images: the density of its latents, for prior_weight, is not known")
        if targets.folder is not None and self.out.resolve().is_relative_to(targets.folder.resolve()):
            raise UserError(
                f"{out} lies in {targets.folder}, whose images these are, and would join them: choose a folder elsewhere"
            )
        self.labels = labels_of(run, targets, self.manner.labels)
        self.precision = resolve_precision(self.manner.precision, run.device)
        self.generator = run.generator if self.manner.raw_weights else run.ema_generator
        self.parts = Parts(self.out / "parts", -(-len(targets) // self.manner.batch_size))
        self.latents = self.out / f"latents.{self.manner.form}"

    @cached_property
    def _prior(self) -> Callable[[Draw], Tensor]:
        return prior_of(self.run)

    def identity(self) -> dict[str, Any]:
        """What the results depend on, whatever they are written as."""
        labels = self.labels if self.labels is None or isinstance(self.labels, str) else _digest(self.labels.astype("<i8"))
        manner = dataclasses.asdict(self.manner) | {"labels": labels, "precision": self.precision}
        manner = {name: value for name, value in manner.items() if name not in ("form", "pictured")}
        what = {"generator": digest(self.generator), "images": self.targets.source.fingerprint}
        return json.loads(json.dumps({**what, **self.looks, **self.targets.settings, **manner}))

    def work(self, quiet: bool = True, begun: Callable[[], None] | None = None) -> None:
        """Do the batches that are missing, and join all; where that was done before, write what is asked for in another form.

        Args:
            quiet: show no progress.
            begun: called before the work, when nothing was refused.

        Raises:
            UserError: the folder can't be written, holds other files or other results, or lacks some that were finished; or
                nothing finite is found for an image, or the search does not fit into memory.
            DataError: an image file has changed or went away. What was finished stays.
        """
        identity = self.identity()
        finished = self._begin(identity)
        if begun is not None:
            begun()
        if finished:
            self._show_anew()
            return
        size, count, done = self.manner.batch_size, len(self.targets), self.parts.done()
        first = min(done * size, count)
        batches = self.targets.batches(size, np.arange(first, count))
        with progress("inverting", count, done=first, quiet=quiet, announced=False) as advance:
            for number, images in enumerate(batches, start=done):
                told = 0

                def tell(share: float, count: int = len(images)) -> None:
                    nonlocal told
                    before, told = told, int(share * count)
                    advance(told - before)

                self.parts.write(number, self._batch(number * size, images, tell))
                tell(1.0)
        self._join(identity)

    def draw(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The generator's images, float32 (B, C, H, W) on the CPU."""
        given = () if labels is None else (labels.to(self.run.device),)
        with torch.no_grad(), self.autocast():
            return self.generator(latents.to(self.run.device), *given).float().cpu()

    def autocast(self) -> torch.autocast:
        """The precision that networks compute in."""
        dtype = AUTOCAST[self.precision]
        return torch.autocast(self.run.device.type, dtype=dtype, enabled=dtype is not None)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The table of errors, an image a dict."""
        return read_lines(self.out / LINES)

    def reconstructions(self, numbers: Sequence[int]) -> Tensor:
        """What the generator draws for these images, in ascending order, (N, C, H, W); of a finished job."""
        latents, labels = (take(self.latents, name, numbers) for name in ("latents", "labels"))
        latents, labels = torch.from_numpy(latents), None if labels is None else torch.from_numpy(labels)
        parts = []
        for first in range(0, len(numbers), BATCH):
            part = slice(first, first + BATCH)
            parts.append(self.draw(latents[part], None if labels is None else labels[part]))
        return torch.cat(parts)

    def summary(self, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, Any]:
        """What the tables say in all; of a finished job."""
        names = ("error", "steps", "converged")
        found = np.fromiter((tuple(row[name] for name in names) for row in self.rows()), [(name, np.float64) for name in names])
        error, steps, converged = (found[name] for name in names)
        state = _state(self.out)
        return {
            "run": str(self.run.path),
            "round": self.run.round,
            "images": self.targets.where,
            "notes": self.targets.told(),
            "count": len(error),
            "mse": _middle(error) | {"largest": float(error.max())},
            "share_below": {f"{limit:g}": float((error < limit).mean()) for limit in thresholds},
            "by_class": {name: {"count": int(own.sum())} | _middle(error[own]) for name, own in self.targets.kinds()},
            "steps": {"mean": float(steps.mean()), "most": int(steps.max())},
            "converged": float(converged.mean()),
            "starts": self.manner.inversion.starts,
            "seconds": state["seconds"],
            "settings": state["settings"],
            "files": {
                "latents": str(self.latents),
                "errors": [str(self.out / ERRORS), str(self.out / LINES)],
                "picture": str(self.out / PICTURE) if self.manner.pictured else None,
            },
        }

    def _begin(self, identity: dict[str, Any]) -> bool:
        """Make the folder, or refuse it; whether the job is finished there."""
        make_room_for(self.out / SETTINGS)
        if (self.out / SETTINGS).exists():
            state = _state(self.out)
            _check_same(self.out, state["settings"], identity)
            for left in self.out.glob("*.partial"):  # of a process that was killed
                left.unlink(missing_ok=True)
            if finished := state["seconds"] is not None:
                self.parts.remove()  # killed just then, it could not
                self._stored()
            return finished
        if other := next((path.name for path in sorted(self.out.iterdir()) if not path.name.startswith(".")), None):
            raise UserError(f"{self.out} holds other files, {other}: choose a new folder")
        write_json(self.out / SETTINGS, {"settings": identity, "seconds": None, "pictured": 0})
        return False

    def _batch(self, first: int, images: Tensor, tell: Callable[[float], None]) -> dict[str, np.ndarray]:
        """The columns of these images, the first of which has this number. `tell` is told the share that is done."""
        began, device, network = time.perf_counter(), self.run.device, self.run.config.network
        numbers = torch.arange(first, first + len(images))
        labels = self.labels
        if isinstance(labels, np.ndarray):
            labels = torch.from_numpy(labels[first : first + len(images)]).to(device)
        images = images.to(device)
        with _fitting(), self.autocast():
            found = invert(
                self.generator,
                images,
                labels,
                prior=self._prior,
                classes=network.classes or None,
                settings=self.manner.inversion,
                numbers=numbers,
                progress=tell,
            )
            if not bool(found.errors.isfinite().all()):
                number = first + int((~found.errors.isfinite()).nonzero()[0])
                raise UserError(
                    f"the generator of the run in {self.run.path} draws nothing finite for image {number} "
                    f"({self.targets.name(number)}): take another checkpoint, or --precision fp32"
                )
            columns = self.look(images, found) if self.look is not None else {}
        columns = {"latents": found.latents.float(), "errors": found.errors.float(), **columns}
        columns |= {"steps": found.steps.long(), "converged": found.converged.bool()}
        columns |= {} if found.labels is None else {"labels": found.labels.long()}
        arrays = {name: column.detach().cpu().numpy() for name, column in columns.items()}
        return arrays | {"seconds": np.full(len(images), (time.perf_counter() - began) / len(images))}

    def _join(self, identity: dict[str, Any]) -> None:
        parts = self.parts
        names = [name for name in parts.read(0) if name != "seconds"]
        FORMS[self.manner.form](self.latents, parts, names)
        further = [name for name in names if name not in ("latents", "errors", "labels", "steps", "converged")]
        columns = ["number", "file", "class", "label", "error", "steps", "converged", *further]
        write_csv(self.out / ERRORS, columns, self._table(further))
        write_lines(self.out / LINES, columns, self._table(further))
        if self.manner.pictured:
            self._picture()
        seconds = float(sum(part.sum() for part in parts.column("seconds")))
        state = {"settings": identity, "seconds": round(seconds, 3), "pictured": self.manner.pictured}
        write_json(self.out / SETTINGS, state)
        parts.remove()

    def _stored(self) -> list[Path]:
        """The files of latents in a finished folder; refuses one that lacks what can't be made again."""
        stored = [path for form in FORMS if (path := self.out / f"latents.{form}").exists()]
        missing = [name for name in (ERRORS, LINES) if not (self.out / name).exists()]
        missing += [] if stored else [self.latents.name]
        if missing:
            raise UserError(
                f"{self.out} was finished, but lacks {' and '.join(missing)}: put back what is missing, or choose a new folder"
            )
        return stored

    def _show_anew(self) -> None:
        """Of a finished job: write its latents in another form, and another picture, where they are asked for."""
        stored = self._stored()
        if self.latents not in stored:
            names, size = arrays_in(stored[0]), self.manner.batch_size
            for number in range(self.parts.count):
                rows = range(number * size, min((number + 1) * size, len(self.targets)))
                self.parts.write(number, {name: take(stored[0], name, rows) for name in names})
            FORMS[self.manner.form](self.latents, self.parts, names)
            self.parts.remove()
        state = _state(self.out)
        if self.manner.pictured and (self.manner.pictured != state["pictured"] or not (self.out / PICTURE).exists()):
            self._picture()
            write_json(self.out / SETTINGS, state | {"pictured": self.manner.pictured})

    def _table(self, further: Sequence[str]) -> Iterator[list[Any]]:
        number = 0
        for at in range(self.parts.count):
            part = self.parts.read(at)
            labels = part["labels"].tolist() if "labels" in part else [None] * len(part["errors"])
            rest = [part[name].tolist() for name in ("steps", "converged")]
            rest += [[_short(value) for value in part[name]] for name in further]
            for label, error, *others in zip(labels, part["errors"], *rest, strict=True):
                named = [number, self.targets.name(number), self.targets.class_name(number)]
                yield [*named, label, _short(error), *others]
                number += 1

    def _picture(self) -> None:
        count = min(self.manner.pictured, len(self.targets))
        numbers = np.arange(count) * len(self.targets) // count
        write_image(pairs(self.targets.take(numbers), self.reconstructions(numbers)), self.out / PICTURE)


def invert_images(
    run: Run,
    targets: Targets,
    out: str | Path,
    manner: Manner | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    quiet: bool = True,
    begun: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Find latents from which a run's generator draws these images, and write them, or go on with what was begun in `out`.

    Args:
        out: a new or empty folder, or one where the same inversion was begun.
        thresholds: errors below which the summary counts images.
        quiet: show no progress.
        begun: called before the work, when nothing was refused.

    Returns:
        The summary, as summary.json has it: "count"; "mse", over images in [-1, 1], its mean, median and largest;
        "share_below" each threshold; "by_class"; "steps", "converged", "seconds", "settings" and more.

    Raises:
        UserError: `out` can't be written, holds other files or other results, or labels are none of the run's.
        DataError: an image file has changed or went away. What was finished stays.
    """
    job = Job(run, targets, out, manner)
    job.work(quiet, begun)
    summary = job.summary(thresholds)
    write_json(job.out / SUMMARY, summary)
    return summary


@contextmanager
def _fitting() -> Iterator[None]:
    """Memory that was asked for and is not there, in one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "allocate" not in str(error):  # torch's own error for CUDA alone
            raise
        line = str(error).splitlines()[0]
        raise UserError(
            f"the search does not fit into memory, take less of --batch-size, --starts or --nearest: {line}"
        ) from None


def pairs(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1], rows of originals each above its reconstructions, as one picture (3, h, w) in [0, 1]."""
    columns = min(MOST_COLUMNS, len(originals))
    blank = -torch.ones(-len(originals) % columns, *originals.shape[1:])
    rows = [torch.cat([images.float().cpu(), blank]).unflatten(0, (-1, columns)) for images in (originals, reconstructions)]
    return grid(torch.stack(rows, dim=1).flatten(0, 2), columns)


def digest(network: nn.Module) -> str:
    """SHA-256 over a network's weights and buffers with their names, in hexadecimal."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values)).hexdigest()


def _state(out: Path) -> dict[str, Any]:
    try:
        state = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
        _flat(state["settings"])
        return {name: state[name] for name in ("settings", "seconds", "pictured")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{out / SETTINGS} is damaged, or of something else: choose a new folder") from None


def _check_same(out: Path, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse a difference in what results depend on."""
    there, now = _flat(begun), _flat(asked)
    told = {"generator": "another generator", "images": "other images", "labels": "other labels"}
    told["discriminator"] = "another discriminator"
    if "discriminator" not in there or "discriminator" not in now:  # of `anomaly`, and of no inversion
        told["discriminator"] = "anomaly scores" if "discriminator" in there else "no anomaly scores"
    for name in sorted(there.keys() | now.keys(), key=lambda name: (name not in told, name)):
        if there.get(name) == now.get(name):
            continue
        what = told.get(name) or f"{name} {there.get(name)!r} and not {now.get(name)!r}"
        raise UserError(f"the results in {out} were begun with {what}: repeat that command, or choose a new folder")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """By dotted name."""
    inner = {f"inversion.{name}": value for name, value in settings["inversion"].items()}
    return {name: value for name, value in settings.items() if name != "inversion"} | inner


def _middle(errors: np.ndarray) -> dict[str, float]:
    return {"mean": float(errors.mean()), "median": float(np.median(errors))}


def _short(value: np.float32) -> float:
    """The shortest decimal that is this float32."""
    return float(str(value))
