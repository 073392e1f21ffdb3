"""Metrics and samples of a run on Weights & Biases, where the user asks for it (`training.wandb`)."""

import uuid
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastgan import config as configuration
from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.training.files import replace_text
from fastgan.training.folder import Folder

PROJECT = "fastgan"
"""Where runs go that name no project."""


class Board:
    """A run there; resumed, it is the same one, whose name lies in the run's folder.

    Rounds that a run went back over stay: what was sent can't be taken back.

    Raises:
        UserError: the package is missing, or its service refuses.
    """

    def __init__(self, config: Config, folder: Folder) -> None:
        self.wandb = _package()
        name = folder.path / "wandb-id.txt"
        if not name.exists():
            replace_text(name, uuid.uuid4().hex)
        project = config.training.wandb if isinstance(config.training.wandb, str) else PROJECT
        try:
            self.run = self.wandb.init(
                project=project,
                name=folder.path.name,
                id=name.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(folder.path.resolve()),
                config=configuration.flatten(config),
                allow_val_change=True,  # a resumed run may have more steps
            )
        except self.wandb.Error as error:
            raise UserError(f"Weights & Biases: {str(error).splitlines()[0]}") from None
        self.run.define_metric("*", step_metric="round")  # its own steps may not go back, rounds may

    def record(self, round_number: int, metrics: Mapping[str, Any]) -> None:
        """Send the metrics of a round."""
        self.run.log({"round": round_number, **metrics})

    def show(self, name: str, picture: Tensor, round_number: int) -> None:
        """Send an image (C, H, W) in [0, 1]."""
        self.run.log({"round": round_number, name: self.wandb.Image(picture.permute(1, 2, 0).cpu().numpy())})

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


def check(config: Config) -> None:
    """Refuse, before anything is written, to send what can't be sent.

    Raises:
        UserError: the package is missing where it is asked for.
    """
    if config.training.wandb:
        _package()


def _package():
    try:
        import wandb  # only here: it is slow, and nobody else needs it
    except ImportError:
        raise UserError("training.wandb needs the package wandb: pip install wandb, or --set training.wandb=false") from None
    return wandb
