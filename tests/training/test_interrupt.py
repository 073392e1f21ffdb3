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


@pytest.fixture
def pythons_own_handler():
    """A shell starts what it puts in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_at_once(monkeypatch, pythons_own_handler):
    monkeypatch.setattr(interrupt, "ECHO", -1.0)
    with Interrupt() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is pythons_own_handler
