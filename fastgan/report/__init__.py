"""One self-contained page about runs: settings, curves, samples, neighbours, paths, refinement, metrics, cost."""

from fastgan.report.build import MOST_BYTES, MOST_RUNS, write_report

__all__ = ["MOST_BYTES", "MOST_RUNS", "write_report"]
