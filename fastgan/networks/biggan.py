"""BigGAN and BigGAN-deep (Brock, Donahue, Simonyan, "Large scale GAN training for high fidelity natural image synthesis", ICLR
2019, appendix B), and what came before them: SAGAN (Zhang et al. 2019) and the projection SN-ResNet (Miyato & Koyama 2018).

    generator      z in chunks, a class vector shared by all blocks; first chunk -> linear to (4, 4, c0) -> a stage for each
                   doubling of the side -> batch norm, ReLU -> 3x3 convolution -> tanh
                   block: norm, ReLU, upsample, 3x3, norm, ReLU, 3x3, beside a 1x1 on the shortcut; gain and bias of its norms
                   are linear in (class vector, the block's chunk of z), the gain about 1
    discriminator  stages that halve the side -> ReLU -> summed over the image -> linear to 1, + <class vector, features>
                   block: ReLU (not in the first), 3x3, ReLU, 3x3, average pool, beside a 1x1 on the shortcut
    deep           blocks of 1x1 to a quarter of the channels, 3x3, 3x3, 1x1 back; two a stage; no 1x1 in G's shortcut, which
                   drops channels, in D's one for the channels that are new; the whole of z joins the class vector

    side    channels of G's first map and stages, in widths     of D's stages (deep: of its stem and stages), * keeps the side
    32      4  4 4 4                                            4 4 4* 4*
    64      16  16 8 4 2                                        1 2 4 8 16*
    128     16  16 8 4 2 1                                      1 2 4 8 16 16*
    256     16  16 8 8 4 2 1                                    1 2 4 8 8 16 16*
    512     16  16 8 8 4 2 1 1                                  1 1 2 4 8 8 16 16*

Self-attention stands after the stage whose maps have the side that is asked for. Spectral norm (eps 1e-6) is on every layer but
G's table of class vectors; orthogonal initialisation. A 1x1 convolution commutes with upsampling and pooling: on shortcuts it
runs where the map is small.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fastgan.config import Config
from fastgan.networks.attention import Attention
from fastgan.networks.conditional_norm import ClassNormAct, ConditionalNormAct
from fastgan.networks.layers import (
    STARTING_ITERATIONS,
    BatchNormAct,
    Conv2d,
    LinearMap,
    SNConv2d,
    SNEmbedding,
    SNLinear,
    SNLinearMap,
    iterate_spectral_norms,
    recomputing,
    single_or_better,
)

GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Side -> channels of the first map, 4x4, and of each stage, in widths."""
DISCRIMINATOR = {
    32: ((4, True), (4, True), (4, False), (4, False)),
    64: ((1, True), (2, True), (4, True), (8, True), (16, False)),
    128: ((1, True), (2, True), (4, True), (8, True), (16, True), (16, False)),
    256: ((1, True), (2, True), (4, True), (8, True), (8, True), (16, True), (16, False)),
    512: ((1, True), (1, True), (2, True), (4, True), (8, True), (8, True), (16, True), (16, False)),
}
"""Side -> channels of each block, in widths, and whether it halves the side."""

EPS = 1e-6
"""Of the spectral norms."""


@dataclass(frozen=True)
class Style:
    """What tells the families apart."""

    deep: bool = False
    hierarchical: bool = True
    """Every block hears a part of z (deep: the whole)."""
    shared: bool = True
    """One table of class vectors for all blocks of G; else one for each of its norms."""
    spectral: bool = True
    """Spectral norm in G too."""


STYLES = {
    "biggan": Style(),
    "biggan-deep": Style(deep=True),
    "sagan": Style(hierarchical=False, shared=False),
    "projection-resnet": Style(hierarchical=False, shared=False, spectral=False),
}


