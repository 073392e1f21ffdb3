"""What a run will take, before it is started."""

from fastgan.planning.plan import Plan, plan
from fastgan.planning.report import check_picture, draw, lines, scaling

__all__ = ["Plan", "check_picture", "draw", "lines", "plan", "scaling"]
