"""The engine that divides one player between ranks: DeepSpeed's ZeRO, with the few methods of the plain engine.

What is divided by stage (Rajbhandari, Rasley, Ruwase, He, "ZeRO: memory optimizations toward training trillion parameter
models", SC 2020, section 5): 1 the optimiser's state, 2 the gradients too, 3 the weights too. At 0 gradients are averaged.

Networks are called as they are, and DeepSpeed sees the loss alone: its hooks expect one forward of one module a step, which a
player that is refined, judged and penalised does not keep to.
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from fastgan.checked import UserError
from fastgan.config import Adam, Engine
from fastgan.engine.distributed import Ranks
from fastgan.engine.local import AUTOCAST, adam, kind_of, lay_out
from fastgan.engine.schedule import set_optimiser
from fastgan.networks.layers import iterate_spectral_norms

OURS = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.batch_size",
    "gradient_accumulation_steps": "training.accumulate",
    "gradient_clipping": "generator.clip_norm and discriminator.clip_norm",
    "optimizer": "generator and discriminator",
    "scheduler": "generator.schedule and discriminator.schedule",
    "fp16": "training.precision",
    "bf16": "training.precision",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer": "engine.offload",
}
"""What a user's DeepSpeed configuration may not set, as a field of fastgan's has the say; "auto" is let through."""
MOMENTS = ("exp_avg", "exp_avg_sq")


def check(settings: Engine, device: torch.device) -> None:
    """Refuse what `DeepSpeedEngine` would: for all ranks to agree on before they build it together.

    Raises:
        UserError: DeepSpeed is not installed, or the user's JSON can't be read or sets what is not its to set.
    """
    _library(device.type)
    users(settings.deepspeed_json)


class DeepSpeedEngine:
    """Steps the networks of one player together, divided between the ranks.

    The arguments are those of `LocalEngine`, and:

    Args:
        engine: which DeepSpeed.
        stage: the player's ZeRO stage, which may lie below `engine.zero_stage`.
        batch_size, accumulate: as the session has them.

    Raises:
        UserError: see `check`.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        settings: Adam,
        precision: str,
        main_share: float,
        ranks: Ranks,
        *,
        engine: Engine,
        stage: int,
        batch_size: int,
        accumulate: int,
    ) -> None:
        self.networks, self.ranks, self.stage = list(networks), ranks, stage
        self.parameters = [parameter for network in self.networks for parameter in network.parameters()]
        self.device = self.parameters[0].device
        self.clip_norm, self.clip_weights, self.accumulate = settings.clip_norm, settings.clip_weights, accumulate
        self.settings, self.main_share = settings, main_share
        self.dtype = AUTOCAST[precision]
        channels_last = [_is_channels_last(parameter) for parameter in self.parameters]
        for parameter in self.parameters:  # DeepSpeed looks at a weight's memory as one row; `contiguous` keeps odd strides
            parameter.data = parameter.data.reshape(-1).view(parameter.shape)
        self.optimiser = adam(self.parameters, settings, main_share, apex=False)
        self.library = _library(self.device.type)
        offload = {"offload_optimizer": {"device": engine.offload}} if stage and engine.offload != "none" else {}
        ours = {
            "train_batch_size": batch_size,
            "train_micro_batch_size_per_gpu": batch_size // (accumulate * ranks.count),
            "gradient_accumulation_steps": accumulate,
            "gradient_clipping": settings.clip_norm or 0.0 if stage else 0.0,
            "steps_per_print": 2**40,
            "zero_force_ds_cpu_optimizer": False,  # torch's fused Adam needs no compiler
            "zero_optimization": {"stage": stage} | offload,
        }
        self.scale = _LossScale() if precision == "fp16" else None
        self.engine = self._initialised(_merged(ours, users(engine.deepspeed_json)), engine.deepspeed_json)
        if not stage:
            for parameter, last in zip(self.parameters, channels_last, strict=True):
                if last:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager:
        """The context that losses are computed in."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def set_rate(self, factor: float, burnt_in: float = 1.0) -> None:
        """Set rate and beta2 to where they have gone when this share of the burn-in has passed, the rate times `factor`."""
        set_optimiser(self.optimiser, self.settings, self.main_share, factor, burnt_in)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those of the player's parameters."""
        if self.scale and self.stage:
            self.engine.optimizer.override_loss_scale(self.scale.scale)
        elif self.scale:
            loss = loss * self.scale.scale
        # DeepSpeed divides by the micro-batches, which the session has done: told not to, it does so at stage 0 all the same.
        self.engine.backward(self.engine(loss * self.accumulate))
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # counts the micro-batch

    def step(self, measured: bool = False) -> Tensor | None:
        """One optimiser step on the gathered gradients, averaged over the ranks, which are dropped, the weights' clipping, and
        one power iteration of the spectral norms.

        Returns:
            The norm of the gradients before they are clipped, on the device, if it is `measured`. From stage 1 on gradients
            are never whole: it is ZeRO's own then, which it computes at every step; None where the user's JSON has turned that
            off. Not finite where they have overflown, and the step was left out.
        """
        overflown, norm = (False, None) if self.stage else self._prepare(measured)
        self.engine.step()
        if self.stage and measured and (found := self.engine.get_global_grad_norm()) is not None:
            norm = torch.as_tensor(found, dtype=torch.float32, device=self.device)
        if self.scale:
            self.scale.update(self.engine.optimizer.overflow if self.stage else overflown)
        if self.clip_weights is not None:
            self._clamp(self.clip_weights)
        with self.whole():
            for network in self.networks:
                iterate_spectral_norms(network)
        return norm if measured else None

    def whole(self, changed: bool = False) -> AbstractContextManager:
        """A context in which the networks' weights are there in full. `changed`: inside they are written to, by every rank
        alike; the optimiser learns of it from `load_state_dict`."""
        if self.stage < 3:
            return nullcontext()
        return self.library.zero.GatheredParameters(self.parameters, modifier_rank=0 if changed else None)

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and loss scale in `LocalEngine`'s form, gathered; the weights are the game's. The same on every rank."""
        return {
            "kind": kind_of(self.optimiser),
            "optimiser": self._gathered() if self.stage else self.optimiser.state_dict(),
            "scaler": self.scale.state_dict() if self.scale else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of this engine or another; the weights are loaded before.

        Raises:
            ValueError: the state is another optimiser's, or of other networks.
        """
        if state["kind"] != kind_of(self.optimiser):
            raise ValueError(f"the optimiser's state is of {state['kind']}, DeepSpeed's engine uses {kind_of(self.optimiser)}")
        if self.stage:
            self._scatter(state["optimiser"])
        else:
            self.optimiser.load_state_dict(state["optimiser"])
            lay_out(self.optimiser)
        if self.scale:
            self.scale.load_state_dict(state["scaler"])

    def _initialised(self, config: dict[str, Any], users: str | None) -> Any:
        with redirect_stdout(io.StringIO()):  # what it builds is nothing to a run's reader
            try:
                return self.library.initialize(
                    model=_Player(self.networks), optimizer=self.optimiser, config=config, dist_init_required=False
                )[0]
            except (ValueError, self.library.DeepSpeedConfigError) as error:
                if users is None:
                    raise
                raise UserError(f"DeepSpeed refuses {users}: {' '.join(str(error).split())[:200]}") from None

    def _gathered(self) -> dict[str, Any]:
        """The optimiser's state as torch has it, parameter by parameter, on the CPU."""
        group = {name: value for name, value in self.optimiser.param_groups[0].items() if name != "params"}
        found: dict[int, dict[str, Tensor]] = {}
        steps = [state["step"] for state in self.optimiser.state.values() if state]
        if steps:
            moments = {name: self._gather(name) for name in MOMENTS}
            step = steps[0].cpu()
            found = {i: {"step": step.clone(), **{n: moments[n][i] for n in MOMENTS}} for i in range(len(self.parameters))}
        return {"state": found, "param_groups": [group | {"params": list(range(len(self.parameters)))}]}

    def _gather(self, name: str) -> list[Tensor]:
        """One of the moments of each parameter, in full: every rank puts its pieces into zeros, and all are added."""
        sizes = [_shape(parameter).numel() for parameter in self.parameters]
        whole = torch.zeros(sum(sizes), device=self.device)
        parts = whole.split(sizes)
        for part, piece in zip(parts, self._pieces(), strict=True):
            if piece.count:
                part[piece.inside].copy_(self.optimiser.state[piece.flat][name][piece.there])
        distributed.all_reduce(whole)
        return [part.view(_shape(parameter)).cpu() for part, parameter in zip(parts, self.parameters, strict=True)]

    @torch.no_grad()
    def _scatter(self, state: dict[str, Any]) -> None:
        """Take this rank's pieces of the state, and of the weights as they are now."""
        found, pieces = state["state"], self._pieces()
        self.optimiser.state.clear()
        if found:
            shapes = [tuple(_shape(parameter)) for parameter in self.parameters]
            if [tuple(found[i]["exp_avg"].shape) if i in found else None for i in range(len(shapes))] != shapes:
                raise ValueError("the optimiser's state is of other networks")
            for flat in self._flats():
                step = torch.tensor(float(found[0]["step"]), device=flat.device)
                self.optimiser.state[flat] = {"step": step} | {name: torch.zeros_like(flat) for name in MOMENTS}
        for i, (parameter, piece) in enumerate(zip(self.parameters, pieces, strict=True)):
            if not piece.count:
                continue
            own = parameter.ds_tensor[: piece.count] if self.stage == 3 else parameter.flatten()[piece.inside]
            piece.flat[piece.there].copy_(own)
            for name in MOMENTS if found else ():
                self.optimiser.state[piece.flat][name][piece.there].copy_(found[i][name].flatten()[piece.inside])

    @torch.no_grad()
    def _clamp(self, bound: float) -> None:
        """Bound the weights, and the copies of them that the optimiser works on."""
        shards = [parameter.ds_tensor for parameter in self.parameters] if self.stage == 3 else []
        for tensor in (*self.parameters, *shards, *self._flats()):
            tensor.data.clamp_(-bound, bound)

    def _flats(self) -> list[Tensor]:
        """The rows of fp32 weights that the optimiser steps on this rank."""
        if not self.stage:
            return []
        zero = self.engine.optimizer
        return zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups

    def _pieces(self) -> list["_Piece"]:
        """Where this rank keeps its part of each parameter. DeepSpeed has functions that gather a state by parameter, none that
        set it where a parameter does not divide by the ranks, so this reads its maps."""
        zero, pieces = self.engine.optimizer, []
        for parameter in self.parameters:
            if self.stage == 3:
                row, at, size = zero.grad_position[zero.get_param_id(parameter)]
                start = self.ranks.rank * size  # the last ranks' parts are padded
                pieces.append(_Piece(self._flats()[row], at, start, max(0, min(size, parameter.ds_numel - start))))
            elif (held := parameter._hp_mapping) is None:
                pieces.append(_Piece(self._flats()[0], 0, 0, 0))
            else:
                there, here = held.hp_fragment_address, held.lp_fragment_address
                pieces.append(_Piece(self._flats()[held.param_group_index], there.start, here.start, here.numel))
        return pieces

    def _prepare(self, measured: bool) -> tuple[bool, Tensor | None]:
        """What ZeRO does from stage 1 on: the loss's scale taken out of the gradients, and their norm bounded. Whether one has
        overflown: then all are dropped; and the norm, if it was needed."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self.scale:
            torch._foreach_mul_(gradients, 1 / self.scale.scale)
        if not (measured or self.scale or self.clip_norm is not None):
            return False, None
        norm = nn.utils.get_total_norm(gradients)
        overflown = self.scale is not None and not norm.isfinite()
        if overflown:
            self.engine.zero_grad()
        elif self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        return overflown, norm


class _LossScale:
    """torch's gradient scaler without its optimiser: of gradients that are divided, only ZeRO sees whether any has overflown.
    With torch's scaler inside, as DeepSpeed 0.19 has it, each rank would look at its own part."""

    def __init__(self) -> None:
        self.scale, self.tracker = 2.0**16, 0

    def update(self, overflown: bool) -> None:
        """Halve after an overflow, double after 2000 steps without."""
        self.tracker = 0 if overflown else self.tracker + 1
        if overflown or self.tracker == 2000:
            self.scale *= 0.5 if overflown else 2.0
            self.tracker = 0

    def state_dict(self) -> dict[str, Any]:
        factors = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        return {"scale": self.scale, **factors, "_growth_tracker": self.tracker}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self.tracker = state["scale"], state["_growth_tracker"]


