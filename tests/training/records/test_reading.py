"""Reading records back: what is damaged costs itself and nothing else."""

import json

import pytest

from deqjax import cli
from deqjax.training import compare_runs, list_runs, read_metrics
from deqjax.training._workdir import Workdir
from deqjax.training.records import has_record
from deqjax.training.records._metrics import MetricsWriter
from deqjax.training.report import inspect_run
from run_folders import leave_run, training, validation

GOOD = [{"step": 1, "split": "train", "loss": 2.0}, {"step": 2, "split": "train", "loss": 1.0}]
DAMAGED = {
    "half a line": b"{",
    "a list": b"[1]",
    "a number": b"3",
    "no split": b'{"step": 1}',
    "a word for a number": b'{"step": 1, "split": "train", "loss": "x"}',
    "nothing for a number": b'{"step": 1, "split": "train", "loss": null}',
    "an event without words": b'{"step": 1, "split": "event"}',
    "an infinite step": b'{"step": 1e999, "split": "train"}',
    "a step that is no number": b'{"step": NaN, "split": "train"}',
    "a step before the first": b'{"step": -1, "split": "train"}',
    "a step beyond all": b'{"step": 1e30, "split": "train"}',
    "too large a number": b'{"step": 1, "split": "train", "loss": 1' + 400 * b"0" + b"}",
    "too many digits": b'{"step": 1, "split": "train", "loss": ' + 5000 * b"1" + b"}",
    "brackets": 100_000 * b"[",
    "half a character": b'{"step": 1, "split": "event", "event": "\\ud800"}',
    "no text": b"\xff\xfe\x00",
}


def written(*lines):
    return b"".join(line + b"\n" for line in lines)


def good_lines():
    return [json.dumps(record).encode() for record in GOOD]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_costs_itself(tmp_path, name):
    first, last = good_lines()
    file, told = tmp_path / "metrics.jsonl", []
    file.write_bytes(written(first, DAMAGED[name], last))
    assert read_metrics(file, say=told.append) == GOOD
    [sentence] = told
    assert sentence.startswith(f"{file}: 1 line(s) are not a record of metrics")
    assert "are left out: 2 (the first begins with '" in sentence
    assert len(sentence) < len(str(file)) + 200


def test_blank_lines_are_no_loss(tmp_path):
    first, last = good_lines()
    (tmp_path / "metrics.jsonl").write_bytes(written(b"", first, b"  ", last, b""))
    told = []
    assert read_metrics(tmp_path / "metrics.jsonl", say=told.append) == GOOD
    assert told == []


def test_many_damaged_lines_are_told_of_in_one_sentence(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(written(*good_lines(), *[b"?"] * 7))
    told = []
    assert read_metrics(tmp_path / "metrics.jsonl", say=told.append) == GOOD
    assert "7 line(s)" in told[0]
    assert "3, 4, 5, 6, 7, ... (the first begins with '?')" in told[0]


def test_a_last_line_that_was_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(written(*good_lines()) + b'{"step": 3, "spl')
    told = []
    assert read_metrics(tmp_path / "metrics.jsonl", say=told.append) == GOOD
    assert "left out: 3" in told[0]


def test_a_run_goes_on_and_says_what_it_leaves_out(tmp_path):
    workdir, told = Workdir(tmp_path), []
    workdir.metrics.write_bytes(written(*DAMAGED.values(), *good_lines()))
    assert has_record(workdir.metrics, 2, "train")
    with MetricsWriter(workdir, 2, say=told.append) as writer:
        writer.write(3, "train", {"loss": 0.5})
    [sentence] = told
    assert f"{len(DAMAGED)} line(s)" in sentence
    assert read_metrics(workdir.metrics, say=told.append) == [
        *GOOD,
        {"step": 3, "split": "train", "loss": 0.5},
    ]
    assert len(told) == 1  # what was damaged is no longer there


@pytest.fixture
def folder(tmp_path):
    """Of a run with one damaged record."""
    run = leave_run(tmp_path / "run", training(10), validation(10, 1.5), checkpoints=[10])
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(written(DAMAGED["brackets"]))
    return run


@pytest.mark.parametrize("command", ["inspect", "compare", "runs"])
def test_commands_go_on_and_say_which_line_is_left_out(folder, command, capsys):
    assert cli.main([command, str(folder)]) == 0
    printed = capsys.readouterr()
    told = printed.out if command == "runs" else printed.err
    assert "1 line(s) are not a record of metrics and are left out: 3" in " ".join(told.split())
    assert "1.5" in printed.out


def test_the_same_for_users_of_the_library(folder):
    told = []
    assert inspect_run(folder, say=told.append).figures.steps == 10
    assert len(compare_runs(folder, say=told.append).runs) == 1
    assert len(told) == 2
    [run] = list_runs(folder)
    assert run.problem == told[0]
    assert run.figures is not None
