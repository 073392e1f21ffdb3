"""What an optimiser is set to, as pure functions of the round: nothing to save, nothing to resume."""

from math import cos, pi

import torch

from fastgan.annealing import annealed
from fastgan.config import Adam


def rate_factor(settings: Adam, round_number: int, rounds: int) -> float:
    """What the player's rate is multiplied by in round `round_number` (from 0) of `rounds`, in [0, 1].

    Linear decay reaches 0 one round after the last, as AdvLatGAN's code has it. Warm-up rises linearly to 1 over its rounds
    and multiplies the decay.
    """
    progress = min(round_number / rounds, 1.0)
    decay = {"constant": 1.0, "linear": 1.0 - progress, "cosine": (1.0 + cos(pi * progress)) / 2}[settings.schedule]
    return decay * min((round_number + 1) / settings.warmup, 1.0) if settings.warmup else decay


def set_optimiser(optimiser: torch.optim.Optimizer, settings: Adam, main_share: float, factor: float, burnt_in: float) -> None:
    """Set Adam to `factor` times the rate, and to the beta2, that its settings have come to when this share of the burn-in has
    passed; `main_share` as `LocalEngine` has it."""
    rate = annealed(settings.rate, settings.rate_end, burnt_in) * main_share * factor
    beta2 = float(annealed(settings.betas[1], settings.beta2_end, burnt_in)) ** main_share
    for group in optimiser.param_groups:
        group["lr"], group["betas"] = rate, (group["betas"][0], beta2)
