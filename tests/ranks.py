"""A small game over several processes: what the tests of distribution play, and the program that each process runs,

python tests/ranks.py FOLDER CASE ...

started once a rank, by a launcher or by `start`. A case goes on from FOLDER/begun.pt, a session's state, where its name ends in
", resumed"; where it ends in ", gone back", it collapses and goes back before it is played on.
"""

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.config import Config, override
from fastgan.draw import Draw
from fastgan.engine import ALONE, Ranks, join
from fastgan.games import AdversarialGame
from fastgan.games.augmentation import Augmentation
from fastgan.latent import Pairing, Prior, Refinement
from fastgan.networks.layers import Conv2d, ConvTranspose2d, LinearMap
from fastgan.networks.sn_cnn import Discriminator
from fastgan.objectives import OBJECTIVES
from fastgan.presets import preset
from fastgan.training.loop import build_session, engine_maker, open_source, open_stream
from fastgan.training.session import Session

ROUNDS = 5
SMALL = (
    "data.resolution=16", "network.width=2", "latent.dim=8", "training.batch_size=8", "training.precision=fp32",
    "training.device=cpu", "latent.refine_steps=1", "latent.step_size=0.05", "training.ema_half_life=100",
)  # fmt: skip
R1 = ("terms.r1.gamma=1", "terms.r1.every=2")
CLIPPED = ("generator.clip_norm=0.01", "discriminator.clip_weights=0.05")
BIGGAN = (
    "network.family=biggan", "network.classes=10", "data.resolution=32", "latent.dim=16", "network.attention=[16]",
    "network.embedding=4", "generator.rate=5e-5", "discriminator.rate=2e-4",
    "generator.eps=1e-4", "discriminator.eps=1e-4",  # with Adam's usual eps rounding alone would move biases by whole steps
    "latent.direction=l2", "latent.step_size=0.5",  # the sign of a derivative that nearly vanishes is rounding's too
)  # fmt: skip
R3GAN = (
    "network.family=r3gan", "network.width=6", "network.group=6", "network.depth=1", *R1, "terms.r1.gamma_end=0.1",
    "terms.r2.gamma=1", "terms.r2.gamma_end=0.1", "training.burn_in=30", "training.ema_half_life_end=10",
    "generator.schedule=constant", "generator.rate=1e-3", "generator.rate_end=1e-4", "generator.beta2_end=0.99",
    "discriminator.beta2_end=0.99", "generator.eps=1e-4", "discriminator.eps=1e-4", "latent.direction=l2",
)  # fmt: skip
GAIA = (
    "network.content=4", "network.style=3", "network.blocks=1", "network.width=4", "gaia.structure=0.1",
    "generator.eps=1e-4", "discriminator.eps=1e-4",
)  # fmt: skip
PAIRS = ("latent.pair=hard", "latent.pair_distance=0.5", "terms.mode_seeking.weight=1")
ADAPTED = (  # the probability of T moves in rounds 2 and 4, and the scores to be 0 within
    "augmentation.policy=ada", "augmentation.target=0", "augmentation.images=40", "augmentation.every=2",
    "terms.lecam.weight=0.3", "terms.lecam.one_sided=false",
)  # fmt: skip
TOP_K = ("terms.top_k.share=0.4", "terms.top_k.rounds=2")
GATHERED = ("terms.dragan.weight=0.1", "terms.wgan_gp.weight=0.1", "terms.wgan_gp.kind=max")
WEAK = ("terms.r1.gamma=0.1",)  # R1 of a network of ReLUs jumps where rounding turns one of them
CASES = {
    "local": R1,
    "local, accumulating": (*R1, "training.accumulate=2"),
    "local, clipped": CLIPPED,
    "local, resumed": R1,
    "local, biggan": (*BIGGAN, *R1, *WEAK),
    "local, hard pairs": PAIRS,
    "local, top-k, adapted": (*ADAPTED, *TOP_K),
    "local, accumulating, adapted": (*ADAPTED, "training.accumulate=2"),
    "local, gathered": GATHERED,
    "local, r3gan": R3GAN,
    "local, gaia": GAIA,
    "zero 0, accumulating": (*R1, "engine.zero_stage=0", "training.accumulate=2"),
    "zero 0, resumed": (*R1, "engine.zero_stage=0"),
    "zero 1, merged": (*R1, "engine.zero_stage=1", "training.merged=true", "latent.refine_steps=0"),
    "zero 1": (*R1, "engine.zero_stage=1"),
    "zero 1, clipped": (*CLIPPED, "engine.zero_stage=1"),
    "zero 2, accumulating": (*R1, "engine.zero_stage=2", "training.accumulate=2"),
    "zero 2, resumed": (*R1, "engine.zero_stage=2"),
    "zero 3": ("engine.zero_stage=3",),
    "zero 3, accumulating": ("engine.zero_stage=3", "training.accumulate=2"),
    "zero 3, clipped": (*CLIPPED, "engine.zero_stage=3"),
    "zero 3, with R1": (*R1, "engine.zero_stage=3"),
    "zero 3, with R1, resumed": (*R1, "engine.zero_stage=3"),
    "zero 0, gone back": (*R1, "engine.zero_stage=0"),
    "zero 2, gone back": (*R1, "engine.zero_stage=2"),
    "zero 3, gone back": ("engine.zero_stage=3",),
    "zero 0, r3gan": (*R3GAN, "engine.zero_stage=0"),
    "zero 2, r3gan": (*R3GAN, "engine.zero_stage=2"),
    "zero 0, biggan": (*BIGGAN, *R1, *WEAK, "engine.zero_stage=0"),
    "zero 1, biggan": (*BIGGAN, "engine.zero_stage=1"),
    "zero 2, biggan": (*BIGGAN, *R1, *WEAK, "engine.zero_stage=2"),
    "zero 3, biggan, recomputed": (*BIGGAN, "engine.zero_stage=3", "network.recompute=true"),
    "zero 3, biggan with R1": (*BIGGAN, *R1, *WEAK, "engine.zero_stage=3"),
    "zero 0, gaia": (*GAIA, "engine.zero_stage=0"),
    "zero 2, gaia": (*GAIA, "engine.zero_stage=2"),
    "zero 3, gaia": (*GAIA, "engine.zero_stage=3"),
    "zero 3, offloaded": ("engine.zero_stage=3", "engine.offload=cpu"),
}
"""Name -> what is set; the engine is DeepSpeed's where the name begins with zero."""


