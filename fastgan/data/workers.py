"""Threads that share out a batch among themselves: each takes the next image as soon as it is free."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Workers:
    """A few threads. They end when the object goes, or with `close()`; neither waits for them.

    A batch takes one future of each thread, where one of each image would cost the interpreter more than reading a file does.

    Args:
        threads: at least 1.
        name: what the threads' names begin with.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._pool = threads, ThreadPoolExecutor(threads, thread_name_prefix=name)

    def begin(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Callable[[], list[Any]]:
        """Have `work` done on all items, whichever comes first.

        Returns:
            A function that waits for the results and gives them in the order of the items, or raises what `work` raised.
        """
        results = [None] * len(items)
        todo = enumerate(items)  # the interpreter's lock makes each step of it one thread's alone

        def share() -> None:
            for place, item in todo:
                results[place] = work(item)

        shares = [self._pool.submit(share) for _ in range(self._threads)]

        def finish() -> list[Any]:
            for one in shares:
                one.result()
            return results

        return finish

    def close(self) -> None:
        """End the threads after the batch that they are at; what none has begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
