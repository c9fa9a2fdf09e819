"""Progress: a bar on a terminal, plain lines in a log, numbers with their unit."""

import io
from types import SimpleNamespace

import pytest

from tagging.base import progress
from tagging.base.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_log_has_a_line_every_fifteen_seconds(clock, capsys):
    with Progress("train yac", 4250, "step") as bar:
        for _ in range(40):
            clock[0] += 1
            bar.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train yac: 1,500 of 4,250 steps, 100 steps/s, 00:27 left",
        "train yac: 3,000 of 4,250 steps, 100 steps/s, 00:12 left",
    ]


def test_slow_steps_are_a_rate_too(clock, capsys):
    with Progress("train yac", 100, "step") as bar:
        clock[0] += 20
        bar.advance(5)
    assert capsys.readouterr().err == "train yac: 5 of 100 steps, 0.25 steps/s, 06:20 left\n"


def test_bytes_are_in_binary_multiples(clock, capsys):
    with Progress("features.tar.gz", 2 << 30, "B") as bar:
        clock[0] += 16
        bar.advance(1 << 29)
    line = capsys.readouterr().err
    assert line == "features.tar.gz: 512MB of 2.00GB, 32.0MB/s, 00:48 left\n"


def test_unknown_total(clock, capsys):
    with Progress("features.tar.gz", None, "B") as bar:
        clock[0] += 16
        bar.advance(1 << 20)
    assert capsys.readouterr().err == "features.tar.gz: 1.00MB, 64.0kB/s\n"


@pytest.mark.parametrize("how", ["done", "skip"])
def test_work_completed_before_does_not_count_as_speed(clock, capsys, how):
    with Progress("train yac", 1000, "step", done=500 if how == "done" else 0) as bar:
        if how == "skip":
            bar.skip(500)
        clock[0] += 20
        bar.advance(200)
    assert capsys.readouterr().err == "train yac: 700 of 1,000 steps, 10 steps/s, 00:30 left\n"


def test_a_log_is_plain_text(clock, capsys):
    with Progress("train yac", 100, "step") as bar:
        for _ in range(5):
            clock[0] += 20
            bar.advance(20)
            bar.say("yac: epoch 1/5")
    written = capsys.readouterr().err
    assert written.count("yac: epoch 1/5\n") == 5
    assert written.replace("\n", "").isprintable()  # no carriage return, no colour, no bar


def test_a_terminal_shows_a_bar(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("train yac", 4250, "step") as bar:
        clock[0] += 20
        bar.advance(3470)
        bar.say("yac: epoch 1/5")
    written = terminal.getvalue()
    assert "3470/4250" in written
    assert "steps/s" in written
    assert "kstep" not in written
    assert "yac: epoch 1/5\n" in written


def test_none_is_silent(clock, capsys):
    with Progress("train yac", 100, "step", "none") as bar:
        clock[0] += 20
        bar.advance(50)
        bar.say("yac: epoch 1/5")
    assert capsys.readouterr() == ("", "")
