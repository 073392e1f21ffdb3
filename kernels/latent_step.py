"""All that follows the gradient in one iteration of inversion, in place: the best iterate, the prior, Adam or RMSprop."""

import torch
from torch import Tensor


@torch.no_grad()
def latent_step(
    z: Tensor, grad: Tensor, square: Tensor, scales: Tensor, *, momentum: Tensor | None, beta1: float, beta2: float, eps: float,
    pull: float, bound: float | None, loss: Tensor, best_loss: Tensor, best_z: Tensor,
) -> None:  # fmt: skip
    total = loss + 0.5 * pull * z.square().sum(1) if pull else loss
    better = total < best_loss
    torch.where(better, total, best_loss, out=best_loss)
    torch.where(better[:, None], z, best_z, out=best_z)
    g = torch.add(grad, z, alpha=pull) if pull else grad
    square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    if momentum is not None:
        g = momentum.lerp_(g, 1 - beta1)
    root = square.sqrt().mul_(scales[1]).add_(eps)
    z.sub_((g / root).mul_(scales[0]))
    if bound is not None:
        z.clamp_(-bound, bound)
