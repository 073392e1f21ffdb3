"""Memory: what is judged 50,000 at a time must not make matrices of all pairs."""

import subprocess
import sys

import torch

from fastgan.evaluation import neighbours

JUDGED = """
import resource, torch
from fastgan.evaluation import density_and_coverage, frechet_distance, kernel_distance, precision_recall
from fastgan.evaluation.features import gaussian

def judge(count):
    real, generated = torch.randn(2, count, 16, generator=torch.Generator().manual_seed(0))
    frechet_distance(gaussian(real), gaussian(generated))
    kernel_distance(real, generated, subsets=2)
    return precision_recall(real, generated), density_and_coverage(real, generated)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

judge(2000)
before = peak()
judge(8000)
print(peak() - before)
"""


def test_memory_is_that_of_blocks():
    """A matrix of 8,000 x 8,000 is 256 MB in float32, and 512 in float64."""
    done = subprocess.run([sys.executable, "-c", JUDGED], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200


def test_radii_and_who_lies_in_them(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert neighbours.radii(line, 1).tolist() == [1, 1, 2, 4]
    assert neighbours.radii(line, 2).tolist() == [3, 2, 3, 6]
    points = torch.tensor([[2.0], [0.5], [20.0]])
    balls = torch.tensor([1.0, 1.0, 2.0, 4.0])
    assert [one.tolist() for one in neighbours.among(line, points, balls)] == [[1, 2, 0], [1, 1, 1, 0]]
    assert [one.tolist() for one in neighbours.among(line, points, balls, closed=True)] == [[2, 2, 0], [1, 2, 1, 0]]
