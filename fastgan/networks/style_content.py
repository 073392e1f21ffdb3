"""Autoencoders with a code of content and a code of style, GAIA's two players (Sainburg et al., "Generative adversarial
interpolative autoencoding", 2018, section 2.3; after MUNIT: Huang, Liu, Belongie, Kautz, ECCV 2018, appendix B).

    content    7x7 w, ReLU -> d times 4x4/2, channels doubled, ReLU -> n residual blocks -> G: linear to `content` numbers
    style      7x7 w, ReLU -> d times 4x4/2, channels doubled, ReLU -> twice 4x4/2, ReLU -> mean over the map -> linear to
               `style` numbers
    decoder    G: linear from `content` to the map again -> n adaptive residual blocks -> d times: upsampled by 2, 5x5 to half
               the channels, layer norm, ReLU -> 7x7 to the image -> tanh

    The two encoders' first layers are one, of twice the filters.

    residual block             x + norm( 3x3( relu( norm( 3x3(x) ) ) ) ), instance norm with a gain and a bias a channel
    adaptive residual block    the same; gain and bias are the style's: style -> linear, ReLU -> linear, ReLU -> two linear
                               layers, one gain and one bias a channel for all the blocks

w = 64, d = 2, n = 4, `content` = `style` = 512 are published, for sides of 128; MUNIT's `style` is 8. D has half of G's filters
and keeps the map as its content. Borders are reflected. Layer norm is over a sample, its gain and bias a channel's. Weights
start normal with variance 2 / inputs (He et al. 2015), biases at 0.

Where it differs from the published network: tanh in the place of a sigmoid, for images in [-1, 1] (2 sigmoid(x) - 1 =
tanh(x / 2)); a map that will be upsampled gets its border before that, one pixel repeated, so that of the two pixels beyond the
border the farther one is the border's and not its neighbour's; no biases where instance norm takes them away again.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from fastgan.config import Config
from fastgan.kernels.activation import relu_
from fastgan.kernels.convolution import conv2d, working_dtype
from fastgan.kernels.sample_norm import sample_norm_act
from fastgan.networks.layers import Conv2d, LinearMap, flat, single_or_better

MORE = 2
"""Halvings of the style's map after those of the content's."""


class Code(NamedTuple):
    """What an image is encoded as; any linear mixture of codes is one too."""

    content: Tensor
    """(B, content) where a linear layer makes it, else a map (B, C, h, w)."""
    style: Tensor
    """(B, style)."""


class Autoencoder(nn.Module):
    """(B, channels, side, side) images -> the same drawn again, in [-1, 1], through a `Code`.

    Args:
        side: a multiple of 2^(downsamplings + 2).
        channels: of the images.
        width: filters of the first layers.
        style: numbers of the style's code.
        content: numbers of the content's code; None keeps the content as a map.
        blocks: residual blocks of the encoder, and of the decoder.
        downsamplings: halvings of the side on the way to the content.

    Raises:
        ValueError: another side.
    """

    def __init__(
        self,
        side: int,
        channels: int,
        width: int,
        *,
        style: int = 512,
        content: int | None = None,
        blocks: int = 4,
        downsamplings: int = 2,
    ) -> None:
        super().__init__()
        multiple = 2 ** (downsamplings + MORE)
        if side % multiple:
            raise ValueError(
                f"with network.downsamplings={downsamplings} style and content codes need a side that is a multiple of "
                f"{multiple}, not {side}"
            )
        widest, small = width * 2**downsamplings, side // 2**downsamplings
        self.first = Reflected(channels, 2 * width, 7)
        down = [(width * 2**step, width * 2 ** (step + 1)) for step in range(downsamplings)]
        self.content_encoder = nn.Sequential(*(Down(*sizes) for sizes in down), *(Block(widest) for _ in range(blocks)))
        self.to_content = None if content is None else nn.Linear(widest * small**2, content)
        self.style_encoder = nn.Sequential(*(Down(*sizes) for sizes in (*down, *[(widest, widest)] * MORE)))
        self.to_style = nn.Linear(widest, style)
        self.from_content = None if content is None else LinearMap(content, widest, small)
        self.adapt = Adaptation(style, widest)
        self.blocks = nn.ModuleList(AdaptiveBlock(widest) for _ in range(blocks))
        self.up = nn.Sequential(*(Up(widest // 2**step) for step in range(downsamplings)))
        self.image = Reflected(width, channels, 7)
        _initialise(self)

    def encode(self, images: Tensor) -> Code:
        """(B, channels, side, side) -> their codes."""
        halves = reflected(relu_(self.first(images)), 1, parts=2)
        content, style = map(_through, (self.content_encoder, self.style_encoder), halves)
        if self.to_content is not None:
            content = self.to_content(flat(content))
        return Code(single_or_better(content), single_or_better(self.to_style(style.mean((2, 3)))))

    def decode(self, code: Code) -> Tensor:
        """Codes -> (B, channels, side, side) images in [-1, 1]."""
        gain, bias = self.adapt(code.style)
        x = code.content if self.from_content is None else self.from_content(code.content)
        for block in self.blocks:
            x = block(x, gain, bias)
        return single_or_better(self.image(self.up(x)).tanh())

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


class Reflected(Conv2d):
    """A convolution of a map with reflected borders; 4x4 with a stride of 2 halves the side."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(before, after, kernel, stride, bias=bias)
        self.border = (kernel - 1) // 2

    def forward(self, x: Tensor, bordered: bool = False) -> Tensor:
        """With `bordered` the map has its border already."""
        return super().forward(x if bordered else reflected(x, self.border)[0])


