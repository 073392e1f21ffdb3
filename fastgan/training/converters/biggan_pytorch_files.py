"""The files of a checkpoint of BigGAN-PyTorch, and the configuration that they are a run of.

A checkpoint there is G.pth, D.pth and, where weights were averaged, G_ema.pth, in one folder; others in that folder have a name
behind: G_best0.pth, D_best0.pth, G_ema_best0.pth. The state of optimisers (G_optim.pth, D_optim.pth) and of the run
(state_dict.pth) is not read.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.checked import UserError
from fastgan.config import Adam, Config, Data, Latent, Network, Training
from fastgan.training.converters.biggan_pytorch import Shape, discriminator_state, generator_state, shape_of
from fastgan.training.converters.imported import Imported

_MEMBER = re.compile(r"(?:G_ema|G|D)(?!_optim)((?:_\w+)?\.pth)")
_DAMAGE = (OSError, RuntimeError, AttributeError, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError)
"""What reading a broken file has been seen to raise."""


def read(path: Path) -> Imported:
    """Read a checkpoint.

    Args:
        path: one of its files, or its folder.

    Raises:
        UserError: a file is missing, can't be read, or holds no network of that project.
    """
    folder, name = _place(path)
    files = {player: folder / f"{player}{name}" for player in ("G", "D", "G_ema")}
    if not files["G"].exists() and files["G_ema"].exists():
        files["G"] = files["G_ema"]
    for player in ("G", "D"):
        if not files[player].exists():
            raise UserError(f"{folder} holds no {files[player].name}, which belongs to this checkpoint")
    if not files["G_ema"].exists():
        files["G_ema"] = files["G"]
    states = {player: _state(file) for player, file in files.items()}
    try:
        shape = shape_of(states["G"])
    except UserError as error:
        raise UserError(f"{files['G']}: {error}") from None
    converters = {"G": generator_state, "D": discriminator_state, "G_ema": generator_state}
    found = {}
    for player, convert in converters.items():
        try:
            found[player] = files[player], convert(states[player], shape)
        except (LookupError, RuntimeError, ValueError) as error:
            raise UserError(f"{files[player]} holds no {player} of BigGAN-PyTorch ({error})") from None
    return Imported(_config(shape), found["G"], found["D"], found["G_ema"])


def _place(path: Path) -> tuple[Path, str]:
    """The checkpoint's folder, and how the names of its files end."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_dir():
        if (match := _MEMBER.fullmatch(path.name)) is None:
            raise UserError(f"{path} is not named like a network of BigGAN-PyTorch (G.pth, D.pth, G_ema_best0.pth, ...)")
        return path.parent, match[1]
    matches = [_MEMBER.fullmatch(file.name) for file in sorted(path.iterdir())]
    names = sorted({match[1] for match in matches if match})
    if not names:
        raise UserError(f"{path} holds no checkpoint of BigGAN-PyTorch (G.pth, D.pth, G_ema.pth)")
    if ".pth" not in names and len(names) > 1:
        raise UserError(f"{path} holds several checkpoints: name one of {', '.join('G' + name for name in names)}")
    return path, ".pth" if ".pth" in names else names[0]


def _state(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:120]
        raise UserError(f"{path} can't be read as weights ({said})") from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a state dict")
    return {name.removeprefix("module."): value for name, value in state.items()}  # saved from under DataParallel


def _config(shape: Shape) -> Config:
    """The networks as the weights tell; the rest as in that project's script for ImageNet: batches of 256 x 8, one
    discriminator step, Adam (0, 0.999) with eps 1e-6 at 1e-4 and 4e-4, averaged with 0.9999 a round."""
    batch = 2048
    adam = {"betas": (0.0, 0.999), "eps": 1e-6, "schedule": "constant"}
    return Config(
        name="biggan-pytorch",
        description="weights of BigGAN-PyTorch",
        objective="hinge",
        data=Data(source="folder", resolution=shape.side, channels=shape.channels, flip=True, filter="linear"),
        latent=Latent(dim=shape.dim),
        network=Network(
            family="biggan-deep" if shape.deep else "biggan",
            width=shape.width,
            classes=shape.classes,
            attention=shape.attention,
            embedding=shape.embedding,
            depth=shape.depth,
        ),
        generator=Adam(rate=1e-4, **adam),
        discriminator=Adam(rate=4e-4, **adam),
        training=Training(batch_size=batch, ema_half_life=6931.0 * batch, ema_rampup=None),
    )
