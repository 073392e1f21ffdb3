"""What a run will take, before it is started."""

from fastgan.planning.plan import Plan, plan
from fastgan.planning.report import draw, lines, scaling

__all__ = ["Plan", "draw", "lines", "plan", "scaling"]