def reflected(x: Tensor, border: int, parts: int = 1) -> tuple[Tensor, ...]:
    """(B, parts C, h, w) -> as many maps (B, C, h + 2 border, w + 2 border), mirrored in the pixels at the border, which are
    not repeated."""
    if torch.compiler.is_compiling():
        return functional.pad(x, (border,) * 4, mode="reflect").chunk(parts, 1)
    return _Reflect.apply(x, border, parts)


class _Reflect(Function):
    """In copies and sums of strips. Backward 1 MiB in bf16 takes 70 microseconds, where torch's takes 380."""

    @staticmethod
    def forward(ctx, x: Tensor, n: int, parts: int) -> tuple[Tensor, ...]:
        ctx.border, ctx.shape = n, x.shape
        if parts == 1:
            return (functional.pad(x, (n,) * 4, mode="reflect"),)
        return tuple(_bordered(part, n) for part in x.chunk(parts, 1))

    @staticmethod
    def backward(ctx, *grads: Tensor):
        found = torch.empty(ctx.shape, dtype=grads[0].dtype, device=grads[0].device, memory_format=torch.channels_last)
        for number, grad in enumerate(grads):
            _folded(grad, ctx.border, found[:, number * grad.shape[1] : (number + 1) * grad.shape[1]])
        return found, None, None


def _bordered(x: Tensor, n: int) -> Tensor:
    batch, channels, height, width = x.shape
    shape = batch, channels, height + 2 * n, width + 2 * n
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    y[:, :, n:-n, n:-n] = x
    for along in (y[:, :, :, n:-n], y.transpose(2, 3)):  # rows, then columns with what the rows have by now
        along[:, :, :n] = along[:, :, n + 1 : 2 * n + 1].flip(2)
        along[:, :, -n:] = along[:, :, -2 * n - 1 : -n - 1].flip(2)
    return y


def _folded(grad: Tensor, n: int, found: Tensor) -> None:
    """Writes the adjoint of `_bordered`."""
    found.copy_(grad[:, :, n:-n, n:-n])
    first, middle, last = (slice(1, n + 1), slice(0, n)), (slice(None), slice(n, -n)), (slice(-n - 1, -1), slice(-n, None))
    for to_rows, rows in (first, middle, last):
        for to_columns, columns in (first, middle, last):
            turned = [axis for axis, strip in ((2, rows), (3, columns)) if n > 1 and strip != middle[1]]
            if (rows, columns) != (middle[1], middle[1]):
                strip = grad[:, :, rows, columns]
                found[:, :, to_rows, to_columns] += strip.flip(turned) if turned else strip


