import io
import re
import sys
import types

import pytest
from rich.console import Console

from deqjax.training.records import _progress
from deqjax.training.records._progress import progress_bar

TRAINING = {
    "loss": 1.23456,
    "bits_per_byte": 1.7811,
    "forward_steps": 8.0,
    "forward_steps_max": 12.0,
    "forward_residual": 1e-3,
    "backward_residual": 2e-3,
    "data_wait": 0.25,
    "host_memory_gib": 2.5,
    "unknown": 1.0,
}
VALIDATION = {
    "bits_per_byte": 1.9,
    "loss": 1.3,
    "spectral_radius": 0.75,
    "spectral_radius_max": 1.5,
    "forward_residual": 3e-3,
}


class Broken(io.StringIO):
    """A log on a full disk, or a terminal that is gone."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def show(terminal, steps, *, total=10, every=0.0, metrics=None, width=100, file=None, **others):
    file = file or io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, height=40, _environ={})
    with progress_bar(total, 2, console=console, every=every, **others) as bar:
        for step in steps:
            bar.update(step, TRAINING if metrics is None else metrics)
        if not others.get("quiet") and terminal and metrics is None:
            bar.validated(5, VALIDATION)
    return file.getvalue()


def drawn(text):
    """The last drawing on a terminal, without control characters."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    lines = [line.rstrip() for line in plain.splitlines()]
    last = max(number for number, line in enumerate(lines) if "/10" in line)
    return [line for line in lines[last:] if line]


def cells(lines, label):
    [line] = [line for line in lines if line.startswith(label)]
    return re.split(r"  +", line)[1:]


def test_plain_lines_without_a_terminal():
    first, last = show(False, [5, 10]).splitlines()
    assert first == "step 5/10  loss 1.781 bits per byte  steps 8  residual 0.001"
    assert last == "step 10/10  loss 1.781 bits per byte  steps 8  residual 0.001"


def test_time_left_does_not_count_the_compilation(monkeypatch):
    clock = iter([100.0, 103.0, 109.0])  # the first step took as long as its compilation
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    with progress_bar(10, 2, console=Console(file=file), every=0) as bar:
        for step in (3, 4, 6):
            bar.update(step, {})
    assert file.getvalue().splitlines() == [
        "step 3/10",
        "step 4/10  0:00:18 left",
        "step 6/10  0:00:12 left",
    ]


def test_a_loss_that_is_not_in_bits_has_no_unit():
    [line] = show(False, [10], metrics={"loss": 1.5, "images_per_second": 3.0}).splitlines()
    assert line == "step 10/10  loss 1.5"


def test_the_first_score_of_a_task_stands_beside_the_loss():
    metrics = {"loss": 1.5, "accuracy": 0.875, "other": 1.0, "bigram_loss": 2.0}
    assert show(False, [10], metrics=metrics) == "step 10/10  loss 1.5  accuracy 0.875\n"


def test_plain_lines_are_rare_but_the_last_is_shown():
    lines = show(False, range(3, 11), every=3600).splitlines()
    assert [line.split()[1] for line in lines] == ["3/10", "10/10"]


def test_plain_line_of_a_validation():
    file = io.StringIO()
    with progress_bar(10, 2, console=Console(file=file), every=3600) as bar:
        bar.validated(5, VALIDATION)
    assert file.getvalue() == "step 5/10  validation  loss 1.9 bits per byte  residual 0.003\n"


def test_metrics_may_be_missing():
    assert show(False, [10], metrics={}) == "step 10/10\n"


def test_table_on_a_terminal():
    lines = drawn(show(True, [5, 10]))
    assert "10/10" in lines[0]
    assert lines[1].split("  ")[-1] == "validation, step 5"
    assert cells(lines, "loss, bits per byte") == ["1.7811", "1.9000"]
    assert cells(lines, "steps forward, mean / largest") == ["8 / 12"]
    assert cells(lines, "residual, forward / backward") == ["1.0e-03 / 2.0e-03", "3.0e-03 / -"]
    assert cells(lines, "spectral radius, mean / largest") == ["0.750 / 1.500"]
    assert cells(lines, "waiting for data") == ["25.0%"]
    assert cells(lines, "memory, GiB, host") == ["2.5"]


def test_table_has_rows_for_what_was_measured_only():
    assert len(drawn(show(True, [10]))) == 9


