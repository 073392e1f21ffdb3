"""How far generated images lie from given ones, each image by itself, and the slope towards the generated.

errors   e_i = m (y_i - x_i)^2,                                        images in [-1, 1], m the mean over an image's numbers
losses   l_i = e_i   (mse)      or      -m [ t log p + (1 - t) log(1 - p) ]   (bce),     p = (y + 1) / 2,  t = (x + 1) / 2
slope    dl_i / dy_i = 2 (y - x) / n      or      (p - t) / (2 n p (1 - p)),             n numbers an image
"""

from typing import NamedTuple

import torch
from torch import Tensor

LOSSES = ("mse", "bce")
EDGE = 2.0**-20
"""p is kept so far from 0 and 1: there the loss and its slope are finite, and the slope still points back."""


class ImageError(NamedTuple):
    losses: Tensor
    errors: Tensor
    slope: Tensor


@torch.no_grad()
def image_error(y: Tensor, x: Tensor, loss: str = "mse") -> ImageError:
    if y.shape != x.shape or y.dim() < 2:
        raise ValueError(f"image_error compares two (B, ...) tensors of one shape, not {tuple(y.shape)} and {tuple(x.shape)}")
    return ImageError(*_reference(y, x, loss))


def _reference(y: Tensor, x: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    real = torch.promote_types(x.dtype, torch.float32)
    wide, x = y.to(real), x.to(real)
    n = max(y[:1].numel(), 1)
    difference = wide - x
    errors = torch.linalg.vector_norm(difference.flatten(1), dim=1).square_().div_(n)
    if loss == "mse":
        return errors.clone(), errors, difference.mul_(2 / n).to(y.dtype)
    p, t = ((wide + 1) / 2).clamp_(EDGE, 1 - EDGE), (x + 1) / 2
    losses = -(t * p.log() + (1 - t) * (-p).log1p()).flatten(1).mean(1)
    return losses, errors, ((p - t) / (p * (1 - p)) / (2 * n)).to(y.dtype)
