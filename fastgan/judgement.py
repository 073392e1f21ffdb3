"""What a discriminator says about images, and the one pass in which many views are judged.

Scores follow one convention everywhere: **higher = more real**.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Judgement:
    """What D returns for a batch of B images. A plain score tensor may stand for it: see `Judgement.of`."""

    score: Tensor | None
    """(B,) or a map (B, ...): unbounded, higher = more real. None where D only reconstructs (energy games)."""
    features: Tensor | None = None
    """(B, F) or a feature map, for feature-space objectives."""
    logits: Tensor | None = None
    """(B, classes), for auxiliary classifiers."""
    reconstruction: Tensor | None = None
    """(B, C, H, W), for discriminators that are autoencoders."""
    images: Tensor | None = None
    """What was judged, as `judge` was given it: gradient penalties differentiate towards it."""

    @staticmethod
    def of(output: "Judgement | Tensor") -> "Judgement":
        """Wrap the plain score tensor of a D that returns nothing else."""
        return output if isinstance(output, Judgement) else Judgement(score=output)

    def split(self, sizes: list[int]) -> list["Judgement"]:
        """Cut a judgement of concatenated views back into one a view."""
        parts = {f.name: value.split(sizes) for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return [Judgement(**({"score": None} | {name: part[i] for name, part in parts.items()})) for i in range(len(sizes))]


@dataclass(frozen=True)
class View:
    """Images that a loss wants judged."""

    images: Tensor
    """(B, C, H, W) in [-1, 1]."""
    labels: Tensor | None = None
    alone: bool = False
    """Judged in a pass of its own: second-order terms (merged, the double backward would run over every other view too)."""


def judge(
    discriminator: nn.Module, views: Mapping[str, View], augment: Callable[[str, Tensor], Tensor] | None = None
) -> dict[str, Judgement]:
    """Judge every view: all merged ones in a single forward of D, each lone one in its own.

    With `augment`, (the view's name, its images) -> images, D is shown what that makes of them: it is part of D, and gradients
    towards `Judgement.images` go through it.

    A D that computes batch statistics in this mode gets every view alone: mixing real and generated images in one
    normalisation would tell them apart by their neighbours (the papers keep them apart too).
    """
    apart = holds_batch_statistics(discriminator)
    shown = {name: view.images if augment is None else augment(name, view.images) for name, view in views.items()}
    merged = {name: view for name, view in views.items() if not (view.alone or apart)}
    judged = {name: _forward(discriminator, shown[name], v.labels) for name, v in views.items() if name not in merged}
    if merged:
        images, labels = [shown[name] for name in merged], [view.labels for view in merged.values()]
        whole = _forward(discriminator, _cat(images), None if labels[0] is None else _cat(labels))
        judged |= zip(merged, whole.split([len(part) for part in images]), strict=True)
    return {name: replace(judged[name], images=view.images) for name, view in views.items()}


def holds_batch_statistics(module: nn.Module) -> bool:
    """Whether a forward now would compute statistics over the batch."""
    return any(isinstance(part, _BatchNorm) and (part.training or part.running_mean is None) for part in module.modules())


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)  # torch.cat copies even a single tensor


def _forward(discriminator: nn.Module, images: Tensor, labels: Tensor | None) -> Judgement:
    return Judgement.of(discriminator(images) if labels is None else discriminator(images, labels))
