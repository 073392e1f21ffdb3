"""What long work says where there is no terminal."""

import fastgan.progress as module
from fastgan.progress import progress


def test_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    with progress("packing", 100, done=40) as advance:
        advance(10)
        advance(50)
    first, middle, last = capsys.readouterr().out.splitlines()
    assert first == "packing 60 images"
    assert middle.startswith("packing 50 of 100, ")
    assert middle.endswith(" s left")
    assert last.startswith("packing 100 of 100, ")


def test_lines_are_seconds_apart_and_quiet_is_quiet(capsys):
    with progress("packing", 100) as advance:
        for _ in range(100):
            advance(1)
    assert capsys.readouterr().out == "packing 100 images\n"
    with progress("packing", 100, quiet=True) as advance:
        advance(100)
    assert capsys.readouterr().out == ""
    with progress("sampling", 100, announced=False) as advance:
        advance(100)
    assert capsys.readouterr().out == ""
