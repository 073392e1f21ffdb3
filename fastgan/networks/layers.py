"""Layers that families share: how latents become maps and maps become scores, channels-last, and spectral normalisation.

Spectral normalisation iterates once per optimiser step:

    W_sn = W / sigma,   sigma = u' W v,   u and v kept by power iteration

Miyato et al., "Spectral normalization for generative adversarial networks" (ICLR 2018). u and v are constants in the
gradient; sigma is not. Where others iterate in every forward, here a forward moves nothing: the engine calls `iterate` after
each optimiser step, and between two steps D is one fixed function, however often refinement asks it.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgan.kernels.activation import activate
from fastgan.kernels.convolution import conv2d, conv_transpose2d, working_dtype
from fastgan.kernels.norm_act import batch_norm_act, norm_act

STARTING_ITERATIONS = 15


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of square kernels without groups and dilation, through `kernels.convolution`."""

    folds = nn.Conv2d
    """A norm that follows may become part of the weight and bias, as with this type (`latent.folding`)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution with another weight of this shape."""
        return conv2d(x, weight, self.bias, self.stride[0], self.padding[0])


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` likewise."""

    folds = nn.ConvTranspose2d

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


class _SecondTime(AbstractContextManager):
    """Inside, batch norm's moving statistics stand still. Entered anew at each of several derivatives."""

    entered = 0

    def __enter__(self) -> None:
        _SecondTime.entered += 1

    def __exit__(self, *reason) -> None:
        _SecondTime.entered -= 1


def recomputing() -> tuple[AbstractContextManager, AbstractContextManager]:
    """What `torch.utils.checkpoint` takes as `context_fn`: where activations are computed again, the moving statistics have
    moved already."""
    return nullcontext(), _SecondTime()


class BatchNormAct(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, an activation and nearest upsampling by 2 in one, through `kernels.norm_act`.

    Parameters, buffers and what happens to them are torch's, and so are names and values in a checkpoint. Where it takes the
    place of several modules of a sequence, an `nn.Identity` follows for each of the others, so that the rest keep their names.

    Args:
        channels: of the maps (B, channels, H, W).
        act, slope, upsample: as `kernels.norm_act.norm_act` takes them.
        affine: whether there are a weight and a bias; without them gain and bias come from elsewhere, through `normalise`.
    """

    def __init__(
        self, channels: int, act: str = "relu", slope: float = 0.2, upsample: bool = False, affine: bool = True
    ) -> None:
        super().__init__(channels, affine=affine)
        self.over_ranks = None
        """What takes `batch_norm_act`'s place where ranks share a batch (`networks.across_ranks`)."""
        self.after = {"act": act, "slope": slope, "upsample": upsample}

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x, self.weight, self.bias)

    def normalise(self, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        """With gain and bias of the channels, (C,), or of each sample's, (B, C)."""
        mean, var, after = self.running_mean, self.running_var, {"eps": self.eps, **self.after}
        if not self.training:
            return norm_act(x, gain, bias, mean=mean, var=var, **after)
        momentum = 0.0 if _SecondTime.entered else self.momentum  # not without averages: torch would save other tensors
        self.num_batches_tracked.add_(0 if _SecondTime.entered else 1)
        norm = self.over_ranks or batch_norm_act
        return norm(x, gain, bias, running_mean=mean, running_var=var, momentum=momentum, **after)

    def after_norm(self) -> nn.Module:
        """What follows the norm, without parameters: for a norm that has become part of the layer before it."""
        return _Activation(self.after)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {', '.join(f'{name}={value}' for name, value in self.after.items())}"


class _Activation(nn.Module):
    def __init__(self, after: dict) -> None:
        super().__init__()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return activate(x, **self.after)


class LinearMap(nn.Linear):
    """`torch.nn.Linear` from vectors (B, dim) to maps (B, channels, side, side). The matrix product writes channels last, so
    its output is the convolutions' memory format without a copy."""

    def __init__(self, dim: int, channels: int, side: int, bias: bool = True) -> None:
        super().__init__(dim, side * side * channels, bias=bias)
        self.map = (side, side, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.as_map(super().forward(x))

    def as_map(self, y: Tensor) -> Tensor:
        """(B, side side channels) -> (B, channels, side, side), a view."""
        return y.unflatten(1, self.map).permute(0, 3, 1, 2)


def flat(x: Tensor) -> Tensor:
    """(B, C, h, w) maps -> (B, h w C), a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1)


def channels_last(x: Tensor) -> Tensor:
    """`x`, (B, C, h, w), in channels-last memory. One channel's memory is the same in both formats; there it is a view whose
    strides say channels last: a 1x1 convolution asks them, and all that follows it would lie the other way."""
    if x.shape[1] == 1:
        return x.permute(0, 2, 3, 1).flatten(2).unsqueeze(3).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def as_laid_out(x: Tensor, weight: Tensor) -> Tensor:
    """`x` in the memory format of `weight`, both of four dimensions."""
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def up(before: int, after: int) -> list[nn.Module]:
    """Doubles a map's side: 4x4 stride-2 transposed convolution, batch norm, ReLU. No bias: the norm would take it away."""
    convolution = ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    return [convolution, BatchNormAct(after), nn.Identity()]


def xavier(network: nn.Module, gain: float = 1.0) -> None:
    """Xavier-uniform weights and zero biases for every linear and convolutional layer in `network`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_side(side: int, multiple: int, pair: str) -> None:
    """Raise ValueError unless `side`, in pixels, is a positive multiple of `multiple`."""
    if side < multiple or side % multiple:
        raise ValueError(f"the {pair} pair needs a side that is a multiple of {multiple}, not {side}")


class _SpectralNorm(nn.Module):
    """Mixin for a layer with a `weight` of shape (out, ...)."""

    def _begin(self, eps: float) -> None:
        self.eps = eps
        rows, columns = self._matrix().shape
        self.register_buffer("u", functional.normalize(torch.randn(rows), dim=0, eps=eps))
        self.register_buffer("v", torch.zeros(columns))
        self._kept: tuple[tuple, Tensor] | None = None
        """What the normalised weight was computed from, and the weight: for a frozen layer."""
        self.iterate(STARTING_ITERATIONS)

    def _matrix(self) -> Tensor:
        # Channels last in the columns: a view, not a copy, of a weight in channels-last memory.
        weight = self.weight.permute(0, 2, 3, 1) if self.weight.dim() == 4 else self.weight
        return weight.flatten(1)

    @torch.no_grad()
    def iterate(self, times: int = 1) -> None:
        """Run `times` power iterations on the present weight. Call it after every change of the weight."""
        self._kept = None
        matrix = self._matrix()
        for _ in range(times):
            self.v.copy_(functional.normalize(matrix.T @ self.u, dim=0, eps=self.eps))
            self.u.copy_(functional.normalize(matrix @ self.v, dim=0, eps=self.eps))

    def normalised_weight(self) -> Tensor:
        """W / sigma. In a graph of the weight it is computed anew; for a frozen weight it is kept, in the precision that the
        convolution will ask for, until the weight changes."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return self._normalise()
        dtype = working_dtype(self.weight.device.type) or self.weight.dtype
        key = (id(self.weight), self.weight._version, dtype)
        if self._kept is None or self._kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # a tensor of inference mode could not enter a graph later
                self._kept = (key, self._normalise().to(dtype))
        return self._kept[1]

    def _normalise(self) -> Tensor:
        kind = self.weight.device.type
        off = torch.autocast(kind, enabled=False) if working_dtype(kind) else nullcontext()
        with off:  # sigma in fp32, whatever the convolutions run in
            return self.weight / torch.dot(self.u, self._matrix() @ self.v)

    def _apply(self, *args, **kwargs):  # the weight moves to another device or type
        self._kept = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # u and v may change without the weight
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": None}


class SNConv2d(_SpectralNorm, Conv2d):
    """`Conv2d` with a spectrally normalised weight."""

    def __init__(self, *args, eps: float = 1e-12, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._begin(eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.normalised_weight())


class SNLinear(_SpectralNorm, nn.Linear):
    """`torch.nn.Linear` with a spectrally normalised weight."""

    def __init__(self, *args, eps: float = 1e-12, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._begin(eps)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.normalised_weight(), self.bias)


class SNLinearMap(_SpectralNorm, LinearMap):
    """`LinearMap` with a spectrally normalised weight."""

    def __init__(self, *args, eps: float = 1e-12, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._begin(eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.as_map(functional.linear(x, self.normalised_weight(), self.bias))


class SNEmbedding(_SpectralNorm, nn.Embedding):
    """`torch.nn.Embedding` with a spectrally normalised table."""

    def __init__(self, *args, eps: float = 1e-12, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._begin(eps)

    def forward(self, labels: Tensor) -> Tensor:
        return functional.embedding(labels, self.normalised_weight())


def single_or_better(x: Tensor) -> Tensor:
    """What leaves a network: half precision is widened to fp32, fp64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def iterate_spectral_norms(module: nn.Module, times: int = 1) -> None:
    """Advance every spectral norm in `module` after its weights changed."""
    for part in module.modules():
        if isinstance(part, _SpectralNorm):
            part.iterate(times)
