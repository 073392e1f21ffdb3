"""Small games on points in the plane, and what they need to be played: for tests of the joints."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgan import games
from fastgan.config import Adam, override
from fastgan.draw import Draw
from fastgan.engine import LocalEngine
from fastgan.games import Game, Phase
from fastgan.games.game import Batch
from fastgan.judgement import Judgement
from fastgan.presets import preset
from fastgan.training.average import MovingAverage
from fastgan.training.folder import Folder
from fastgan.training.run import Run
from fastgan.training.session import Session

TINY = (
    "data.resolution=16", "network.width=2", "latent.dim=8", "training.batch_size=16", "training.log_every=2",
    "training.checkpoint_every=2",
)  # fmt: skip
"""Overrides that make a run of digits small."""


class PointStream:
    """Endless batches of points on a circle, drawn by their ordinal."""

    def __init__(self, batch_size: int, keys: tuple[str, ...] = ("images",), size: int = 2) -> None:
        self.batch_size, self.keys, self.size, self.seen = batch_size, keys, size, 0

    def __next__(self) -> Batch:
        rows = torch.arange(self.seen, self.seen + self.batch_size)
        self.seen += self.batch_size
        return {key: self._points(Draw(9, key, 0, rows)) for key in self.keys}

    def _points(self, draw: Draw) -> Tensor:
        angle = 6.2832 * draw.uniform("angle", 1)
        return torch.cat([angle.cos(), angle.sin()], dim=1).repeat(1, self.size // 2)

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.seen = state["seen"]

    def close(self) -> None: ...


def mlp(*sizes: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


class Score(nn.Module):
    """An MLP discriminator: one score a point."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.body = mlp(*sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).squeeze(1)


def fresh_run(folder, name: str, *assignments: str) -> Run:
    """A small run of this preset before its first round; nothing lies in its folder."""
    small = ("data.resolution=16", "network.width=2", "latent.dim=8", "training.precision=fp32")
    config = override(preset(name), [*small, *assignments])
    game = games.build(config).eval()
    return Run(Folder(folder), config, 0, 0, game, MovingAverage(game, 0.0, None), torch.device("cpu"))


def make_session(game: Game, stream=PointStream, batch_size: int = 16, accumulate: int = 1, **options) -> Session:
    return Session(
        game,
        lambda game, player: LocalEngine(game.networks_of(player), Adam(rate=1e-2), "fp32", game.main_share(player)),
        lambda stage: stream(batch_size // accumulate),
        batch_size=batch_size,
        accumulate=accumulate,
        **options,
    )


def tensors(session: Session) -> dict[str, Tensor]:
    """Every tensor of a session's state by its path."""
    found = {}

    def walk(node, path):
        if isinstance(node, Tensor):
            found[path] = node.detach().clone()
        elif isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}/{key}")
        elif isinstance(node, list | tuple):
            for i, value in enumerate(node):
                walk(value, f"{path}/{i}")

    walk(session.state_dict(), "")
    return found


def saved(session: Session) -> dict:
    """The state as a file would hold it: apart from the live tensors."""
    return copy.deepcopy(session.state_dict())


class Began(Game):
    """BEGAN (Berthelot et al. 2017): D is an autoencoder, k balances the players between rounds."""

    players = {"discriminator": ("discriminator",), "generator": ("generator",)}  # noqa: RUF012

    def __init__(self, gamma: float = 0.5, rate: float = 0.01) -> None:
        super().__init__()
        self.generator, self.discriminator = mlp(2, 16, 2), _Autoencoder(mlp(2, 8, 2))
        self.gamma, self.rate = gamma, rate
        self.register_buffer("k", torch.tensor(0.0))

    def phases(self):
        return Phase("D", "discriminator", self.reconstruct), Phase("G", "generator", self.imitate, fresh=False)

    def reconstruct(self, batch, draw):
        with torch.no_grad():
            fake = self.generator(draw.normal("latent", 2))
        real, fake = self.error(batch["images"]), self.error(fake)
        loss = real - self.k * fake
        return loss, {"loss": loss.detach(), "real": real.detach(), "fake": fake.detach()}

    def imitate(self, batch, draw):
        loss = self.error(self.generator(draw.normal("latent", 2)))
        return loss, {"loss": loss.detach()}

    def error(self, x):
        return (Judgement.of(self.discriminator(x)).reconstruction - x).abs().mean()

    @torch.no_grad()
    def after(self, statistics):
        real, fake = statistics["D"]["real"], statistics["D"]["fake"]
        self.k.add_(self.rate * (self.gamma * real - fake)).clamp_(0, 1)


class _Autoencoder(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Judgement:
        return Judgement(score=None, reconstruction=self.body(x))


class CycleGan(Game):
    """CycleGAN (Zhu et al. 2017): two generators are one player, two discriminators the other; batches hold pairs."""

    players = {"critics": ("on_a", "on_b"), "translators": ("to_a", "to_b")}  # noqa: RUF012
    averaged = ("to_a", "to_b")

    def __init__(self) -> None:
        super().__init__()
        self.to_a, self.to_b = mlp(2, 16, 2), mlp(2, 16, 2)
        self.on_a, self.on_b = Score(2, 16, 1), Score(2, 16, 1)

    def phases(self):
        return Phase("G", "translators", self.translate), Phase("D", "critics", self.criticise, fresh=False)

    def translate(self, batch, draw):
        a, b = batch["a"], batch["b"]
        as_b, as_a = self.to_b(a), self.to_a(b)
        fool = (self.on_b(as_b) - 1).square().mean() + (self.on_a(as_a) - 1).square().mean()
        cycle = (self.to_a(as_b) - a).abs().mean() + (self.to_b(as_a) - b).abs().mean()
        return fool + 10 * cycle, {"fool": fool.detach(), "cycle": cycle.detach()}

    def criticise(self, batch, draw):
        with torch.no_grad():
            as_b, as_a = self.to_b(batch["a"]), self.to_a(batch["b"])
        loss = sum(
            (critic(real) - 1).square().mean() + critic(fake).square().mean()
            for critic, real, fake in ((self.on_a, batch["a"], as_a), (self.on_b, batch["b"], as_b))
        )
        return loss, {"loss": loss.detach()}


class Growing(Game):
    """A game in two stages: from points in the plane to pairs of points, with new layers on both networks."""

    players = {"discriminator": ("discriminator",), "generator": ("generator",)}  # noqa: RUF012
    stages = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = mlp(2, 16, 2), Score(2, 16, 1)

    def rebuild(self, stage: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage)
            self.generator.append(nn.Linear(2, 4))
            self.discriminator.body.insert(0, nn.Linear(4, 2))

    def phases(self):
        return Phase("D", "discriminator", self.tell_apart), Phase("G", "generator", self.imitate, fresh=False)

    def tell_apart(self, batch, draw):
        with torch.no_grad():
            fake = self.generator(draw.normal("latent", 2))
        loss = (1 - self.discriminator(batch["images"])).relu().mean() + (1 + self.discriminator(fake)).relu().mean()
        return loss, {"loss": loss.detach()}

    def imitate(self, batch, draw):
        loss = -self.discriminator(self.generator(draw.normal("latent", 2))).mean()
        return loss, {"loss": loss.detach()}
