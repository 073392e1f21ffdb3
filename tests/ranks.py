"""A small game over several processes: what the tests of distribution play, and the program that each process runs.

python tests/ranks.py FOLDER CASE ...      started once a rank, by a launcher or by `start`
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan.config import Config, override
from fastgan.draw import Draw
from fastgan.engine import ALONE, Ranks, join
from fastgan.games import AdversarialGame
from fastgan.latent import Prior, Refinement
from fastgan.networks.layers import ConvTranspose2d, LinearMap
from fastgan.networks.sn_cnn import Discriminator
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset
from fastgan.training.loop import engine_maker, open_source, open_stream
from fastgan.training.session import Session

ROUNDS = 5
SMALL = (
    "data.resolution=16", "network.width=2", "latent.dim=8", "training.batch_size=8", "training.precision=fp32",
    "training.device=cpu", "latent.refine_steps=1", "latent.step_size=0.05", "training.ema_half_life=100",
)  # fmt: skip
R1 = ("terms.r1.gamma=1", "terms.r1.every=2")
CASES = {
    "local": R1,
    "local, accumulating": (*R1, "training.accumulate=2"),
    "local, clipped": ("generator.clip_norm=0.01", "discriminator.clip_weights=0.05"),
    "zero 0": (*R1, "engine.zero_stage=0"),
    "zero 1": (*R1, "engine.zero_stage=1"),
    "zero 2": (*R1, "engine.zero_stage=2"),
    "zero 3": ("engine.zero_stage=3",),
    "zero 3, with R1": (*R1, "engine.zero_stage=3"),
    "zero 0, accumulating": (*R1, "engine.zero_stage=0", "training.accumulate=2"),
    "zero 1, accumulating": (*R1, "engine.zero_stage=1", "training.accumulate=2"),
    "zero 2, accumulating": (*R1, "engine.zero_stage=2", "training.accumulate=2"),
    "zero 3, accumulating": ("engine.zero_stage=3", "training.accumulate=2"),
    "zero 0, clipped": ("generator.clip_norm=0.01", "discriminator.clip_weights=0.05", "engine.zero_stage=0"),
    "zero 2, clipped": ("generator.clip_norm=0.01", "discriminator.clip_weights=0.05", "engine.zero_stage=2"),
    "zero 3, clipped": ("generator.clip_norm=0.01", "discriminator.clip_weights=0.05", "engine.zero_stage=3"),
    "zero 1, offloaded": (*R1, "engine.zero_stage=1", "engine.offload=cpu"),
    "zero 2, offloaded": (*R1, "engine.zero_stage=2", "engine.offload=cpu", "training.accumulate=2"),
    "zero 3, offloaded": ("engine.zero_stage=3", "engine.offload=cpu", "training.accumulate=2"),
}  # fmt: skip
"""Name -> what is set; the engine is DeepSpeed's where the name says so."""


class Generator(nn.Module):
    """(B, 8) latents -> (B, 1, 16, 16) images, without batch norm: nothing of it depends on how a batch is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = LinearMap(8, 8, 4)
        self.main = nn.Sequential(
            nn.ReLU(inplace=True),
            ConvTranspose2d(8, 5, 4, stride=2, padding=1),  # sizes that two ranks do not divide evenly
            nn.ReLU(inplace=True),
            ConvTranspose2d(5, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(self.linear(z))


def settings(case: str, folder: Path) -> Config:
    """The configuration of a case; `folder` takes the DeepSpeed JSON."""
    assignments = CASES[case]
    if case.startswith("zero"):
        path = folder / f"deepspeed-{os.getpid()}.json"
        # A small network stays whole under the default threshold, which would hide what ZeRO-3 does.
        path.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
        assignments = ("engine.kind=deepspeed", f"engine.deepspeed_json={path}", *assignments)
    return override(preset("digits-sngan-qua"), [*SMALL, *assignments])


def session(config: Config, ranks: Ranks = ALONE) -> Session:
    """The small game, its engines and its share of the stream of digits, at round 0."""
    torch.manual_seed(0)
    generator, discriminator = Generator(), Discriminator(16, 1, 2)
    game = AdversarialGame(
        generator.to(memory_format=torch.channels_last),
        discriminator.to(memory_format=torch.channels_last),
        prior=Prior.of(config.latent),
        objective=OBJECTIVES[config.objective],
        refinement=Refinement(config.latent, config.objective),
        terms=config.terms,
    )
    device, source = torch.device("cpu"), open_source(config)
    return Session(
        game,
        engine_maker(config, ranks),
        lambda stage: open_stream(config, source, device, ranks=ranks),
        seed=config.seed,
        batch_size=config.training.batch_size,
        accumulate=config.training.accumulate,
        half_life=config.training.ema_half_life,
        ranks=ranks,
    )


def play(session: Session, rounds: int) -> dict:
    """What a case ends with: the session's state, and all that it drew and was shown in the last round."""
    shown = []
    loss = session.game.discriminator_loss

    def watched(batch, draw: Draw):
        if session.round == rounds - 1:
            shown.append({"rows": draw.rows, "z": draw.normal("latent", 8), **batch})
        return loss(batch, draw)

    session.game.discriminator_loss = watched
    while session.round < rounds:
        session.play_round()
    return {**session.state_dict(), "shown": shown}


def start(count: int, *arguments: object, **environment: str) -> list[subprocess.Popen]:
    """This program, or another command given by its words, once for each of `count` ranks on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | shared | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def main(folder: Path, cases: list[str]) -> None:
    ranks = join(torch.device("cpu"), even_alone=True)
    for case in cases:
        torch.save(play(session(settings(case, folder), ranks), ROUNDS), folder / f"{case} of {ranks.count} {ranks.rank}.pt")
        if ranks.first:
            print(case, flush=True)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    main(Path(words[0]), words[1:])
