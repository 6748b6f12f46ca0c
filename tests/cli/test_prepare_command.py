"""``deqjax prepare``: what an experiment would train on, and what is missing."""

import pytest

from deqjax import cli

EXPERIMENT = """
from deqjax.tasks.language import LanguageTask, Text
from deqjax.training import RunConfig

def config():
    return RunConfig("mine", task=LanguageTask(text=Text("text_characters", file="mine.txt")))
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    return tmp_path


def prepared(*options):
    return cli.main(["prepare", "mine.py", "--task.text.directory", "datasets", *options])


def test_it_says_what_there_is_and_begins_no_run(experiment, capsys):
    (experiment / "mine.txt").write_text("to be or not to be\n" * 1000)
    assert prepared() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "train: 17,100 characters of text",
        "validation: 1,900 characters of text",
        "test: none",
    ]
    # the text lies there prepared, and nothing else
    assert {each.name for each in experiment.iterdir()} - {"__pycache__"} == {
        "datasets",
        "mine.py",
        "mine.txt",
    }


def test_options_are_those_of_training(experiment, capsys):
    (experiment / "other.txt").write_text("abc\n" * 1000)
    assert prepared("--task.text.file", "other.txt", "--batch-size", "2") == 0
    assert "train: 3,600 characters of text" in capsys.readouterr().out
    assert prepared("--task.text.fil", "other.txt") == 2
    assert "did you mean --task.text.file? (deqjax prepare mine.py" in capsys.readouterr().err


def test_what_is_missing_is_a_sentence(experiment, capsys):
    assert prepared() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("deqjax: error: ")
    assert "mine.txt" in line


def test_a_text_with_too_few_windows_is_told_before_the_run(experiment, capsys):
    (experiment / "mine.txt").write_text("to be or not to be\n" * 10)
    assert prepared() == 1
    assert "larger than the 2 windows of length 64" in capsys.readouterr().err


def test_it_needs_a_file(capsys):
    assert cli.main(["prepare"]) == 2
    assert "prepare needs an experiment's file first" in capsys.readouterr().err
