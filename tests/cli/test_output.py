"""Standard output that fails while a run trains."""

import io
import sys

import pytest

from deqjax import cli, training
from deqjax.cli._output import unfailing_output, watched_output
from deqjax.training import read_metrics


class Full(io.StringIO):
    """Standard output on a disk that is full."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_output_that_fails_is_told_of_and_swallowed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    failures = []
    with unfailing_output(failures.append):
        print("something")
    assert {error.errno for error in failures} == {28}


def test_what_a_terminal_cannot_say_is_spelt(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    with watched_output():
        print("a run in é, or \udcff")
    assert written.getvalue() == rb"a run in \xe9, or \udcff" + b"\n"


def test_output_closed_before_the_start_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["--version"]) == 0
    with unfailing_output(lambda error: pytest.fail(str(error))):
        print("something")


def test_a_run_whose_output_fails_notes_that(tmp_path, monkeypatch, capsys):
    file = tmp_path / "experiment.py"
    file.write_text(
        "import tiny_vision\ndef config(): return tiny_vision.tiny_vision('resnet', steps=2)\n"
    )
    monkeypatch.setattr(training, "keep_compiled_programs", lambda workdir: None)
    monkeypatch.setattr(sys, "stdout", Full())
    assert cli.main(["train", str(file), "--workdir", str(tmp_path / "run")]) == 0
    monkeypatch.undo()
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    events = [record["event"] for record in records if record["split"] == "event"]
    assert [event for event in events if "cannot be written" in event] == [
        "what the run says cannot be written (No space left on device); it goes on, and its "
        "records are complete."
    ]
    assert records[-1]["split"] == "validation"
    assert "Traceback" not in capsys.readouterr().err
