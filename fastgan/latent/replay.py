"""Repeating a step whose shapes do not change: on CUDA the repetitions replay one captured graph.

An iteration of refinement launches some hundreds of kernels, many shorter than the time that Python takes to launch them. A
CUDA graph launches all of them at once. What may be captured: no value is read from the device, and what the step changes lies
in the same memory every time. The same function runs eagerly on the CPU, where tests watch it for both.
"""

import warnings
from collections.abc import Callable

import torch

FEWEST = 4
"""Repetitions from which a graph pays: one is run eagerly, and capturing takes about as long as another."""


def repeat(step: Callable[[], None], times: int, device: torch.device, capture: bool = True) -> None:
    """Call `step` so many times.

    On CUDA, with `capture`, the first call is an eager one on a stream of its own (it compiles what is compiled on first use,
    and is part of the result), the second is captured, and replayed for all that are left. Where the step can't be captured, it
    is called, and a warning says why. Not run on a GPU so far.

    Args:
        step: changes tensors in place, at addresses that stay; reads no value from the device.
        times: at least 0.
        device: where the tensors are.
        capture: False calls the step every time.
    """
    if not capture or device.type != "cuda" or times < FEWEST or torch.cuda.is_current_stream_capturing():
        for _ in range(times):
            step()
        return
    here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(here)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(aside):
        step()
        replay = graph.replay
        try:
            with torch.cuda.graph(graph, stream=aside):
                step()  # is recorded, nothing is computed
        except RuntimeError as error:
            warnings.warn(f"refinement runs without a CUDA graph: {str(error).splitlines()[0]}", stacklevel=3)
            replay = step
        for _ in range(times - 1):
            replay()
    here.wait_stream(aside)
