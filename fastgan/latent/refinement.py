"""Refinement of latents by I-FGSM: the search for z whose image the discriminator takes for real.

    z_0 = z;   z_{k+1} = z_k - step_size * sign( d/dz_k  L_G( D( G(z_k) ) ) ),   k = 0 .. K-1

Li, Mo, Shi, Yan, "Improving generative adversarial networks via adversarial learning in latent space" (NeurIPS 2022): in the
discriminator's step it is AdvLatGAN-qua, at sampling time AdvLatGAN-z. One iteration costs a forward of G and D and a backward
through both towards z alone: no gradient of a weight is computed. What follows the gradient is one kernel (`kernels/ifgsm.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.config import Latent as Settings
from fastgan.judgement import Judgement
from fastgan.kernels.ifgsm import ifgsm_step
from fastgan.latent.frozen import frozen
from fastgan.latent.leaves import Latent, Leaves
from fastgan.latent.replay import repeat
from fastgan.objectives import UNTRAINED, Objective, chosen


def refine(
    generator: nn.Module,
    discriminator: nn.Module,
    z: Latent,
    labels: Tensor | None = None,
    steps: int = 20,
    step_size: float = 0.05,
    objective: str | Objective = "hinge",
    radius: float | None = None,
    *,
    radius_norm: Literal["linf", "l2"] = "linf",
    direction: Literal["sign", "l2"] = "sign",
    momentum: float = 0.0,
    stop_score: float | None = None,
    keep_best: bool = False,
    leaves: Sequence[int | str] | None = None,
    capture: bool = True,
) -> Latent:
    """Move latents by `steps` iterations of I-FGSM towards images that `discriminator` scores as more real.

    Pure: networks run in the mode (train or eval) that they are in, each iteration on the same networks, and no parameter,
    buffer, `.grad` or `requires_grad` is changed. Works on any pair of modules, under autocast, in a `no_grad` block too.

    Args:
        generator: `generator(z)` or `generator(z, labels)` -> images.
        discriminator: `discriminator(x)` or `discriminator(x, labels)` -> one score an image or a map of scores (or a
            `Judgement`), higher = more real.
        z: (B, ...) float latents, or a list, tuple or dict of them, handed to `generator` as it is. Not modified.
        labels: given to both networks, where there are any. Never moved.
        steps: K, at least 0.
        step_size: eps: the change of every coordinate ("sign"), or the length of each sample's step ("l2").
        objective: whose loss of each score is descended, for most the generator's (`Objective.per_score`); a name of
            `fastgan.objectives.OBJECTIVES`, or one with its own settings.
        radius: bound of each sample's distance to its start (projected gradient descent), by the largest coordinate ("linf") or
            the Euclidean length ("l2") over all the leaves that move. None: no bound.
        momentum: decay of the accumulated gradient, each gradient divided by its L1 norm (MI-FGSM, Dong et al. 2018).
        stop_score: a sample stays where it is once its score (a map's mean) reaches this.
        keep_best: return each sample's iterate with the highest score, z itself and the last one included; one more forward.
        leaves: which tensors of a latent of several move, by position or key; all where None.
        capture: on CUDA replay the iterations from one captured graph (`replay`); False for networks that look at values.

    Returns:
        The refined latents: the structure, shape, dtype and device of `z`, detached.

    Raises:
        ValueError: an option out of range, an unknown objective or leaf, an objective that trains no score, or tensors of
            different batch sizes.
    """
    if isinstance(objective, str):
        objective = chosen(objective)
    if steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}")
    if steps and not objective.refines:
        raise ValueError(UNTRAINED)
    loss_of = objective.per_score
    latent = Leaves(z, leaves)
    with torch.inference_mode(False), torch.enable_grad(), frozen(generator, discriminator) as reset:
        rows = latent.rows()
        origin = [leaf.clone() for leaf in rows] if radius is not None else None
        labels = labels.clone() if labels is not None and labels.is_inference() else labels
        scored = stop_score is not None or keep_best
        batch, device, precise = len(rows[0]), rows[0].device, torch.promote_types(rows[0].dtype, torch.float32)
        state = {
            "velocity": [torch.zeros_like(leaf) for leaf in rows] if momentum else None,
            "active": torch.ones(batch, dtype=torch.bool, device=device) if stop_score is not None else None,
            "best_z": [leaf.clone() for leaf in rows] if keep_best else None,
            "best_score": torch.full((batch,), -torch.inf, dtype=precise, device=device) if keep_best else None,
        }

        def judge(rows: Sequence[Tensor]) -> Tensor:
            inputs = () if labels is None else (labels,)
            images = generator(latent.assemble(rows), *inputs)
            return Judgement.of(discriminator(images, *inputs)).score

        options = {"step_size": step_size, "direction": direction, "radius": radius, "radius_norm": radius_norm}
        options |= {"momentum": momentum, "stop_score": stop_score, **state}

        def step() -> None:
            reset()
            here = [leaf.detach().requires_grad_() for leaf in rows]  # their memory, which the step below changes in place
            score = judge(here)
            # A leaf that the generator makes no use of has a gradient of zeros; where it is the only one, that is a mistake.
            gradients = torch.autograd.grad(loss_of(score).sum(), here, materialize_grads=len(here) > 1)
            ifgsm_step(rows, gradients, origin, score=_per_sample(score, precise) if scored else None, **options)

        repeat(step, steps, device, capture)
        if keep_best and steps:
            reset()
            with torch.no_grad():
                better = _per_sample(judge(rows), precise) > state["best_score"]
            rows = [torch.where(better[:, None], *both) for both in zip(rows, state["best_z"], strict=True)]
    return latent.assemble(rows)


@dataclass(frozen=True)
class Refinement:
    """The options of `refine`, settled once: what a game keeps."""

    settings: Settings
    objective: str | Objective

    def __call__(self, generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Refined latents; `z` itself where refinement is off."""
        steps = self.settings.refine_steps
        if not steps:
            return z
        options = {name: getattr(self.settings, name) for name in _OPTIONS}
        return refine(generator, discriminator, z, labels, steps=steps, objective=self.objective, **options)


_OPTIONS = ("step_size", "radius", "radius_norm", "direction", "momentum", "stop_score", "keep_best")


def _per_sample(score: Tensor, dtype: torch.dtype) -> Tensor:
    score = score.detach().to(dtype)
    return score.flatten(1).mean(1) if score.dim() > 1 else score