def test_scores_are_shown_by_their_names_and_speed_by_what_is_counted():
    lines = drawn(show(True, [5, 10]))
    assert cells(lines, "unknown") == ["1"]
    metrics = {"loss": 1.0, "f1/cat": 0.5, "graphs_per_second": 1234.0, "steps_per_second": 2.0}
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=40, _environ={})
    with progress_bar(10, 2, console=console) as bar:
        bar.update(10, metrics)
    lines = drawn(file.getvalue())
    assert cells(lines, "graphs per second") == ["1,234"]
    assert [line.split()[0] for line in lines[2:]] == ["loss", "graphs"]


def test_names_of_scores_are_no_markup():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=40, _environ={})
    with progress_bar(10, 2, console=console) as bar:
        bar.update(10, {"loss": 1.0, "top[/b]": 0.5, "[red]points_per_second": 7.0})
    assert cells(drawn(file.getvalue()), "[red]points per second") == ["7"]


def test_bar_alone_before_the_first_metrics():
    lines = drawn(show(True, [3], metrics={}))
    assert len(lines) == 1
    assert "3/10" in lines[0]


@pytest.mark.parametrize("width", [10, 24, 40, 60, 66, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(map(len, drawn_at(width))) <= width


def drawn_at(width):
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show(True, [10], width=width))
    return plain.replace("\r", "\n").splitlines()


@pytest.mark.parametrize("width", [40, 66])
def test_values_are_whole_on_a_narrow_terminal(width):
    lines = drawn(show(True, [10], width=width))
    assert cells(lines, "residual")[0] == "1.0e-03 / 2.0e-03"
    assert cells(lines, "loss")[0] == "1.7811"


def test_quiet_shows_nothing():
    assert show(True, [5, 10], quiet=True) == ""
    assert show(False, [5, 10], quiet=True) == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_display_that_cannot_be_written_to_ends_no_run(terminal):
    show(terminal, [5, 10], file=Broken())


@pytest.mark.parametrize("terminal", [False, True])
def test_the_first_failure_of_a_display_is_kept(terminal):
    console = Console(file=Broken(), force_terminal=terminal, width=100, _environ={})
    with progress_bar(10, console=console) as bar:
        bar.update(10, {})
    assert isinstance(bar.failure, OSError)


def test_terminal_without_unicode_gets_plain_lines():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, force_terminal=True, width=100, _environ={})
    with progress_bar(10, 2, console=console) as bar:
        bar.update(10, TRAINING)
    assert file.buffer.getvalue().startswith(b"step 10/10  loss")


class Stream(io.StringIO):
    """Standard output of a notebook's kernel."""


Stream.__module__ = "ipykernel.iostream"


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook is given to show below a cell, from the first to the last."""
    shown = []

    class Handle:
        def update(self, content, raw):
            assert raw
            shown.append(content)

    def display(content, raw, display_id):
        Handle().update(content, raw)
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def notebook(file):
    return Console(file=file, force_jupyter=True, _environ={})


def test_a_notebook_redraws_one_table_below_the_cell(displayed):
    stream = Stream()
    with progress_bar(10, 2, console=notebook(stream)) as bar:
        bar.update(5, TRAINING)
        bar.validated(5, VALIDATION)
    assert len(displayed) == 3  # at the start, after the validation, at the end
    lines = [line.rstrip() for line in displayed[-1]["text/plain"].splitlines()]
    assert "5/10" in lines[0]
    assert cells(lines, "loss, bits per byte") == ["1.7811", "1.9000"]
    assert displayed[-1]["text/html"].startswith("<pre")
    assert "1.9000" in displayed[-1]["text/html"]
    assert stream.getvalue() == ""


def test_a_notebook_that_catches_the_output_gets_plain_lines(displayed):
    file = io.StringIO()
    with progress_bar(10, 2, console=notebook(file)) as bar:
        bar.update(10, TRAINING)
    assert file.getvalue().startswith("step 10/10  loss")
    assert displayed == []


def test_fast_steps_are_not_all_drawn(monkeypatch):
    monkeypatch.setattr(_progress, "_REDRAW", 3600.0)
    shown = show(True, range(3, 10), metrics={"loss": 1.0})
    assert "3/10" in shown
    assert "8/10" not in shown
    assert "9/10" in shown  # on leaving
