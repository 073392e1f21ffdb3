"""What a part of a game keeps between rounds: scalars, as buffers, so that a checkpoint has them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """Named scalars, float32, which begin as given."""

    def __init__(self, beginnings: Mapping[str, float]) -> None:
        super().__init__()
        for name, value in beginnings.items():
            self.register_buffer(name, torch.tensor(float(value)))

    def read(self) -> dict[str, Tensor]:
        """All of them, as they are now."""
        return dict(self.named_buffers())

    @torch.no_grad()
    def write(self, values: Mapping[str, Tensor]) -> None:
        """Their new values; what is not named stays."""
        for name, value in values.items():
            self.get_buffer(name).copy_(value)