class _Piece(NamedTuple):
    """A run of a parameter's values, and where a rank's row of weights has it."""

    flat: Tensor
    at: int
    start: int
    count: int

    @property
    def there(self) -> slice:
        return slice(self.at, self.at + self.count)

    @property
    def inside(self) -> slice:
        return slice(self.start, self.start + self.count)


class _Player(nn.ModuleList):
    """The networks of one player as DeepSpeed takes them: its forward is the loss that was computed by calling them."""

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def _is_channels_last(parameter: nn.Parameter) -> bool:
    return parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)


@cache
def _library(device: str) -> ModuleType:
    """DeepSpeed, told where to compute before it looks for itself."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    try:
        import deepspeed
    except ImportError:
        raise UserError("engine.kind deepspeed needs DeepSpeed: pip install 'fastgan[cluster]'") from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Its collectives go by names that torch has since changed, and torch says so at every call.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    return deepspeed


def users(path: str | None) -> dict[str, Any]:
    """The user's DeepSpeed configuration without what it leaves to us, {} where there is none.

    Raises:
        UserError: it can't be read, or sets what is not its to set.
    """
    if path is None:
        return {}
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"engine.deepspeed_json: {path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"engine.deepspeed_json: {path} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"engine.deepspeed_json: {path} is not a DeepSpeed configuration")
    tree = _without_auto(tree)
    for name, field in OURS.items():
        node: Any = tree
        for part in name.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            raise UserError(f"engine.deepspeed_json: {path} sets {name}, which is set by {field}")
    return tree


def _without_auto(tree: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _without_auto(value) if isinstance(value, dict) else value for name, value in tree.items()}
    return {name: value for name, value in plain.items() if value != "auto"}


def _merged(ours: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """`ours` with `theirs` over it, section by section."""
    both = {name: _merged(ours[name], theirs[name]) for name in ours.keys() & theirs.keys() if isinstance(ours[name], dict)}
    return ours | dict(theirs) | both
