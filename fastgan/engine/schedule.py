"""Learning rates as pure functions of the round: nothing to save, nothing to resume."""

from math import cos, pi

from fastgan.config import Adam


def rate_factor(settings: Adam, round_number: int, rounds: int) -> float:
    """What the player's rate is multiplied by in round `round_number` (from 0) of `rounds`, in [0, 1].

    Linear decay reaches 0 one round after the last, as AdvLatGAN's code has it. Warm-up rises linearly to 1 over its rounds
    and multiplies the decay.
    """
    progress = min(round_number / rounds, 1.0)
    decay = {"constant": 1.0, "linear": 1.0 - progress, "cosine": (1.0 + cos(pi * progress)) / 2}[settings.schedule]
    return decay * min((round_number + 1) / settings.warmup, 1.0) if settings.warmup else decay
