"""The plain engine: one player's optimiser, precision and gradients, whole on every rank."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.config import Adam
from fastgan.engine.distributed import ALONE, Ranks
from fastgan.engine.schedule import set_optimiser
from fastgan.networks.layers import iterate_spectral_norms

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class LocalEngine:
    """Steps the networks of one player together.

    Args:
        networks: what the player owns, on their device.
        settings: the optimiser's.
        precision: "fp32", "bf16" or "fp16": what matrix products run in (autocast); weights and optimiser stay in fp32.
        main_share: the share of the player's steps that are not lazy ones: rate and betas are corrected by it, as the
            optimiser steps that much more often (StyleGAN2, Karras et al. 2020, appendix B).
        ranks: over which gradients are averaged.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        settings: Adam,
        precision: str,
        main_share: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.networks, self.ranks = list(networks), ranks
        self.parameters = [parameter for network in self.networks for parameter in network.parameters()]
        self.device = self.parameters[0].device
        self.clip_norm, self.clip_weights = settings.clip_norm, settings.clip_weights
        self.settings, self.main_share = settings, main_share
        self.optimiser = adam(self.parameters, settings, main_share)
        self.dtype = AUTOCAST[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The context that losses are computed in."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def set_rate(self, factor: float, burnt_in: float = 1.0) -> None:
        """Set rate and beta2 to where they have gone when this share of the burn-in has passed, the rate times `factor`."""
        set_optimiser(self.optimiser, self.settings, self.main_share, factor, burnt_in)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those of the player's parameters."""
        self.scaler.scale(loss).backward()

    def step(self, measured: bool = False) -> Tensor | None:
        """One optimiser step on the gathered gradients, averaged over the ranks, which are dropped, the weights' clipping, and
        one power iteration of the spectral norms.

        A weight that the losses did not reach is stepped with a zero gradient (in a lazy R1 phase D's last bias): its momentum
        goes on, as betas that `main_share` corrects expect, as in StyleGAN2's trainer, and as DeepSpeed does.

        Returns:
            The norm of the gradients before they are clipped, on the device, if it is `measured`: it costs a pass over them.
            Not finite where they have overflown, and the step was left out (fp16).
        """
        for parameter in self.parameters:
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.ranks.mean_(gradients)
        norm = None
        if measured or self.clip_norm is not None:
            self.scaler.unscale_(self.optimiser)
            norm = nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.clip_weights is not None:
            with torch.no_grad():
                torch._foreach_clamp_min_(self.parameters, -self.clip_weights)
                torch._foreach_clamp_max_(self.parameters, self.clip_weights)
        for network in self.networks:
            iterate_spectral_norms(network)
        return norm if measured else None

    def whole(self, changed: bool = False) -> AbstractContextManager:
        """A context in which the networks' weights are there in full, as here they always are. `changed`: inside they are
        written to, by every rank alike."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and loss scale; the weights are the game's. The same on every rank."""
        return {"kind": kind_of(self.optimiser), "optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of this engine or another; the weights are loaded before.

        Raises:
            ValueError: the state is another optimiser's, or of other networks.
        """
        if state["kind"] != kind_of(self.optimiser):
            raise ValueError(f"the optimiser's state is of {state['kind']}, this machine uses {kind_of(self.optimiser)}")
        self.optimiser.load_state_dict(state["optimiser"])
        lay_out(self.optimiser)
        self.scaler.load_state_dict(state["scaler"])


def adam(parameters: Sequence[nn.Parameter], settings: Adam, main_share: float, apex: bool = True) -> torch.optim.Optimizer:
    """The optimiser that `settings` ask for: NVIDIA's on CUDA if `apex` is wanted and there, else torch's fused one."""
    betas = tuple(float(beta) ** main_share for beta in settings.betas)
    options = {"lr": settings.rate * main_share, "betas": betas, "eps": settings.eps, "weight_decay": settings.weight_decay}
    if apex and parameters[0].is_cuda:
        try:
            from apex.optimizers import FusedAdam  # NVIDIA's; PyPI's apex is another package, without this name
        except ImportError:
            pass
        else:
            return FusedAdam(parameters, adam_w_mode=False, **options)
    return torch.optim.Adam(parameters, fused=True, **options)


def lay_out(optimiser: torch.optim.Optimizer) -> None:
    """Give what the optimiser has loaded the layout of its parameters: another engine's may differ, and the fused optimisers
    walk through memory."""
    for parameter, found in optimiser.state.items():
        for name, value in found.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                found[name] = torch.empty_like(parameter).copy_(value)


def kind_of(optimiser: torch.optim.Optimizer) -> str:
    """Whose optimiser it is, for a checkpoint: the states of two kinds differ."""
    return f"{type(optimiser).__module__.split('.')[0]} {type(optimiser).__name__}"