class Generator(nn.Module):
    """(B, 8) latents -> (B, 1, 16, 16) images, without batch norm: nothing of it depends on how a batch is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = LinearMap(8, 8, 4)
        self.main = nn.Sequential(
            nn.ReLU(inplace=True),
            ConvTranspose2d(8, 5, 4, stride=2, padding=1),  # sizes that two ranks do not divide evenly
            nn.ReLU(inplace=True),
            Conv2d(5, 3, 1),
            nn.ReLU(inplace=True),
            ConvTranspose2d(3, 1, 4, stride=2, padding=1),
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
    return _small(case, assignments)


def plain(case: str) -> Config:
    """What one process with the plain engine plays in the place of a case: the same batches, whole."""
    apart = ("engine.", "training.accumulate", "network.recompute")
    return _small(case, [a for a in CASES[case] if not a.startswith(apart)])


def _small(case: str, assignments: Iterable[str]) -> Config:
    if "gaia" in case:
        return override(preset("gaia-digits"), [*(a for a in SMALL if not a.startswith("latent.")), *assignments])
    return override(preset("digits-sngan-qua"), [*SMALL, *assignments])


def session(config: Config, ranks: Ranks = ALONE) -> Session:
    """The small game, its engines and its share of the stream of digits, at round 0."""
    if config.network.family in ("biggan", "r3gan", "style-content"):
        return build_session(config, open_source(config), ranks)
    torch.manual_seed(0)
    game = AdversarialGame(
        Generator().to(memory_format=torch.channels_last),
        Discriminator(16, 1, 2).to(memory_format=torch.channels_last),
        prior=Prior.of(config.latent),
        objective=OBJECTIVES[config.objective],
        refinement=Refinement(config.latent, config.objective),
        pairing=None if config.latent.pair == "none" else Pairing(config.latent),
        terms=config.terms,
        merged=config.training.merged,
        augmentation=None if config.augmentation.policy == "none" else Augmentation(config.augmentation, 8),
    )
    if ranks.count > 1:
        game.over_ranks, game.gather = ranks.mean, ranks.gather
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
    """The session's state after `rounds` rounds; what was measured after the last of them; what the discriminator's phase drew
    and was shown in it; and how many weights of each network are this rank's own."""
    shown, session.spectra_every = [], rounds
    loss = session.game.discriminator_loss

    def watched(batch, draw: Draw):
        if session.round == rounds - 1:
            latents = {"z": session.game.prior(draw)} if hasattr(session.game, "prior") else {}
            shown.append({"rows": draw.rows, **latents, **batch})
        return loss(batch, draw)

    session.game.discriminator_loss = watched
    while session.round < rounds:
        session.play_round()
    session.game.discriminator_loss = loss
    own = {  # ZeRO-3 keeps a rank's share apart, and the rest for as long as it is of use
        name: sum(
            p.ds_tensor.numel() if hasattr(p, "ds_tensor") and not p.ds_persist else p.numel() for p in network.parameters()
        )
        for name, network in session.game.named_children()
    }
    return {"state": session.state_dict(), "shown": shown, "own": own, "measured": session.measure()}


