"""The console prints progress, and numbers with singular or plural nouns."""

from __future__ import annotations

import threading

import pytest

from lsr import console
from lsr.console import counted, progress


@pytest.fixture
def clock(monkeypatch):
    """A fake clock; the test sets its time in clock[0]."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "_LOG_SECONDS", 10.0)
    return now


def test_a_log_gets_a_line_every_ten_seconds(clock, capsys):
    with progress(4000, "encoding") as bar:
        for _ in range(20):
            clock[0] += 2.0
            bar.update(200)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encoding: 1,000 of 4,000 docs, 100.0 a second, 30 s left"
    assert len(lines) == 4
    with progress(None, "fitting") as bar:
        clock[0] += 11.0
        bar.update(11)
    assert capsys.readouterr().err == "fitting: 11 docs, 1.0 a second\n"


def test_the_rate_excludes_the_time_of_counting(clock, capsys):
    with progress(None, "encoding") as bar:
        clock[0] += 60.0
        bar.reset(400)
        clock[0] += 10.0
        bar.update(100)
    assert capsys.readouterr().err == "encoding: 100 of 400 docs, 10.0 a second, 30 s left\n"


def test_the_rate_counts_only_the_work_of_this_run(clock, capsys):
    with progress(1300, "train", "steps", done=500) as bar:
        assert bar.n == 500
        for _ in range(5):
            clock[0] += 2.4
            bar.update(1)
    assert capsys.readouterr().err == "train: 505 of 1,300 steps, 0.4 a second, 1,908 s left\n"
    told = []
    with console.progress_to(lambda *line: told.append(line)), progress(9, "building", "shards", done=7) as bar:
        bar.update(1)
    assert told == [("building", 8, 9)]


def test_the_rate_of_a_bar_ignores_earlier_work(monkeypatch, capsys):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    with progress(1300, "train", "steps", done=500) as bar:
        assert (bar.n, bar.initial) == (500, 500)


def test_short_and_background_work_print_nothing(clock, capsys):
    with progress(10, "encoding") as bar:
        clock[0] += 9.0
        bar.update(10)

    def work():
        with progress(10, "merging") as bar:
            clock[0] += 100.0
            bar.update(10)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("n", "what", "text"),
    [
        (1, "document", "1 document"),
        (0, "document", "0 documents"),
        (2000, "query", "2,000 queries"),
        (1, "query", "1 query"),
    ],
)
def test_the_function_counted_uses_singular_and_plural(n, what, text):
    assert counted(n, what) == text
