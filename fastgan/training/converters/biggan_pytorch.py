"""Weights of BigGAN-PyTorch (Brock's own port): G, its average and D, BigGAN and BigGAN-deep, from its state dicts.

What differs, the numbers being the same: G's first layer gives its map channels first there, channels last here; batch norm's
statistics have other names in each of its three kinds; spectral norm keeps u alone, and every forward there makes one more
power iteration, here made once, when the weights are taken over.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fastgan.checked import UserError
from fastgan.networks.biggan import DISCRIMINATOR, GENERATOR

State = Mapping[str, Tensor]

_LAYERS = {"conv_sc": "shortcut", "theta": "query", "phi": "key", "g": "value", "o": "out", "input_conv": "stem"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Shape:
    """What a generator's state dict tells of its networks."""

    deep: bool
    side: int
    channels: int
    width: int
    dim: int
    classes: int
    embedding: int
    attention: tuple[int, ...]
    depth: int


def shape_of(state: State) -> Shape:
    """Read the sizes off a generator's state dict.

    Raises:
        UserError: it isn't one, or is of a kind that has no counterpart here.
    """
    try:
        deep = "blocks.0.0.conv4.weight" in state
        classes, embedding = state["shared.weight"].shape
        last, first = state["output_layer.2.weight"], state["linear.weight"]
        lists = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    except KeyError as error:
        raise UserError(f"this is no generator of BigGAN-PyTorch with shared embeddings: it has no {error}") from None
    conditions = state["blocks.0.0.bn1.gain.weight"].shape[1] - embedding
    if conditions <= 0:
        raise UserError("BigGAN-PyTorch's generators without hierarchical latents (--hier) have no counterpart here")
    for side, widths in GENERATOR.items():
        stages, width = len(widths) - 1, last.shape[1] // widths[-1]
        depth, rest = divmod(lists, stages)
        if rest == 0 and (depth == 1 or deep) and first.shape[0] == 16 * widths[0] * width:
            at = [4 * 2 ** (int(name.split(".")[1]) // depth + 1) for name in state if name.endswith(".gamma")]
            dim = conditions if deep else conditions * len(widths)
            return Shape(deep, side, last.shape[0], width, dim, classes, embedding, tuple(at), depth if deep else 2)
    raise UserError(f"no BigGAN of fastgan has {lists} blocks from {first.shape[0] // 16} to {last.shape[1]} channels")


def generator_state(state: State, shape: Shape) -> dict[str, Tensor]:
    """A generator's state dict under our names."""
    return {ours: tensor for name, value in state.items() for ours, tensor in _renamed(name, value, shape, generator=True)}


def discriminator_state(state: State, shape: Shape) -> dict[str, Tensor]:
    """A discriminator's state dict under our names."""
    return {ours: tensor for name, value in state.items() for ours, tensor in _renamed(name, value, shape, generator=False)}


def _renamed(name: str, value: Tensor, shape: Shape, generator: bool):
    *path, leaf = name.split(".")
    if re.fullmatch(r"sv\d+|accumulation_counter|num_batches_tracked", leaf) or re.fullmatch(r"u[1-9]\d*", leaf):
        return
    if leaf == "u0":
        leaf, value = "u", value.flatten()
    if generator and path == ["linear"]:
        value = _channels_last(value)
    if path and path[-1] == "bn":  # kept by the norm that a conditional one holds
        path = path[:-1]
    leaf = _STATISTICS.get(leaf.removeprefix("stored_").removeprefix("running_"), leaf)
    if path[:1] == ["blocks"]:
        path = _block(path[1:], leaf, shape, generator)
    elif path[:1] == ["output_layer"]:
        path = ["norm"] if path[1] == "0" else ["image"]
        leaf = {"gain": "weight"}.get(leaf, leaf)
    yield ".".join([*(_LAYERS.get(part, part) for part in path), leaf]), value


def _block(path: list[str], leaf: str, shape: Shape, generator: bool) -> list[str]:
    number, place, *rest = path
    stage, block = divmod(int(number), shape.depth) if shape.deep and generator else (int(number), int(place))
    if leaf == "gamma" or rest[0] in ("theta", "phi", "g", "o"):
        return ["attention", str(_side(stage, shape, generator)), *rest]
    return ["stages", str(stage), str(block), *_norm(rest)]


def _norm(rest: list[str]) -> list[str]:
    if not rest[0].startswith("bn"):
        return rest
    kind = {"gain": "gain", "bias": "shift"}
    return ["norm" + rest[0].removeprefix("bn"), *(kind.get(part, part) for part in rest[1:])]


def _side(stage: int, shape: Shape, generator: bool) -> int:
    if generator:
        return 4 * 2 ** (stage + 1)
    halves = [halve for _, halve in DISCRIMINATOR[shape.side]]
    return shape.side // 2 ** sum(halves[: stage + 1])


def _channels_last(value: Tensor) -> Tensor:
    return value.unflatten(0, (-1, 4, 4)).movedim(0, 2).flatten(0, 2)