def go_astray(session: Session) -> None:
    """Play two rounds, then two more of which the last has a loss of NaN, and go back."""
    for _ in range(2):
        session.play_round()
    state, loss = copy.deepcopy(session.state_dict()), session.game.discriminator_loss
    session.play_round()

    def spoiled(batch, draw):
        found, observed = loss(batch, draw)
        return found * float("nan"), observed | {"loss": observed["loss"] * float("nan")}  # ZeRO skips the step

    session.game.discriminator_loss = spoiled
    session.play_round()
    session.game.discriminator_loss = loss
    assert not session.is_finite()
    session.go_back(state, 0.5)


def start(count: int, *arguments: object, mpi: bool = False) -> list[subprocess.Popen]:
    """Python with these arguments, once for each of `count` ranks on this machine, in the environment that torchrun sets, or
    mpirun."""
    shared = {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    if mpi:
        shared |= {f"OMPI_COMM_WORLD_{name}": str(count) for name in ("SIZE", "LOCAL_SIZE")}
        names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    else:
        shared |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        names = ("RANK", "LOCAL_RANK")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *map(str, arguments)]
    ranks = [shared | dict.fromkeys(names, str(rank)) for rank in range(count)]
    return [subprocess.Popen(command, **options, env=os.environ | rank) for rank in ranks]


def finish(processes: list[subprocess.Popen], timeout: float = 120) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each, once all have ended."""
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda process: process.communicate(timeout=timeout), processes))
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a tree by its path."""
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(node, list | tuple):
        return {k: v for i, value in enumerate(node) for k, v in leaves(value, f"{path}/{i}").items()}
    return {path: node}


def assert_equal(one: Any, other: Any) -> None:
    """Two trees are the same, tensors bit for bit."""
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    apart = [k for k, v in one.items() if not (torch.equal(v, other[k]) if isinstance(v, Tensor) else v == other[k])]
    assert not apart


def assert_close(found: dict, expected: dict) -> None:
    """Weights and averages to 1e-5 of each tensor's norm; the last gradients, which Adam keeps, and statistics to 1e-4: those
    of a bias may nearly cancel out; everything else exactly."""
    found, expected = leaves(found), leaves(expected)
    assert found.keys() == expected.keys()
    biggan = any(path.startswith("/game/generator.stages") for path in expected)
    gaia = any(path.startswith("/game/generator.content_encoder") for path in expected)
    for path, value in expected.items():
        if "separation" in path:
            continue  # a share of pairs, within each part of a batch
        if biggan and (path.startswith("/engines") or ("generator.stages" in path and path.endswith("bias"))):
            continue  # a norm takes away what such a bias adds: its gradient is rounding alone, and Adam keeps gradients
        if isinstance(value, Tensor) and value.is_floating_point():
            tolerance = 1e-4 if path.startswith(("/engines", "/tally")) else 1e-5
            if biggan and "generator" in path and path.endswith(("bias", "gamma")):
                tolerance = 1e-3  # they began at 0, so all that they are is some steps of gradients that nearly cancel out
            if gaia and (("generator" in path and path.endswith("bias")) or path.startswith("/engines")):
                tolerance = 2e-3  # the same; and a pixel that is drawn to its very value has a slope of either sign
            assert (found[path] - value).norm() <= tolerance * value.norm(), path
        elif path.endswith("/lr"):
            assert abs(found[path] - value) <= 1e-4 * value, path  # a game may set it by its losses
        else:
            assert found[path] == value, path


def assert_measured(found: dict[str, float], expected: dict[str, float]) -> None:
    """The same norms and singular values; gradients' to 1e-3, as they are the first to show rounding."""
    assert found.keys() == expected.keys()
    assert {"D/gradient_norm", "G/gradient_norm", "weight_norm/generator", "weight_norm/discriminator"} <= found.keys()
    for name, value in expected.items():
        tolerance = 1e-3 if name.endswith("gradient_norm") else 1e-4
        assert abs(found[name] - value) <= tolerance * abs(value) + 1e-6, name


def in_order(parts: list[list[dict]]) -> dict:
    """What ranks were shown, by micro-batches, as one process would see it."""
    shares = [share for micro in zip(*parts, strict=True) for share in micro]
    return {key: torch.cat([share[key] for share in shares]) for key in shares[0]}


def main(folder: Path, cases: list[str]) -> None:
    ranks = join(torch.device("cpu"), even_alone=True)
    for case in cases:
        played = session(settings(case, folder), ranks)
        if case.endswith(", resumed"):
            played.load_state_dict(torch.load(folder / "begun.pt"))
        if case.endswith(", gone back"):
            go_astray(played)
        torch.save(play(played, ROUNDS), folder / f"{case} {ranks.rank}.pt")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    main(Path(words[0]), words[1:])
