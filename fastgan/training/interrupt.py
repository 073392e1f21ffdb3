"""Ctrl-C and SIGTERM ask the loop to end after the round; a second one ends it at once."""

import signal
import threading
import time
from types import FrameType

ECHO = 2.0
"""Seconds for which a second signal counts as the first one's: a terminal's Ctrl-C reaches the ranks of a run, and their
launcher, which hands it on to them."""


class Interrupt:
    """A context in which the first signal only sets `requested`."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > ECHO:
            self.__exit__()
            signal.raise_signal(number)