class Down(Reflected):
    """4x4/2, ReLU: (B, before, h, w) -> (B, after, h/2, w/2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 4, 2)

    def forward(self, x: Tensor, bordered: bool = False) -> Tensor:
        return relu_(super().forward(x, bordered))


class Norm(nn.Module):
    """Statistics of each sample, a gain and a bias a channel: `kernels.sample_norm`, with these of its options."""

    def __init__(self, channels: int, **options: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.options = options

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return sample_norm_act(x, self.weight, self.bias, residual=residual, **self.options)


class Block(nn.Module):
    """(B, channels, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = Reflected(channels, channels, 3, bias=False), Norm(channels, act="relu")
        self.conv2, self.norm2 = Reflected(channels, channels, 3, bias=False), Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x))), residual=x)


class AdaptiveBlock(nn.Module):
    """(B, channels, h, w), gain and bias (B, channels) -> (B, channels, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Reflected(channels, channels, 3, bias=False)
        self.conv2 = Reflected(channels, channels, 3, bias=False)

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        y = self.conv2(sample_norm_act(self.conv1(x), gain, bias, act="relu"))
        return sample_norm_act(y, gain, bias, residual=x.to(y.dtype))


class Adaptation(nn.Module):
    """(B, style) -> gain and bias, (B, channels) each."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(style, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU())
        self.gain, self.bias = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(style)
        return self.gain(hidden), self.bias(hidden)


class Up(nn.Module):
    """(B, channels, h, w) -> (B, channels/2, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Doubling(channels, channels // 2)
        self.norm = Norm(channels // 2, over="sample", act="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Doubling(nn.Conv2d):
    """Nearest upsampling by 2 of a map whose border is repeated once, then a 5x5 convolution, in one.

    Of the pixels under the 5x5 taps many are the same: four 3x3 convolutions of the small map, one for each pixel of a 2x2
    block, whose taps are sums of the 5x5 ones, do it with 36 products in the place of 100.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 5)
        left = [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]  # the five taps that fall together on each of the three pixels
        right = [1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]
        line = torch.tensor([left, right], dtype=torch.float32)
        sums = torch.einsum("aip,bjq->abijpq", line, line).reshape(36, 25)
        self.register_buffer("sums", sums, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = conv2d(functional.pad(x, (1,) * 4, mode="replicate"), self.folded(), self.bias.repeat(4))
        # Flattened and not reshaped: a shape in five numbers ties torch.export to one batch.
        lines = y.permute(0, 2, 3, 1).unflatten(3, (2, -1)).transpose(2, 3).flatten(1, 2)  # each of pixels in pairs
        return lines.unflatten(3, (2, self.out_channels)).flatten(2, 3).permute(0, 3, 1, 2)

    def folded(self) -> Tensor:
        """(4 after, before, 3, 3): the weights of the upper left pixels of the blocks, the upper right ones, ..."""
        kind = self.weight.device.type
        with torch.autocast(kind, enabled=False) if working_dtype(kind) else nullcontext():
            taps = self.sums @ self.weight.permute(0, 2, 3, 1).flatten(1, 2)
        return taps.unflatten(1, (4, 3, 3)).transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2)


def pair(config: Config) -> tuple[Autoencoder, Autoencoder]:
    """Generator and discriminator, with half of the generator's filters and the map as its content.

    Raises:
        ValueError: a side that does not halve so often, or an odd width.
    """
    network, side, channels = config.network, config.data.resolution, config.data.channels
    if network.width % 2:
        raise ValueError(f"D has half of G's filters, so network.width must be even, not {network.width}")
    shape = {name: getattr(network, name) for name in ("style", "blocks", "downsamplings")}
    generator = Autoencoder(side, channels, network.width, content=network.content, **shape)
    return generator, Autoencoder(side, channels, network.width // 2, **shape)


def _through(encoder: nn.Sequential, x: Tensor) -> Tensor:
    """The encoder of a map that has a border already."""
    first, *rest = encoder
    x = first(x, bordered=True)
    for layer in rest:
        x = layer(x)
    return x


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
