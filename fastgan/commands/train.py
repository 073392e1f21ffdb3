"""Training."""

from pathlib import Path
from typing import Annotated

import tyro

from fastgan.commands.options import Settings, assignments
from fastgan.commands.printing import say_quality, say_where, speaks


def train(
    preset: Annotated[str | None, tyro.conf.Positional] = None,
    /,
    *,
    run_dir: Path | None = None,
    steps: int | None = None,
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    set: Settings = (),
) -> None:
    """Train a preset; with no name, AdvLatGAN-qua on real handwritten digits.

    Args:
        preset: A name that `fastgan presets` lists (default: digits-sngan-qua).
        run_dir: The run's folder; a new one below ./runs where none is named.
        steps: Rounds, the same as --set training.steps=N.
        resume: Go on from the run's newest checkpoint; with no --run-dir, the newest run of the preset below ./runs.
        set: Fields of the configuration by dotted name, such as training.batch_size=128; the run's config.yaml shows them all.
    """
    import fastgan.training
    from fastgan.training.loop import starting_config

    config = starting_config(preset, run_dir, assignments(set), resume)
    run = fastgan.training.train(config, run_dir, steps, resume=resume)
    if run.finished and speaks():
        say_quality(run)
        say_where(run)
