"""Latents of several tensors, as the searches in latent space (refinement, hard pairs) see them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastgan.kernels.ifgsm import MAX_LEAVES

Latent = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""A latent: a tensor (B, ...), or several of them (chunks, a style pair, noise maps) in a list, a tuple or a dict."""

_SMALL_LEAF = 4096


class Leaves:
    """A latent taken apart into its leaves, and put together again. Each that moves becomes (B, D_i) rows of memory of its own:
    a step over all of them is one launch, and the generator gets contiguous tensors.

    On the CPU leaves of up to _SMALL_LEAF numbers lie side by side in one (B, D) tensor, for there a call costs more than a
    copy (6 chunks of 64 x 20, all options: 4.6 ms in the place of 6.2); and so do more leaves than a launch takes.

    Args:
        joined: True or False to have them so, or apart, whatever their size.
    """

    def __init__(self, z: Latent, leaves: Sequence[int | str] | None = None, joined: bool | None = None) -> None:
        self.kind = type(z)
        named = {0: z} if isinstance(z, Tensor) else z if isinstance(z, Mapping) else dict(enumerate(z))
        self.tensors = {name: tensor.clone() if tensor.is_inference() else tensor.detach() for name, tensor in named.items()}
        self.moving = list(self.tensors) if leaves is None else list(leaves)
        unknown = [name for name in self.moving if name not in self.tensors]
        if unknown or not self.moving:
            raise ValueError(f"the latent has leaves {list(self.tensors)}, so {leaves} can't be the ones to move")
        first = self.tensors[self.moving[0]]
        if any(t.dim() < 2 or len(t) != len(first) or t.dtype != first.dtype for t in map(self.tensors.get, self.moving)):
            raise ValueError("latents are (B, ...) tensors; the leaves of one must agree in B and dtype")
        if not first.is_floating_point():
            raise ValueError(f"latents must be floating point, not {first.dtype}")

        self.sizes = [self.tensors[name].shape[1:].numel() for name in self.moving]
        small = first.device.type == "cpu" and len(first) * sum(self.sizes) <= _SMALL_LEAF * len(self.sizes)
        self.joined = len(self.sizes) > 1 and (small or len(self.sizes) > MAX_LEAVES) if joined is None else joined

    def rows(self) -> list[Tensor]:
        """Copies of the moving leaves, (B, D_i) each, or one (B, D) of them all."""
        parts = [self.tensors[name].flatten(1) for name in self.moving]
        return [torch.cat(parts, 1)] if self.joined else [part.clone(memory_format=torch.contiguous_format) for part in parts]

    def assemble(self, rows: Sequence[Tensor]) -> Latent:
        """The latent with its moving leaves taken from such rows; from fewer or more of them where all leaves move."""
        parts = rows[0].split(self.sizes, 1) if self.joined else rows
        moved = {name: _shaped(part, self.tensors[name].shape) for name, part in zip(self.moving, parts, strict=True)}
        everything = self.tensors | moved
        if issubclass(self.kind, Tensor):
            return everything[0]
        if issubclass(self.kind, Mapping):
            return everything
        return self.kind(*everything.values()) if hasattr(self.kind, "_fields") else self.kind(everything.values())


def _shaped(rows: Tensor, shape: torch.Size) -> Tensor:
    return rows if rows.shape[1:] == shape[1:] else rows.reshape(-1, *shape[1:])
