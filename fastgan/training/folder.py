"""The folder of a run: what lies where, and who may write to it.

config.yaml      the resolved configuration          samples/        grids from fixed latents, by round
metrics.jsonl    one record a logging interval       checkpoints/    by round
evaluation.json  the metrics of the finished run     tensorboard/    the same curves for TensorBoard
.lock            held while a process trains here    evaluation/     what metrics keep, such as their classifier
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastgan import config as configuration
from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.training import checkpoint
from fastgan.training.files import replace_text


class Folder:
    """The paths of a run. Making one touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluation = self.path / "evaluation.json"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"

    def holds_run(self) -> bool:
        """Whether a run was begun here, whole or not."""
        return self.config.exists() or self.metrics.exists() or self.newest_checkpoint() is not None

    def create(self) -> None:
        """Make the folders.

        Raises:
            UserError: they can't be made or written to.
        """
        try:
            for folder in (self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise UserError(f"the run folder {self.path} can't be written: {error.strerror}") from None

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration, whole or not at all."""
        replace_text(self.config, configuration.to_yaml(config))

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint of the latest round, if there is one."""
        return next(reversed(checkpoint.listing(self.checkpoints)), None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it when the process dies, however it dies.

        Raises:
            UserError: a live process holds it.
        """
        with open(self.path / ".lock", "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                owner = file.read().strip()
                raise UserError(f"the run folder {self.path} is in use by a live process (pid {owner})") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def next_folder(root: Path, name: str) -> Path:
    """The first free `root/NAME-001`, -002, ..."""
    return root / f"{name}-{max(_numbers(root, name), default=0) + 1:03d}"


def latest_folder(root: Path, name: str) -> Path:
    """The highest-numbered run called `name` below `root`.

    Raises:
        UserError: there is none.
    """
    numbers = _numbers(root, name)
    if not numbers:
        raise UserError(f"there is no run of {name} in {root}/ to resume: name one with --run-dir")
    return root / f"{name}-{max(numbers):03d}"


def _numbers(root: Path, name: str) -> list[int]:
    tails = (path.name.removeprefix(f"{name}-") for path in root.glob(f"{name}-*"))
    return [int(tail) for tail in tails if tail.isdigit()]