class Generator(nn.Module):
    """(B, dim) latents and int64 (B,) labels from 0 to classes - 1 -> (B, channels, side, side) images in [-1, 1].

    Args:
        dim: of z; with a hierarchical latent a multiple of the stages and one.
        width: "ch", 96 (deep: 128) as published.
        classes: 0 for an unconditional generator, called without labels.
        embedding: numbers of a class vector.
        attention: sides of the maps that self-attention looks at.
        recompute: activations of the stages are computed again in the backward pass, in the place of being kept.

    Raises:
        ValueError: a side without a table, or a `dim` that does not divide.
    """

    def __init__(
        self,
        dim: int,
        side: int,
        channels: int,
        width: int,
        classes: int,
        *,
        style: Style = Style(),
        embedding: int = 128,
        attention: tuple[int, ...] = (64,),
        depth: int = 2,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        start, *stages = (widths * width for widths in _of_side(GENERATOR, side))
        self.style, self.classes, self.recompute = style, classes, recompute
        self.chunk = _chunk(dim, len(stages) + 1, style)
        self.shared = nn.Embedding(classes, embedding) if classes and style.shared else None
        heard = embedding if self.shared else 0
        convolution, linear_map = (SNConv2d, SNLinearMap) if style.spectral else (Conv2d, LinearMap)
        eps = {"eps": EPS} if style.spectral else {}
        condition = heard + (dim if style.deep else self.chunk if style.hierarchical else 0)

        def norm(features: int, upsample: bool = False) -> nn.Module:
            options = {"act": "relu", "upsample": upsample}
            if classes and not style.shared:
                return ClassNormAct(features, classes, **options)
            return ConditionalNormAct(features, condition, EPS, **options) if condition else Unconditional(features, **options)

        def convolve(before: int, after: int, kernel: int) -> nn.Module:
            return convolution(before, after, kernel, padding=kernel // 2, **eps)

        self.linear = linear_map(heard + dim if style.deep else self.chunk, start, 4, **eps)
        self.stages, self.attention = nn.ModuleList(), nn.ModuleDict()
        before, at = start, 4
        for after in stages:
            if style.deep:
                blocks = [DeepUpBlock(before, before, norm, convolve, double=False) for _ in range(depth - 1)]
                blocks.append(DeepUpBlock(before, after, norm, convolve, double=True))
            else:
                blocks = [UpBlock(before, after, norm, convolve)]
            self.stages.append(nn.ModuleList(blocks))
            before, at = after, 2 * at
            if at in attention:
                self.attention[str(at)] = Attention(after, lambda b, a: convolution(b, a, 1, bias=False, **eps))
        self.norm = BatchNormAct(before, act="relu")
        self.image = convolve(before, channels, 3)
        orthogonal(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        vector = [self.shared(labels)] if self.shared is not None else []
        if self.style.deep:
            z = torch.cat([*vector, z], 1)
            heard = [z] * len(self.stages)
        elif self.style.hierarchical:
            z, *chunks = z.split(self.chunk, 1)
            heard = [torch.cat([*vector, chunk], 1) for chunk in chunks]
        else:
            heard = [labels] * len(self.stages)
        x = self.linear(z)
        for stage, condition in zip(self.stages, heard, strict=True):
            x = _run(self._stage, self.recompute, stage, x, condition)
        return single_or_better(self.image(self.norm(x)).tanh())

    def _stage(self, stage: nn.ModuleList, x: Tensor, condition: Tensor | None) -> Tensor:
        for block in stage:
            x = block(x, condition)
        at = str(x.shape[2])
        return self.attention[at](x) if at in self.attention else x


class Discriminator(nn.Module):
    """(B, channels, side, side) images and int64 (B,) labels -> (B,) scores, unbounded, higher = more real.

    Args: as for `Generator`. With 0 classes there is no projection, and it is called without labels.

    Raises:
        ValueError: a side without a table.
    """

    def __init__(
        self,
        side: int,
        channels: int,
        width: int,
        classes: int,
        *,
        style: Style = Style(),
        attention: tuple[int, ...] = (64,),
        depth: int = 2,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        stages = [(widths * width, halve) for widths, halve in _of_side(DISCRIMINATOR, side)]
        self.recompute = recompute

        def convolve(before: int, after: int, kernel: int) -> nn.Module:
            return SNConv2d(before, after, kernel, padding=kernel // 2, eps=EPS)

        self.stages, self.attention = nn.ModuleList(), nn.ModuleDict()
        before, at = channels, side
        self.stem = None
        if style.deep:
            # The stem takes the first stage's place, so the side halves once a stage from the second on.
            before, halves = stages[0][0], [halve for _, halve in stages[:-1]]
            self.stem = convolve(channels, before, 3)
            stages = [(after, halve) for (after, _), halve in zip(stages[1:], halves, strict=True)]
        for number, (after, halve) in enumerate(stages):
            if style.deep:
                blocks = [DeepDownBlock(before, after, convolve, halve)]
                blocks += [DeepDownBlock(after, after, convolve, False) for _ in range(depth - 1)]
            else:
                blocks = [DownBlock(before, after, convolve, halve, first=number == 0)]
            self.stages.append(nn.Sequential(*blocks))
            before, at = after, at // 2 if halve else at
            if halve and at in attention:
                self.attention[str(at)] = Attention(after, lambda b, a: SNConv2d(b, a, 1, bias=False, eps=EPS))
        self.linear = SNLinear(before, 1, eps=EPS)
        self.embed = SNEmbedding(classes, before, eps=EPS) if classes else None
        orthogonal(self)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.stem is not None:
            x = self.stem(x)
        for stage in self.stages:
            x = _run(self._stage, self.recompute, stage, x)
        features = x.relu().sum((2, 3))
        score = self.linear(features).squeeze(1)
        if self.embed is not None:
            score = score + (self.embed(labels) * features).sum(1)
        return single_or_better(score)

    def _stage(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        y, at = stage(x), str(x.shape[2] // 2)
        return self.attention[at](y) if at in self.attention and y.shape[2] < x.shape[2] else y


Norm = Callable[..., nn.Module]
Convolve = Callable[[int, int, int], nn.Module]


class Unconditional(BatchNormAct):
    """`BatchNormAct` that is called with a condition and does not hear it."""

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return super().forward(x)


class UpBlock(nn.Module):
    """(B, before, h, w) -> (B, after, 2h, 2w)."""

    def __init__(self, before: int, after: int, norm: Norm, convolve: Convolve) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before, upsample=True), convolve(before, after, 3)
        self.norm2, self.conv2 = norm(after), convolve(after, after, 3)
        self.shortcut = convolve(before, after, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        main = self.conv1(self.norm1(x, condition))
        return self.conv2(self.norm2(main, condition)) + doubled(self.shortcut(x))


class DownBlock(nn.Module):
    """(B, before, h, w) -> (B, after, h, w), or (B, after, h/2, w/2) where it halves the side."""

    def __init__(self, before: int, after: int, convolve: Convolve, halve: bool, first: bool) -> None:
        super().__init__()
        self.first, self.halve = first, halve
        self.conv1, self.conv2 = convolve(before, after, 3), convolve(after, after, 3)
        self.shortcut = convolve(before, after, 1) if halve or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        main = self.conv2(self.conv1(x if self.first else x.relu()).relu_())
        if self.halve:
            main, x = functional.avg_pool2d(main, 2), functional.avg_pool2d(x, 2)
        return main + self.shortcut(x)


class DeepUpBlock(nn.Module):
    """(B, before, h, w) -> (B, after, h, w), or (B, after, 2h, 2w) where it doubles the side; `after` at most `before`."""

    def __init__(self, before: int, after: int, norm: Norm, convolve: Convolve, double: bool) -> None:
        super().__init__()
        hidden = before // 4
        self.after, self.double = after, double
        self.norm1, self.conv1 = norm(before), convolve(before, hidden, 1)
        self.norm2, self.conv2 = norm(hidden, upsample=double), convolve(hidden, hidden, 3)
        self.norm3, self.conv3 = norm(hidden), convolve(hidden, hidden, 3)
        self.norm4, self.conv4 = norm(hidden), convolve(hidden, after, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        main = x
        for norm, convolution in (
            (self.norm1, self.conv1),
            (self.norm2, self.conv2),
            (self.norm3, self.conv3),
            (self.norm4, self.conv4),
        ):
            main = convolution(norm(main, condition))
        kept = x[:, : self.after]
        return main + (doubled(kept) if self.double else kept)


class DeepDownBlock(nn.Module):
    """(B, before, h, w) -> (B, after, h, w), or (B, after, h/2, w/2) where it halves the side; `after` at least `before`."""

    def __init__(self, before: int, after: int, convolve: Convolve, halve: bool) -> None:
        super().__init__()
        hidden = after // 4
        self.halve = halve
        self.conv1, self.conv2 = convolve(before, hidden, 1), convolve(hidden, hidden, 3)
        self.conv3, self.conv4 = convolve(hidden, hidden, 3), convolve(hidden, after, 1)
        self.shortcut = convolve(before, after - before, 1) if after > before else None

    def forward(self, x: Tensor) -> Tensor:
        main = self.conv3(self.conv2(self.conv1(x.relu()).relu_()).relu_()).relu_()
        if self.halve:
            main, x = functional.avg_pool2d(main, 2), functional.avg_pool2d(x, 2)
        if self.shortcut is not None:
            x = torch.cat([x, self.shortcut(x)], 1)
        return self.conv4(main) + x


def doubled(x: Tensor) -> Tensor:
    """Nearest neighbours: (B, C, h, w) -> (B, C, 2h, 2w)."""
    return functional.interpolate(x, scale_factor=2)


def orthogonal(network: nn.Module) -> None:
    """Orthogonal weights for every convolution, linear layer and table, zero biases, and spectral norms to match."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.orthogonal_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ClassNormAct):
            module.reset()
    iterate_spectral_norms(network, STARTING_ITERATIONS)


def pair(name: str, config: Config) -> tuple[Generator, Discriminator]:
    """The pair of this name in STYLES that `config` asks for."""
    side, channels, network = config.data.resolution, config.data.channels, config.network
    shared = {
        "style": STYLES[name],
        "attention": tuple(network.attention),
        "depth": network.depth,
        "recompute": network.recompute,
    }
    generator = Generator(
        config.latent.dim, side, channels, network.width, network.classes, embedding=network.embedding, **shared
    )
    return generator, Discriminator(side, channels, network.width, network.classes, **shared)


def _run(stage: Callable[..., Tensor], recompute: bool, *inputs) -> Tensor:
    if recompute and torch.is_grad_enabled():
        return checkpoint(stage, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=recomputing)
    return stage(*inputs)


def _of_side(table: dict, side: int):
    if side not in table:
        raise ValueError(f"BigGAN pairs have sides of {', '.join(map(str, table))}, not {side}")
    return table[side]


def _chunk(dim: int, chunks: int, style: Style) -> int:
    if not style.hierarchical or style.deep:
        return dim
    if dim % chunks:
        raise ValueError(f"z is cut into {chunks} equal chunks, so latent.dim must be a multiple of {chunks}, not {dim}")
    return dim // chunks
