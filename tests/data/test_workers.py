"""Threads that share out a batch: every item once, results in order, and an end."""

import gc
import threading
import time

import pytest

from fastgan.data.workers import Workers


def named(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def ended(name):
    deadline = time.monotonic() + 10
    while named(name) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not named(name)


@pytest.mark.parametrize("threads", [1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_every_item_is_done_once_and_results_keep_their_order(threads, count):
    done = []
    workers = Workers(threads, "test-order")

    def work(item):
        done.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    finishes = [workers.begin(work, range(first, first + count)) for first in (0, 1000)]
    assert [finish() for finish in finishes] == [[item * item for item in range(f, f + count)] for f in (0, 1000)]
    assert sorted(done) == [*range(count), *range(1000, 1000 + count)]
    assert len(named("test-order")) <= threads


def test_items_are_done_at_the_same_time():
    barrier = threading.Barrier(3, timeout=10)
    assert len(Workers(3, "test-together").begin(lambda _: barrier.wait(), range(3))()) == 3


def test_an_error_is_raised_where_the_results_are_asked_for():
    workers = Workers(2, "test-error")
    finish = workers.begin(lambda item: 1 // item, [2, 1, 0, 3])
    with pytest.raises(ZeroDivisionError):
        finish()
    assert workers.begin(lambda item: 1 // item, [1])() == [1]


def test_what_was_not_begun_is_dropped():
    begun, gate = [], threading.Event()
    workers = Workers(2, "test-drop")

    def work(item):
        begun.append(item)
        gate.wait(10)

    workers.begin(work, range(100))
    deadline = time.monotonic() + 10
    while len(begun) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    workers.close()
    gate.set()
    assert ended("test-drop")
    assert sorted(begun) == [0, 1]


def test_threads_end_with_close_and_with_the_object():
    workers = Workers(2, "test-end")
    workers.begin(str, range(4))()
    assert named("test-end")
    workers.close()
    workers.close()
    assert ended("test-end")
    gc.disable()
    try:
        workers = Workers(2, "test-end")
        assert workers.begin(str, range(4))() == ["0", "1", "2", "3"]
        assert named("test-end")
        del workers
        assert ended("test-end")
    finally:
        gc.enable()
