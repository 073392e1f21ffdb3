"""Signals: the first asks, its echo is not heard, a second one ends."""

import signal

import pytest

from fastgan.training import interrupt
from fastgan.training.interrupt import Interrupt


@pytest.mark.parametrize("echo", [signal.SIGINT, signal.SIGTERM])
def test_a_launchers_echo_of_ctrl_c_is_not_a_second_signal(echo):
    with Interrupt() as asked:
        assert not asked.requested
        for number in (signal.SIGINT, echo):
            signal.raise_signal(number)
            assert asked.requested


def test_a_second_signal_ends_at_once(monkeypatch):
    monkeypatch.setattr(interrupt, "ECHO", -1.0)
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
