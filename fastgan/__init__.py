"""fastgan: training of generative adversarial networks, with latent refinement, at the speed of the hardware."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgan import latent
    from fastgan.presets import preset
    from fastgan.training import Run, evaluate, load_run, sample, train

__all__ = ["Run", "evaluate", "latent", "load_run", "preset", "sample", "train"]
__version__ = "0.1.0"

# Names load on first use: `fastgan --help` need not wait for torch.
_HOMES = {"preset": "fastgan.presets"} | dict.fromkeys(("Run", "evaluate", "load_run", "sample", "train"), "fastgan.training")


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("config", "latent"):
        return importlib.import_module(f"fastgan.{name}")
    raise AttributeError(f"module 'fastgan' has no attribute {name!r}")
