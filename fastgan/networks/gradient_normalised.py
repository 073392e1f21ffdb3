"""A discriminator whose score is divided by its own slope, so that it is Lipschitz without a penalty.

    gn      D^ = D / (|grad D| + |D|)
    gran    D^ = D |grad D| / (|grad D|^2 + e),     e = 0.1

Wu et al., "Gradient normalization for generative adversarial networks" (ICCV 2021); Bhaskara et al., "GraN-GAN: piecewise
gradient normalization for generative adversarial networks" (WACV 2022); e is ours. grad is towards the image, norms are over
all values of an image.
"""

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from fastgan.judgement import Judgement
from fastgan.kernels.gradient_penalty import gradient_normalised_score


class GradientNormalised(nn.Module):
    """Wraps a discriminator: (B, ...) images -> its judgement with the normalised score. Differentiable in images and weights,
    to the order to which the network is, less one. Costs a backward of the network towards the images in each forward.

    Args:
        network: gives one score an image, or a `Judgement` with one.
        form: "gn" or "gran".
    """

    def __init__(self, network: nn.Module, form: str) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor | Judgement:
        differentiated = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            x = x if x.requires_grad else x.detach().requires_grad_()
            output = self.network(x, *labels)
            score = Judgement.of(output).score
            if score.dim() != 1:
                raise ValueError(f"gradient normalisation needs one score an image, not a map of {tuple(score.shape[1:])}")
            (slope,) = torch.autograd.grad(score.sum(), x, create_graph=differentiated)
        if not differentiated:  # then nothing that is handed out has a graph
            score, output = score.detach(), _without_graph(output)
        score = gradient_normalised_score(score, slope, self.form)
        return replace(output, score=score) if isinstance(output, Judgement) else score


def _without_graph(output: Tensor | Judgement) -> Tensor | Judgement:
    if isinstance(output, Tensor):
        return output.detach()
    parts = {field.name: getattr(output, field.name) for field in fields(output)}
    return Judgement(**{name: None if part is None else part.detach() for name, part in parts.items()})
