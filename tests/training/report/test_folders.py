"""A list of runs: how far they are, and their last loss."""

import os
import time
from pathlib import Path

import pytest

from deqjax import cli
from deqjax.training import WorkdirError, compare_runs, list_runs
from deqjax.training._lock import Lock
from deqjax.training._workdir import saved_steps
from run_folders import leave_run, validation


@pytest.fixture
def folder(tmp_path):
    """A finished run, one in a folder below that was written to before, one that is damaged."""
    leave_run(tmp_path / "done", validation(400, 1.5, bits_per_byte=2.25), checkpoints=[400])
    below = leave_run(tmp_path / "sweep" / "seed=1", validation(200, 1.25), checkpoints=[250])
    long_ago = time.time() - 1e6
    for name in ("metrics.jsonl", "config.json"):
        os.utime(below / name, (long_ago, long_ago))
    (leave_run(tmp_path / "damaged") / "config.json").write_text("{")
    (tmp_path / "compilation-cache").mkdir()
    return tmp_path


def test_runs_are_found_below_and_the_newest_is_last(folder):
    found = list_runs(folder)
    names = [str(run.folder.relative_to(folder)) for run in found]
    assert names[0] == "sweep/seed=1"
    assert sorted(names[1:]) == ["damaged", "done"]
    by_name = dict(zip(names, found, strict=True))
    assert [by_name[n].finished for n in ("done", "sweep/seed=1", "damaged")] == [
        True,
        False,
        False,
    ]
    assert by_name["damaged"].figures is None
    assert "config.json is damaged" in by_name["damaged"].problem


def test_command_prints_a_line_for_each_run(folder, capsys):
    assert cli.main(["runs", str(folder)]) == 0
    printed = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in printed.splitlines() if line.startswith("│")]
    assert len(rows) == 3
    assert rows[0].startswith("│ sweep/seed=1 │ 200 of 400 │ 1.2500 │ ")
    assert rows[0].endswith("│ not finished │")
    assert any("│ 400 │ 2.2500 bits per byte │" in row for row in rows)
    assert "config.json is damaged" in printed.splitlines()[-1]


def test_a_run_that_a_process_has_is_running(folder, capsys):
    lock = Lock(folder / "sweep" / "seed=1")
    lock.acquire()
    try:
        assert [run.running for run in list_runs(folder)].count(True) == 1
        assert cli.main(["runs", str(folder)]) == 0
    finally:
        lock.release()
    assert "running" in capsys.readouterr().out
    assert not any(run.running for run in list_runs(folder))


def test_a_folder_without_runs_says_so(tmp_path, capsys):
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"there is no run in {tmp_path}.\n"
    assert len(list_runs(tmp_path)) == 0


def test_no_folder_is_said(tmp_path):
    with pytest.raises(WorkdirError, match="there is no folder"):
        list_runs(tmp_path / "none")


@pytest.mark.parametrize("look", [list_runs, compare_runs])
def test_names_that_no_folder_can_have_are_said(look):
    for name in ("a" * 300, "a\0b", "~no-such-user/x"):
        with pytest.raises(WorkdirError, match="cannot be used"):
            look(name)


def closed(monkeypatch, module, function, name):
    """Let a function of a module find a folder whose permissions allow nothing."""
    usual = getattr(module, function)

    def refuse(path, *rest):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *rest)

    monkeypatch.setattr(module, function, refuse)


def test_a_folder_that_cannot_be_looked_into_costs_no_other(folder, monkeypatch):
    (folder / "damaged" / "config.json").unlink()
    closed(monkeypatch, os, "scandir", "damaged")
    by_name = {run.folder.name: run for run in list_runs(folder)}
    assert by_name.keys() == {"done", "seed=1", "damaged"}
    assert by_name["damaged"].figures is None
    assert by_name["damaged"].problem


def test_checkpoints_that_cannot_be_looked_at_are_not_known(folder, monkeypatch, capsys):
    closed(monkeypatch, os, "listdir", "checkpoints")
    assert cli.main(["inspect", str(folder / "done")]) == 0
    assert "checkpoints on disk: not looked for" in capsys.readouterr().out
    assert "done" in [run.folder.name for run in list_runs(folder)]
    with pytest.raises(WorkdirError, match=r"checkpoints cannot be read \(Permission denied\)"):
        saved_steps(folder / "done" / "checkpoints")


def test_a_list_prints_itself(folder):
    found = list_runs(folder)
    assert "sweep/seed=1" in repr(found)
    assert "<td style='text-align:left'>done</td>" in found._repr_html_()
    assert found[-1].changed >= found[0].changed
