"""How a network is stepped: precision, optimiser, distribution."""

from fastgan.engine.deepspeed import DeepSpeedEngine
from fastgan.engine.distributed import ALONE, LoneError, Ranks, join, rank_here
from fastgan.engine.local import LocalEngine
from fastgan.engine.memory import keep_freed_memory
from fastgan.engine.precision import cpu_threads, resolve_device, resolve_precision
from fastgan.engine.schedule import rate_factor

__all__ = [
    "ALONE",
    "DeepSpeedEngine",
    "LocalEngine",
    "LoneError",
    "Ranks",
    "cpu_threads",
    "join",
    "keep_freed_memory",
    "rank_here",
    "rate_factor",
    "resolve_device",
    "resolve_precision",
]
