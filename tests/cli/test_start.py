"""What the command line does before and after a command: it starts light and ends quietly."""

import io
import os
import subprocess
import sys

import pytest

from deqjax import cli
from deqjax.cli._sweep import combinations


def python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, **options
    ).stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect", "--help"], ["trian"]])
def test_what_needs_no_jax_does_not_wait_for_it(arguments):
    code = f"import sys, deqjax.cli; deqjax.cli.main({arguments}); print('jax' in sys.modules)"
    assert python(code).splitlines()[-1] == "False"


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    name, number = capsys.readouterr().out.split()
    assert name == "deqjax"
    assert number[0].isdigit()


def test_no_command_lists_them(capsys):
    assert cli.main([]) == 2
    printed = capsys.readouterr().out
    for name in ("train", "prepare", "sweep", "runs", "inspect", "compare", "evaluate", "generate"):
        assert f"• {name} " in printed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell, tmp_path):
    file = tmp_path / "completion"
    assert cli.main(["--tyro-write-completion", shell, str(file)]) == 0
    written = file.read_text()
    for word in ("compare", "evaluate", "compare-warm-start"):
        assert word in written


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evalute", "x"], "there is no command 'evalute'; did you mean evaluate?"),
        (["runs", "--foldr"], "there is no option '--foldr'"),
        (["evaluate", "x", "--splt", "test"], "did you mean --split? (deqjax evaluate --help"),
        (["inspect", "x", "y"], "there is no option 'y'."),
        (["compare"], "compare needs the folders of runs: deqjax compare runs/*"),
        (["sweep", "--steps", "1"], "sweep needs an experiment's file first"),
        (["runs", ""], "a path is empty; name a file or a folder, the current one as a dot."),
        (["compare", ".", ""], "a path is empty"),
        (["inspect", ""], "a path is empty"),
        (["evaluate", "x", "--overlays="], "a path is empty"),
        (["train", ""], "a path is empty"),
        (["evaluate", "x", "--devices", "0"], "--devices must be from 1 to 1024, got 0."),
        (["evaluate", "x", "--devices", "1025"], "--devices must be from 1 to 1024, got 1025."),
    ],
)
def test_a_line_that_makes_no_sense_gets_a_sentence(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("deqjax: error: ")
    assert sentence in line


def test_a_missing_prompt_is_a_usage_error(capsys):
    assert cli.main(["generate", "runs/x"]) == 2
    assert "PROMPT" in capsys.readouterr().err


def test_nobody_reads_the_output():
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:
        command = [sys.executable, "-m", "deqjax", "--help"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


class Closed(io.StringIO):
    """Standard output after `| head -1` has seen its line."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_closed_pipe_ends_no_command_with_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_said(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["--version"]) == 1
        monkeypatch.undo()
    assert "output cannot be written to (No space left on device)" in capsys.readouterr().err


def test_every_combination_of_values_is_a_run():
    found = combinations(["--penalty.weight", "0", "0.3", "--steps", "9", "--seed", "0", "1"])
    assert list(found) == [
        "penalty.weight=0,seed=0",
        "penalty.weight=0,seed=1",
        "penalty.weight=0.3,seed=0",
        "penalty.weight=0.3,seed=1",
    ]
    last = " ".join(found["penalty.weight=0.3,seed=1"])
    assert last == "--penalty.weight 0.3 --steps 9 --seed 1"


def test_values_of_several_words_and_paths_make_folders():
    found = combinations(["--task.text.file", "a/b.txt", "-1", "--sizes", "4 4", "8 8", "--flag"])
    assert list(found)[:2] == [
        "task.text.file=a_b.txt,sizes=4_4",
        "task.text.file=a_b.txt,sizes=8_8",
    ]
    assert list(found.values())[-1] == ["--task.text.file", "-1", "--sizes", "8", "8", "--flag"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seed", "0"], "needs an option with several values"),
        (["0", "--seed"], "'0' belongs to no option"),
        (["--seed", "1", "1"], "two runs of this sweep would be called seed=1"),
        (["--name", "a" * 300, "b"], "is too long"),
        (["--name", "'a", "b"], "closing quotation"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(words, sentence):
    with pytest.raises(cli.UsageError, match=sentence):
        combinations(words)
