"""Batch norms in evaluation mode as part of the layer before them.

    (w x + b - mean) / sqrt(var + eps) gain + bias   =   (s w) x + s (b - mean) + bias,     s = gain / sqrt(var + eps)

so a pass over the maps forward, and one backward, are not made. With the weights frozen it is computed once for all iterations.
On two cores, digits' SN cnn at batch 64: 0.22 ms an image in the place of 0.29.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

_NORMS = {nn.Conv2d: nn.BatchNorm2d, nn.ConvTranspose2d: nn.BatchNorm2d, nn.Linear: nn.BatchNorm1d}
TOLERANCE = 1e-3
"""Largest difference of what is drawn, in units of its largest number. Rounding makes some 1e-6."""


@contextmanager
def folded(module: nn.Module, draw: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, every batch norm that follows a convolution or a linear layer in an `nn.Sequential` is part of that layer's
    weight and bias. On leaving, every parameter and every module is the very object that it was.

    Only layers of torch's own types, and of types that say so themselves (`folds`), with a weight of their own, without hooks,
    and used in one place. A module may still look at what is between the two: where `draw()` then gives another picture,
    nothing is folded.

    Args:
        module: in evaluation mode, its parameters frozen.
        draw: a small pass through it.
    """
    pairs = list(_pairs(module))
    if not pairs:
        yield
        return
    kept = [(layer, dict(layer._parameters), sequence, name, norm) for sequence, layer, name, norm in pairs]

    def restore() -> None:
        for layer, parameters, sequence, name, norm in kept:
            layer._parameters.clear()
            layer._parameters.update(parameters)
            sequence._modules[name] = norm

    try:
        kind = next(iter(module.parameters())).device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):  # compared in full precision
            before = draw()
            for layer, _, sequence, name, norm in kept:
                layer._parameters["weight"], layer._parameters["bias"] = _merged(layer, norm)
                sequence._modules[name] = norm.after_norm() if hasattr(norm, "after_norm") else nn.Identity()
            after = draw()
            if not (after - before).abs().max() <= TOLERANCE * before.abs().max():
                restore()
        yield
    finally:
        restore()


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, str, nn.Module]]:
    """Sequence, layer, the norm's name in the sequence, norm."""
    parts = list(module.modules())
    places = [child for part in parts for child in part._modules.values()]
    for sequence in parts:
        if type(sequence) is not nn.Sequential:
            continue
        for (_, layer), (name, norm) in pairwise(sequence._modules.items()):
            kind = vars(type(layer)).get("folds", type(layer))  # not inherited: a subclass may convolve with another weight
            wanted = _NORMS.get(kind)
            alike = type(norm) is wanted or (wanted is nn.BatchNorm2d and hasattr(norm, "after_norm"))
            if wanted is None or not alike or norm.training or norm.running_mean is None:
                continue
            once = sum(place is layer for place in places) == 1 and sum(place is norm for place in places) == 1
            hooked = any(p._forward_hooks or p._forward_pre_hooks or p._backward_hooks for p in (layer, norm))
            groups = getattr(layer, "groups", 1) > 1 and kind is nn.ConvTranspose2d
            own = layer._parameters.get("weight") is not None  # not computed from others, as a parametrised one is
            if once and not hooked and not groups and own:
                yield sequence, layer, name, norm


def _merged(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = layer.weight, layer.bias
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean.double()
    shift = scale * shift if norm.bias is None else scale * shift + norm.bias.double()
    across = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the dimension of its output channels
    shape = [1] * weight.dim()
    shape[across] = -1
    merged = torch.empty_like(weight).copy_(weight.double() * scale.view(shape))  # in its memory format
    return merged, shift.to(weight.dtype)
