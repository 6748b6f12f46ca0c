import io
import sys

import pytest

from deqjax.data.puzzles._progress import progress


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_is_shown_where_somebody_watches(watched, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: watched
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("Making puzzles", 20) as report:
        report(10)
        report(10)
    shown = terminal.getvalue()
    assert ("Making puzzles" in shown, "100%" in shown) == (watched, watched)
