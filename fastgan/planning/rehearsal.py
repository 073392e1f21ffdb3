"""A round of a run, played with networks that have no memory: everything is asked for, nothing is computed.

The networks, the game and the session are the run's own; tensors are torch's fake ones. So what is counted is what a round
does, refinement, penalties and their second derivatives included, at any size on any machine.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from fastgan import games
from fastgan.config import Config
from fastgan.data import DISTRIBUTIONS
from fastgan.draw import Draw
from fastgan.engine import LocalEngine
from fastgan.games import AdversarialGame, Game, Phase
from fastgan.games.game import Batch, Statistics
from fastgan.kernels.launch import recording
from fastgan.networks.attention import Attention
from fastgan.planning.meter import Meter
from fastgan.terms import Term
from fastgan.training.session import Session

PARTS = ("refine", "generate", "forward", "terms", "backward", "step", "average", "other")
"""What is done in a phase: latents refined, images generated without a graph, everything judged (in G's phase generated too),
terms computed (penalties: their gradients towards the images), gradients of the loss (a penalty's second derivatives are here),
the optimiser's step with the spectral norms; outside of phases the moving average; and the rest."""

MICRO_BATCHES = 2
"""Of a turn, in a rehearsal: the first one finds no gradients, the others do."""


def imagine(config: Config) -> Game:
    """The game of `config` with networks of shapes alone.

    Raises:
        UserError: the networks can't be built.
    """
    with torch.device("meta"):
        return games.build(config).train()


def rehearse(game: Game, config: Config, micro_batch: int, precision: str, on_gpu: bool = True) -> Meter:
    """Play the round in which every lazy phase takes part, of a run that goes on: Adam has its moments.

    Args:
        game: from `imagine`; it may be used again.
        micro_batch: samples of a micro-batch on one rank; each turn has `MICRO_BATCHES`.
        precision: "fp32", or "bf16" (fp16 takes as much).
        on_gpu: operations take the ways that they take on CUDA: kernels, torch's convolutions, fused attention.
    """
    size = micro_batch * MICRO_BATCHES
    with ExitStack() as stack:
        launches = stack.enter_context(recording()) if on_gpu else None
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        stack.enter_context(FakeTensorMode())
        meter = stack.enter_context(Meter(launches))
        _give_memory(game)
        settings = {"generator": config.generator, "discriminator": config.discriminator}

        def engine(game: Game, player: str) -> LocalEngine:
            return _Watched(meter, game.networks_of(player), settings[player], precision, game.main_share(player))

        session = Session(
            game,
            engine,
            lambda stage: _Batches(config, micro_batch),
            batch_size=size,
            accumulate=MICRO_BATCHES,
            half_life=config.training.ema_half_life,
            rampup=config.training.ema_rampup,
        )
        _give_memory(session.average)  # which was copied, and its tensors' imagined memory with it
        for engine in session.engines.values():
            for parameter in engine.parameters:
                parameter.grad = torch.zeros_like(parameter)
            LocalEngine.step(engine)  # makes the moments
        meter.forget()
        if on_gpu:
            stack.enter_context(_fused_attention(game))
        with _watched(session, meter):
            session.play_round()
    return meter


def batch_shape(config: Config, size: int) -> tuple[int, ...]:
    """Of a batch of real images, or of points."""
    data = config.data
    return (size, 2) if data.source in DISTRIBUTIONS else (size, data.channels, data.resolution, data.resolution)


class _Batches:
    """A stream of batches of the right shape."""

    def __init__(self, config: Config, size: int) -> None:
        self.shape, self.size = batch_shape(config, size), size

    def __next__(self) -> Batch:
        images = torch.empty(self.shape)
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return {"images": images, "labels": torch.zeros(self.size, dtype=torch.int64)}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def _give_memory(module: nn.Module) -> None:
    """Put fresh fake tensors in the place of all parameters and buffers: fakes and meta tensors can't be moved."""
    placed: dict[int, tuple[Tensor, Tensor]] = {}  # with the old one, so that its id stays its own
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in placed:
                    new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype)
                    new = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
                    placed[id(old)] = old, new
                tensors[name] = placed[id(old)][1]
        if hasattr(part, "_kept"):
            part._kept = None  # a spectral norm's weight


class _Watched(LocalEngine):
    """An engine that tells the meter what it does."""

    def __init__(self, meter: Meter, *args: Any) -> None:
        super().__init__(*args)
        self.meter = meter

    def backward(self, loss: Tensor) -> None:
        with self.meter.at(part="backward"):
            super().backward(loss)

    def step(self, measured: bool = False) -> Tensor | None:
        with self.meter.at(part="step", micro=-1):
            norm = super().step(measured)
        self.meter.move("", "other", -1)
        return norm


class _WatchedTerm:
    """A term that tells the meter when its loss is computed."""

    def __init__(self, term: Term, meter: Meter) -> None:
        self._term, self._meter = term, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._term, name)

    def loss(self, *args: Any) -> Tensor:
        with self._meter.at(part="terms"):
            return self._term.loss(*args)


@contextmanager
def _watched(session: Session, meter: Meter) -> Iterator[None]:
    """Inside, the game and the moving average tell the meter what they do."""
    game, average = session.game, session.average
    phases = game.phases

    def within(part: str, function: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            with meter.at(part=part):
                return function(*args, **kwargs)

        return watched

    def loss(phase: Phase, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        meter.move(phase.name, "forward", draw.part)
        result = phase.loss(batch, draw)
        meter.move(part="backward")  # until the engine's step
        return result

    stand_ins: dict[str, Any] = {
        "phases": lambda: [replace(phase, loss=partial(loss, phase)) for phase in phases()],
        "paces": lambda statistics: {},  # the host would read them
    }
    if isinstance(game, AdversarialGame):
        stand_ins |= {
            "refinement": within("refine", game.refinement),
            "_generate_without_graph": within("generate", game._generate_without_graph),
            "terms": {name: _WatchedTerm(term, meter) for name, term in game.terms.items()},
        }
    before = {name: game.__dict__[name] for name in stand_ins if name in game.__dict__}
    game.__dict__.update(stand_ins)
    average.__dict__["update"] = within("average", average.update)
    try:
        yield
    finally:
        for name in stand_ins:
            del game.__dict__[name]
        game.__dict__.update(before)
        del average.__dict__["update"]


@contextmanager
def _fused_attention(game: Game) -> Iterator[None]:
    """Inside, attention is computed as CUDA does where torch allows it: without keeping the matrix of weights. torch's choice
    is not asked, for it would be the processor's; it is the memory-efficient kernel, the only one for values wider than
    queries, wherever rows are multiples of 16 bytes (torch's condition on sm_80 and later)."""
    parts = [part for part in game.modules() if isinstance(part, Attention) and not part.twice_differentiable]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        given = [t[:, None].contiguous() for t in (query, key, value)]
        if any(t.shape[-1] * t.element_size() % 16 for t in given):
            return functional.scaled_dot_product_attention(*given, scale=1.0)[:, 0]
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in given)
        return torch.ops.aten._scaled_dot_product_efficient_attention(*given, None, learns, scale=1.0)[0][:, 0]

    for part in parts:
        part.__dict__["_attend"] = attend
    try:
        yield
    finally:
        for part in parts:
            del part.__dict__["_attend"]
