import time

from toys import Began, PointStream, make_session


class SlowStream(PointStream):
    def __next__(self):
        time.sleep(0.05)
        return super().__next__()


def test_a_session_counts_how_long_it_waits_for_its_stream():
    quick, slow = make_session(Began()), make_session(Began(), SlowStream, accumulate=2)
    for session in (quick, slow):
        session.play_round()
        session.play_round()
    assert 0 < quick.waited < 0.1
    assert slow.waited >= 4 * 0.05
