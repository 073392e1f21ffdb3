"""Pairs of latents, whose images the mode-seeking term pushes apart; and the search for hard ones, which are about to collapse.

    z2_0 = z1 + distance * n,  n ~ N(0, I)
    z2_{k+1} = z2_k - step_size * sign( d/dz2_k  m |G(z2_k, y) - G(z1, y)| / ( m |z2_k - z1| + offset ) ),   k = 0 .. K-1

m is the mean over batch and elements, so the ratio is one of batch means: pairs are not mined one by one. Li, Mo, Shi, Yan,
"Improving generative adversarial networks via adversarial learning in latent space" (NeurIPS 2022), AdvLatGAN-div: distance
0.08, K = 3, step_size 0.004, offset 1. With a second latent from the prior in the place of the mined one it is MSGAN (Mao, Lee,
Tseng, Ma, Yang, CVPR 2019).

The search costs K forwards of G and K backwards towards z2 alone, and a forward for G(z1), which is a constant: no gradient of
a weight is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgan.config import Latent as Settings
from fastgan.draw import Draw
from fastgan.kernels.ifgsm import ifgsm_step
from fastgan.kernels.mode_seeking import mode_seeking
from fastgan.latent.frozen import frozen
from fastgan.latent.leaves import Latent, Leaves
from fastgan.latent.prior import Prior


def hard_partner(
    generator: nn.Module,
    z: Latent,
    partner: Latent,
    labels: Tensor | None = None,
    steps: int = 3,
    step_size: float = 0.004,
    offset: float = 1.0,
    *,
    images: Tensor | None = None,
    over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> Latent:
    """Move `partner` by `steps` iterations of I-FGSM to where its images hardly differ from those of `z`, for its distance from
    `z`.

    Pure, as `refine` is: the network runs in the mode (train or eval) that it is in, each iteration on the same network, and no
    parameter, buffer, `.grad` or `requires_grad` is changed. Works on any module, under autocast, in a `no_grad` block too.

    Args:
        generator: `generator(z)` or `generator(z, labels)` -> floating-point images.
        z: (B, ...) float latents, or a list, tuple or dict of them, handed to `generator` as it is. Not modified.
        partner: where the search begins; the structure, shapes, dtype and device of `z`. Not modified.
        labels: given to `generator`, where there are any; the same for both.
        steps: K, at least 0.
        step_size: eps, the change of every coordinate in one iteration.
        offset: at least 0, added to the mean distance of the latents.
        images: G(z), where the caller has it already; otherwise one more forward.
        over_ranks: where the batch is shared out, what makes this part's means those of the whole (`kernels.mode_seeking`).

    Returns:
        The hard partners: the structure, shape, dtype and device of `z`, detached.

    Raises:
        ValueError: an option out of range, or latents that don't match.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}")
    first, second = Leaves(z), Leaves(partner)
    if [(n, t.shape, t.dtype) for n, t in first.tensors.items()] != [(n, t.shape, t.dtype) for n, t in second.tensors.items()]:
        raise ValueError("z and partner must have the same leaves, of the same shapes and types")
    inputs = () if labels is None else (labels.clone() if labels.is_inference() else labels,)
    with torch.inference_mode(False), torch.enable_grad(), frozen(generator) as reset:
        origin, rows = _joined(first.rows()), second.rows()
        if images is None and steps:
            with torch.no_grad():
                images = generator(first.assemble(first.rows()), *inputs)
            reset()
        elif images is not None:
            images = images.clone() if images.is_inference() else images.detach()
        for k in range(steps):
            if k:
                reset()
            here = [leaf.detach().requires_grad_() for leaf in rows]  # their memory, which the step below changes in place
            moved = generator(second.assemble(here), *inputs)
            _, ratio = mode_seeking(images, moved, origin, _joined(here), offset=offset, over_ranks=over_ranks)
            # A leaf that the generator makes no use of still has its distance.
            ifgsm_step(rows, torch.autograd.grad(ratio, here), None, step_size=step_size)
    return second.assemble(rows)


@dataclass(frozen=True)
class Pairing:
    """How the second latent of a pair is found, settled once: what a game keeps."""

    settings: Settings

    @property
    def searches(self) -> bool:
        """Whether the second latent is a hard one; else it is another one from the prior."""
        return self.settings.pair == "hard"

    def __call__(
        self,
        generator: nn.Module,
        prior: Prior,
        draw: Draw,
        z: Tensor,
        labels: Tensor | None,
        images: Tensor | None,
        over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The partners of latents z, (B, dim), under the same labels; a search takes their images too."""
        if not self.searches:
            return prior(draw, "partner")
        near = z + self.settings.pair_distance * draw.normal("partner", *z.shape[1:]).to(z.dtype)
        steps, step_size = self.settings.pair_steps, self.settings.pair_step_size
        return hard_partner(generator, z, near, labels, steps, step_size, images=images, over_ranks=over_ranks)


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)
