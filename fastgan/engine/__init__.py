"""How a network is stepped: precision, optimiser, distribution."""

from fastgan.engine.local import LocalEngine
from fastgan.engine.memory import keep_freed_memory
from fastgan.engine.precision import cpu_threads, resolve_device, resolve_precision
from fastgan.engine.schedule import rate_factor

__all__ = ["LocalEngine", "cpu_threads", "keep_freed_memory", "rate_factor", "resolve_device", "resolve_precision"]
