"""One autoencoder alone, by the error of its pixels: what games of autoencoders are compared with."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from fastgan.draw import Draw
from fastgan.games.gaia import absolute_error
from fastgan.games.game import Batch, Game, Phase, Statistics


class AutoencoderGame(Game):
    """One player, "generator", that lowers the mean absolute difference of images and their reconstructions."""

    players: ClassVar = {"generator": ("generator",)}

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def phases(self) -> Sequence[Phase]:
        """G alone."""
        return (Phase("G", "generator", self.loss),)

    def loss(self, batch: Batch, draw: Draw) -> tuple[Tensor, Statistics]:
        """|x - G(x)|, pixels in [0, 1]."""
        loss = absolute_error(batch["images"], self.generator(batch["images"]))
        return loss, {"loss": loss.detach()}
