"""Which device and number format a run gets."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastgan.checked import UserError


def resolve_device(asked: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda".

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device is cuda, but torch sees no CUDA device (fastgan doctor says more)")
    return torch.device("cuda" if asked == "auto" and torch.cuda.is_available() else "cpu" if asked == "auto" else asked)


def resolve_precision(asked: str, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16" for what the configuration asks: "auto" is bf16 where the hardware multiplies in it.

    Raises:
        UserError: fp16 on a CPU, whose gradients would need a loss scaling that is only tested on CUDA.
    """
    if asked == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    if asked == "fp16" and device.type != "cuda":
        raise UserError("training.precision fp16 needs a CUDA device: use bf16 or fp32 on the CPU")
    return asked


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with `count` threads on the CPU; with its own choice where 0."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


def computes_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 run in hardware: emulated, they are slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10 has no public name for it
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
