"""Benchmarks: `python -m bench.data` and others. Each states what it compares, interleaved in one run."""
