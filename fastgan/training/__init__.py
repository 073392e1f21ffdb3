"""The loop, runs, checkpoints: everything that knows what a run is."""

from fastgan.training.assess import evaluate
from fastgan.training.loop import train
from fastgan.training.run import Run, load_run
from fastgan.training.sampling import sample

__all__ = ["Run", "evaluate", "load_run", "sample", "train"]
