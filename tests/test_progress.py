import sys

import pytest

from eva_utils import progress
from eva_utils.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock on which each look takes half a second."""
    now = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now) / 2)


@pytest.mark.usefixtures("clock")
def test_a_terminal_sees_one_line_that_is_wiped_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert [*Progress().track("abcdefghijkl", "letters", total=12)] == [*"abcdefghijkl"]
    out, err = capsys.readouterr()
    lines = err.split("\r")
    assert out == ""
    assert lines[1] == "letters: 5 of 12, 4 s left"
    assert lines[2].startswith("letters: 7 of 12")
    assert "\n" not in err
    assert lines[-2].strip() == lines[-1] == ""
    assert len(lines[-2]) == max(map(len, lines))


@pytest.mark.usefixtures("clock")
def test_files_and_those_who_asked_for_silence_see_nothing(monkeypatch, capsys):
    assert len([*Progress().track(range(20), "numbers", total=20)]) == 20
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert len([*Progress(enabled=False).track(range(20), "numbers", total=20)]) == 20
    assert capsys.readouterr() == ("", "")


def test_short_work_shows_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert len([*Progress().track(range(20), "numbers", total=20)]) == 20
    assert capsys.readouterr().err == ""
