"""Processes that decode images: Pillow's encoders hold Python's lock, so that threads would wait for each other."""

import multiprocessing
import os
import signal
import threading
import warnings
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from PIL import Image


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(count: int) -> ProcessPoolExecutor:
    """A pool whose processes leave Ctrl-C to this one, and end when it is killed.

    They are started afresh, as a copy of a process with threads may find a lock held for ever.
    """
    return _Pool(count, multiprocessing.get_context("spawn"), _start)


class _Pool(ProcessPoolExecutor):
    """Processes begin while work is submitted; they inherit what is blocked, and import for a second before `_start` runs."""

    def submit(self, *args: Any, **kwargs: Any) -> Future:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the writer's
    warnings.simplefilter("ignore")  # Pillow's about odd metadata
    Image.init()  # all of Pillow's plugins, once
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for work for ever, also when the process that would give it was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
