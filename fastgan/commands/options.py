"""What several commands take, and the same way of reading it."""

from pathlib import Path
from typing import Annotated

import tyro

from fastgan.checked import UserError

Metavar = tyro.conf.arg
Settings = Annotated[tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], Metavar(metavar="NAME=VALUE ...")]


def assignments(groups: tuple[tuple[str, ...], ...], option: str = "--set") -> list[str]:
    """What an option that may be given several times was given, name=value each."""
    if any(not group for group in groups):
        raise UserError(f"{option} takes name=value")
    return [assignment for group in groups for assignment in group]


def choices(sampler: str, sampler_set: Settings, refine_set: Settings, batch_size: int | None) -> dict[str, object]:
    """What `sample` and `evaluate` take for a `Recipe`."""
    from fastgan.latent import samplers

    chosen = samplers.choose(sampler, assignments(sampler_set, "--sampler-set"))
    size = {} if batch_size is None else {"batch_size": batch_size}
    return {"sampler": chosen, "refine": assignments(refine_set, "--refine-set"), **size}


def load_shared(run: Path, checkpoint: str):
    """The run, and the processes that a launcher may have started to share its samples."""
    from fastgan.engine import join, resolve_device
    from fastgan.training import load_run

    ranks = join(resolve_device("auto"))  # chooses this process's device
    with ranks.agreed():
        return load_run(run, checkpoint=checkpoint), ranks


def make_room(path: Path | None, ranks) -> None:
    """Refuse a result that can't be written before the work."""
    from fastgan.training.files import make_room_for

    if path is not None and ranks.first:
        make_room_for(path)


def numbers(text: str, option: str) -> list[float]:
    """Numbers divided by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} takes numbers divided by commas, not {text!r}") from None


def whole_numbers(text: str, option: str) -> list[int]:
    """Whole numbers divided by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} takes whole numbers divided by commas, not {text!r}") from None
