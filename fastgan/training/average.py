"""The moving average of weights that samples are drawn from."""

from copy import deepcopy

import torch
from torch import nn

from fastgan.annealing import annealed
from fastgan.games import Game
from fastgan.networks.layers import iterate_spectral_norms


class MovingAverage(nn.Module):
    """Averaged copies of a game's `averaged` networks, in evaluation mode.

    The weight of an update follows from a half-life in images, so it does not depend on the batch size (Karras et al. 2020,
    StyleGAN2-ADA). Batch statistics are averaged like weights, other buffers are copied.

    Args:
        half_life: images after which a weight counts half; 0 keeps plain copies.
        rampup: early on the half-life is at most this share of the images seen; None for no ramp.
        end: where the half-life has gone when the run is burnt in; None where it stays.
    """

    def __init__(self, game: Game, half_life: float, rampup: float | None, end: float | None = None) -> None:
        super().__init__()
        self.half_life, self.rampup, self.end = half_life, rampup, end
        self.networks = nn.ModuleDict({name: deepcopy(game.get_submodule(name)) for name in game.averaged})
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, game: Game, images: int, seen: int, burnt_in: float = 1.0) -> None:
        """Take in the weights after a round of `images` images; `seen` counts them all, this round's included. `burnt_in` is
        the share of the burn-in that had passed when it began."""
        half_life = annealed(self.half_life, self.end, burnt_in)
        half_life = half_life if self.rampup is None else min(half_life, self.rampup * seen)
        decay = 0.5 ** (images / half_life) if half_life > 0 else 0.0
        for name, network in self.networks.items():
            other = game.get_submodule(name)
            averaged = list(zip(network.parameters(), other.parameters(), strict=True))
            for (label, mine), theirs in zip(network.named_buffers(), other.buffers(), strict=True):
                if label.endswith(("running_mean", "running_var")):
                    averaged.append((mine, theirs))
                else:
                    mine.copy_(theirs)
            mine, theirs = zip(*averaged, strict=True)
            torch._foreach_lerp_(mine, theirs, 1.0 - decay)
            iterate_spectral_norms(network)  # the copied vectors are the unaveraged weights'
