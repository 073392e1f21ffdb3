"""How a network is stepped: precision, optimiser, distribution."""

from fastgan.engine.local import LocalEngine
from fastgan.engine.precision import resolve_device, resolve_precision
from fastgan.engine.schedule import rate_factor

__all__ = ["LocalEngine", "rate_factor", "resolve_device", "resolve_precision"]
