"""The README does not lie: its snippets run and its commands exist."""

import re
import shlex

import pytest

from deqjax import cli
from readme import README, command

TEXT = README.read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippet_runs(index):
    exec(compile(SNIPPETS[index], f"README snippet {index}", "exec"), {"__name__": "readme"})


def test_there_are_snippets():
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("name", ["train", "tests"])
def test_commands_start_from_a_clone_without_environment(name):
    assert command(name).startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_options_it_names_exist(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", str(README.parent / "experiments" / "stdlib_lm.py"), "--help"])
    listed = capsys.readouterr().out
    lines = [line for line in command("use").splitlines() if " train " in line]
    assert lines
    named = {word for word in re.findall(r"`(--[^`]+)`", TEXT) for word in shlex.split(word)}
    options = {word for word in named if word.startswith("--")}
    assert {"--penalty.weight", "--model.kind", "--devices", "--workdir", "--resume"} <= options
    for option in options:
        assert option in listed


def test_linked_files_exist():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        if "://" not in link:
            assert (README.parent / link).exists(), link
