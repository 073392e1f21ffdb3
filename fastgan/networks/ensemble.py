"""A generator that is several: each latent belongs to one member, told by its first coordinate, which no member sees.

    G(z) = G_k(z_2 ... z_dim),    k = floor(members * F(z_1)),    F the prior's distribution function

so that each member draws an equal share of the samples, and which one drew a sample can be read off its latent: samplers,
ranks and inversion need no other word of it. The choice has no slope: refinement, which follows the gradient, never moves z_1.

A mixture of generators against mode collapse, as in MGAN (Hoang, Nguyen, Le, Phung, ICLR 2018). Where one member is drawn for a
whole step, each is trained on every n-th batch; here each is trained on its share of every batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.special import ndtr


class Ensemble(nn.Module):
    """(B, dim) latents, and labels where the members take them -> (B, ...) images. A pass costs what one member's would: each
    draws its own rows. On CUDA the host waits for the device to learn how many those are.

    Args:
        members: generators of latents of dim - 1.
        prior, truncation: of z, as `config.Latent` has them.
    """

    choosing = 1
    """Leading coordinates of z that choose and have no slope."""

    def __init__(self, members: Sequence[nn.Module], prior: str = "normal", truncation: float = 2.0) -> None:
        super().__init__()
        self.members, self.prior = nn.ModuleList(members), prior
        self.cut = 0.5 * math.erfc(truncation / math.sqrt(2)) if prior == "truncated-normal" else 0.0
        """The share of a normal prior that is cut off at each end."""

    def forward(self, z: Tensor, *labels: Tensor) -> Tensor:
        member, rest = self.member_of(z), z[:, 1:]
        if torch.compiler.is_exporting():  # a graph has one size for all batches: each member draws every row
            every = torch.stack([network(rest, *labels) for network in self.members])
            return every.gather(0, member.view(1, -1, *[1] * (every.dim() - 2)).expand_as(every[:1]))[0]
        if z.is_meta or isinstance(z, FakeTensor):  # tensors without values: equal shares
            rows = list(torch.arange(len(z), device=z.device).tensor_split(len(self.members)))
        else:
            rows = [(member == k).nonzero().squeeze(1) for k in range(len(self.members))]
        drawn = [
            network(rest[mine], *(label[mine] for label in labels))
            for network, mine in zip(self.members, rows, strict=True)
            if len(mine)
        ]
        if not drawn:  # of no latents at all
            return self.members[0](rest, *labels)
        back = torch.cat([mine for mine in rows if len(mine)]).argsort()
        return torch.cat(drawn)[back]

    @torch.no_grad()
    def member_of(self, z: Tensor) -> Tensor:
        """int64 (B,): which member draws each latent."""
        first = z[:, 0].float()
        below = (first + 1) / 2 if self.prior == "uniform" else (ndtr(first) - self.cut) / (1 - 2 * self.cut)
        return (len(self.members) * below).long().clamp(0, len(self.members) - 1)
