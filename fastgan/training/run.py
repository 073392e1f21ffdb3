"""A run that was trained: its configuration and its networks, read back from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan import config as configuration
from fastgan import games
from fastgan.checked import UserError
from fastgan.config import Config
from fastgan.engine import resolve_device, resolve_precision
from fastgan.games import Game
from fastgan.networks.coding import Decoding, Redrawing
from fastgan.training import checkpoint as checkpoints
from fastgan.training.average import MovingAverage
from fastgan.training.folder import Folder


@dataclass(frozen=True)
class Run:
    """A run as `sample`, `evaluate` and the others take it. Its networks are on its device, in evaluation mode."""

    folder: Folder
    config: Config
    round: int
    """Rounds played; 0 for a generator as it was initialised."""
    images: int
    """Real images shown."""
    game: Game
    average: MovingAverage
    device: torch.device
    finished: bool = False
    """Whether its training is over: its last round was played, or an early stop has ended it."""

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def generator(self) -> nn.Module:
        """`generator(z)` or, with classes, `generator(z, labels)` -> images in [-1, 1], or unbounded points (B, 2); the weights
        as last stepped. Of autoencoders the decoder (`Decoding`)."""
        return of_latents(self.game.get_submodule("generator"), self.config)

    @property
    def ema_generator(self) -> nn.Module:
        """The generator with averaged weights: the one to sample from."""
        return of_latents(self.average.networks["generator"], self.config)

    @property
    def discriminator(self) -> nn.Module:
        """`discriminator(x)` or, with classes, `discriminator(x, labels)` -> scores, higher = more real. Of autoencoders how
        well D draws x again, or where there is none, G (`Redrawing`)."""
        network = self.game.played().get("discriminator")
        return Redrawing(network or self.game.get_submodule("generator")) if self.codes_images else network

    @property
    def codes_images(self) -> bool:
        """Whether its networks are autoencoders: latents are codes of images, and no prior is known."""
        return codes_images(self.config)

    @property
    def precision(self) -> str:
        """What the networks' matrix products run in: "fp32", "bf16" or "fp16". A run of fp16 is sampled in fp32 on a CPU."""
        asked = self.config.training.precision
        return resolve_precision("fp32" if asked == "fp16" and self.device.type == "cpu" else asked, self.device)

    def untrained(self) -> "Run":
        """The same run before its first round: what training is compared with."""
        return _fresh(self.folder, self.config, self.device)


def codes_images(config: Config) -> bool:
    """Whether a run of `config` trains autoencoders."""
    return config.game != "adversarial"


def of_latents(generator: nn.Module, config: Config) -> nn.Module:
    """A player's network as a function of latents: itself, or an autoencoder's decoder."""
    return Decoding(generator, config.data.channels, config.data.resolution) if codes_images(config) else generator


def load_run(path: str | Path, device: str | None = None, checkpoint: str | int = "newest") -> Run:
    """Read a checkpoint of a run.

    Args:
        path: the run's folder.
        device: "cpu", "cuda" or "auto"; CUDA where torch sees it if None, wherever the run was trained.
        checkpoint: "newest", "best" (of a run with `evaluation.best`), or the number of a round.

    Raises:
        UserError: no run lies there, it has no such checkpoint (yet), the checkpoint is damaged or of another network.
    """
    folder = Folder(path)
    if not folder.config.exists():
        raise UserError(f"there is no run in {folder.path}: it has no config.yaml")
    config = configuration.from_yaml(folder.config)
    chosen = _chosen_checkpoint(folder, checkpoint)
    state = checkpoints.load(chosen)
    run = _fresh(folder, config, resolve_device(device or "auto"), state["stage"])
    try:
        run.game.load_state_dict(state["game"])
        run.average.load_state_dict(state["average"])
    except RuntimeError as error:
        raise UserError(other_network(chosen, error)) from None
    return replace(run, round=state["round"], images=state["images"], finished=is_finished(state, config))


def _chosen_checkpoint(folder: Folder, name: str | int) -> Path:
    if name == "newest":
        path = folder.newest_checkpoint()
        if path is None:
            raise UserError(f"the run in {folder.path} has no checkpoint yet")
    elif name == "best":
        path = checkpoints.best(folder.checkpoints)
        if path is None:
            raise UserError(f"the run in {folder.path} has no best checkpoint: it is kept where evaluation.best names a metric")
    elif str(name).isdecimal():
        path = folder.checkpoints / f"{int(name):08d}.pt"
        if not path.exists():
            there = ", ".join(str(int(path.stem)) for path in checkpoints.listing(folder.checkpoints))
            raise UserError(f"the run in {folder.path} has no checkpoint of round {int(name)}, but of {there or 'none'}")
    else:
        raise UserError(f"checkpoint takes newest, best or the number of a round, not {name!r}")
    return path


def is_finished(state: Mapping[str, Any], config: Config) -> bool:
    """Whether a run of `config` that has come to this checkpoint's state is over."""
    misses = state.get("evaluation", {}).get("misses", 0)
    return state["round"] >= config.training.steps or 0 < config.evaluation.patience <= misses


def other_network(path: Path, error: Exception) -> str:
    """The line for a checkpoint whose tensors do not fit the networks that config.yaml asks for."""
    detail = next((line.strip() for line in str(error).splitlines()[1:]), str(error)).rstrip(".")
    return f"the checkpoint {path} is of another network than config.yaml asks for: {detail}"


def _fresh(folder: Folder, config: Config, device: torch.device, stage: int = 0) -> Run:
    game = games.build(config).to(device).eval()
    for entered in range(1, stage + 1):
        game.rebuild(entered)
    average = MovingAverage(game, config.training.ema_half_life, config.training.ema_rampup)
    return Run(folder, config, 0, 0, game, average, device)
