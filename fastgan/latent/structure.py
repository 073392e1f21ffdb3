"""How far latents lie from each other, against how far their images do.

Sainburg, Thielk, Gentner, "Generative adversarial interpolative autoencoding" (2018), section 2.1.
"""

import torch
from torch import Tensor

_FLAT = 1e-12
"""Mean squared distance, of numbers about 1, under which a batch is all one: what is left is rounding."""


def structure_loss(images: Tensor, latents: Tensor) -> Tensor:
    """mean( (log(1 + d_X) - log(1 + d_Z))² ) over all pairs of the batch, d being pairwise mean squared distances divided by
    their mean, the zeros on the diagonal included.

    A batch whose images, or latents, are all one has distances of 0 there. Computed in float32 or better, under autocast too,
    by products of rows: nothing of the size batch x batch x pixels is made.

    Args:
        images, latents: (B, ...), of the same B.

    Returns:
        A scalar; the gradient goes to both.
    """
    spread_x, spread_z = relative_distances(images), relative_distances(latents)
    return (spread_x.log1p() - spread_z.log1p()).square().mean()


def relative_distances(x: Tensor) -> Tensor:
    """Pairwise mean squared distances of the rows of (B, ...) over their mean, (B, B); zeros where all rows are one, at
    whatever magnitude."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # Squares of numbers beyond 1e19 overflow float32. Divided by a power of 2, which rounds nothing, all are below 2; a common
    # factor changes no share, so none of the gradient goes this way.
    largest = x.detach().abs().amax().clamp(min=torch.finfo(x.dtype).tiny)
    distances = squared_distances(x / largest.log2().floor().exp2())
    mean = distances.mean()
    return distances * torch.where(mean > _FLAT, mean.clamp(min=_FLAT).reciprocal(), 0.0)


def squared_distances(x: Tensor) -> Tensor:
    """Mean squared distances between the rows of (B, ...), (B, B), exactly 0 on the diagonal."""
    with torch.autocast(x.device.type, enabled=False):
        rows = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
        rows = rows - rows.detach().mean(0)  # the products below cancel less
        products = rows @ rows.T
        lengths = products.diagonal()
        distances = (lengths[:, None] + lengths - 2 * products).clamp(min=0) / rows.shape[1]
        return distances * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
