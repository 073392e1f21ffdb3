"""Threads that share out a batch among themselves: each takes the next image as soon as it is free."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Workers:
    """A few threads. They end with `close()`, or when the object goes, each after the item that it is at; neither waits.

    A batch takes a future of each thread: one of each item would cost the interpreter as much as a small item itself.

    Args:
        threads: at least 1.
        name: what the threads' names begin with.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._pool = threads, ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._closed = threading.Event()

    def __del__(self) -> None:
        self.close()

    def begin(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Callable[[], list[Any]]:
        """Have `work` done on all items, whichever comes first.

        Returns:
            A function that waits for the results and gives them in the order of the items, or raises what `work` raised.
        """
        results = [None] * len(items)
        todo = enumerate(items)  # the interpreter's lock makes each step of it one thread's alone
        closed = self._closed  # and not `self`, which would be kept by its own threads

        def share() -> None:
            for place, item in todo:
                if closed.is_set():
                    return
                results[place] = work(item)

        shares = [self._pool.submit(share) for _ in range(self._threads)]

        def finish() -> list[Any]:
            for one in shares:
                one.result()
            return results

        return finish

    def close(self, wait: bool = False) -> None:
        """Drop what no thread has begun; with `wait`, return once no thread is at work."""
        self._closed.set()
        with contextlib.suppress(RuntimeError):  # a collection may call this in one of the threads, which can't wait for itself
            self._pool.shutdown(wait=wait, cancel_futures=True)
