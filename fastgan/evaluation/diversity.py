"""Diversity within classes: how far generated images of one class lie from one another.

For each class the mean distance of the features of two different images of it, and the mean over the classes that have two:
what a class-conditional generator that collapses to one image a class loses, and a Fréchet distance shows late. In the manner
of the LPIPS diversity that mode seeking is judged by (Mao et al., "Mode seeking generative adversarial networks for diverse
image synthesis", CVPR 2019, section 4.1), with the features that are at hand.
"""

import torch
from torch import Tensor


def diversity_within_classes(features: Tensor, labels: Tensor) -> float:
    """The mean over classes of the mean distance of two images of a class.

    Args:
        features: (N, F), finite.
        labels: (N,) integers, the class of each.

    Returns:
        At least 0, in units of the features.

    Raises:
        ValueError: shapes that do not fit, or no class with two images.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features come as (N, F) with (N,) labels, not {tuple(features.shape)} and {tuple(labels.shape)}")
    classes = [features[labels == label].detach().double() for label in labels.unique()]
    means = [torch.pdist(members).mean() for members in classes if len(members) > 1]
    if not means:
        raise ValueError("no class has two images")
    return float(torch.stack(means).mean())
