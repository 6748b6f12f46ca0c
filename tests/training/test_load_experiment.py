"""Whatever is wrong in an experiment's file is one sentence that says where."""

import re
import subprocess
import sys

import cloudpickle
import pytest

from deqjax.training import ExperimentError, RunConfig, load_experiment
from deqjax.training._experiments import import_file

GOOD = """
import dataclasses
from deqjax.training import RunConfig, PenaltyConfig
from deqjax.tasks.language import LanguageTask

def config():
    return RunConfig(
        name="good",
        task=LanguageTask(),
        penalty=PenaltyConfig(weight=0.5),
    )
"""


def refused(tmp_path, text, name="mine.py"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExperimentError) as caught:
        load_experiment(file)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(str(file)) or str(file) in sentence
    return sentence


def test_a_file_builds_its_configuration(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    config = load_experiment(tmp_path / "good.py")
    assert isinstance(config, RunConfig)
    assert config.penalty.weight == 0.5


def test_another_process_gets_what_a_file_defines(tmp_path):
    """As processes that prepare batches do, which have never read the file."""
    file = tmp_path / "rows.py"
    file.write_text(f"{GOOD}\nclass Rows:\n    def __len__(self):\n        return 7\n")
    rows = sys.modules[import_file(file).__name__].Rows()
    script = "import pickle, sys; print(len(pickle.loads(sys.stdin.buffer.read())))"
    found = subprocess.run(
        [sys.executable, "-c", script],
        input=cloudpickle.dumps(rows),
        capture_output=True,
        check=True,
    )
    assert found.stdout == b"7\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("return RunConfig(", "return RunConfig((", 7, "SyntaxError: '(' was never closed."),
        ("def config():\n    ", "def config():\n", 7, "IndentationError: expected an indented"),
        ("RunConfig, Pen", "RunConfg, Pen", 3, "cannot import name 'RunConfg'"),
        (
            "return RunConfig",
            "return RunConfg",
            7,
            "NameError: name 'RunConfg' is not defined.",
        ),
        ("weight=0.5", "wieght=0.5", 10, "unexpected keyword argument 'wieght'"),
        ("weight=0.5", "weight='much'", 10, "penalty.weight: input should be a valid number, got"),
        ('name="good"', 'name="good", steps=2.5', 8, "steps: input should be a valid integer"),
        ("return RunConfig(", "1 / 0; return RunConfig(", 7, "ZeroDivisionError: division"),
        ("def config", "raise SystemExit(3)\ndef config", 6, "SystemExit: 3."),
        ("task=LanguageTask(),", "", 7, "missing 1 required positional argument: 'task'"),
        (
            "LanguageTask()",
            "LanguageTask(network='deq')",
            9,
            "task.network: input should be an object",
        ),
        ("import dataclasses", "import dataklasses", 2, "No module named 'dataklasses'."),
    ],
)
def test_what_is_wrong_is_told_with_its_line(old, new, line, said, tmp_path):
    assert old in GOOD
    sentence = refused(tmp_path, GOOD.replace(old, new, 1))
    assert sentence.startswith(f"{tmp_path / 'mine.py'}, line {line}: ")
    assert said in sentence


def test_the_line_is_that_of_the_file_that_is_wrong(tmp_path):
    (tmp_path / "base.py").write_text("def config():\n    return nothing\n")
    text = (
        "from pathlib import Path\nfrom deqjax.training import load_experiment\n"
        "def config():\n    return load_experiment(Path(__file__).with_name('base.py'))\n"
    )
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ExperimentError, match=r"base\.py, line 2: NameError"):
        load_experiment(tmp_path / "mine.py")


def test_modules_beside_the_file_are_found(tmp_path):
    (tmp_path / "beside_mine.py").write_text("NAME = 'from beside'\n")
    text = GOOD.replace('name="good"', "name=beside_mine.NAME")
    (tmp_path / "mine.py").write_text(f"import beside_mine\n{text}")
    assert load_experiment(tmp_path / "mine.py").name == "from beside"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no function config()"),
        ("config = 3", "has no function config()"),
        ("def config(): return {}", "returns a dict, not a deqjax.training.RunConfig"),
        ("def config(needed): pass", "missing 1 required positional argument: 'needed'"),
        (b"\xff\xfe", "codec can't decode byte"),
        (b"\0", "null bytes"),
    ],
    ids=["empty", "no function", "no config", "argument", "no text", "null"],
)
def test_a_file_that_is_no_experiment(text, said, tmp_path):
    assert said in refused(tmp_path, text)


def test_a_file_of_another_kind(tmp_path):
    assert "its name must end in .py" in refused(tmp_path, "", name="mine.txt")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("experiments/stdlb_lm.py", "experiments/stdlib_lm.py"),
        ("experiments/stdlib_lm", "experiments/stdlib_lm.py"),
        ("stdlib_lm.py", "experiments/stdlib_lm.py"),
        ("mien.py", "mine.py"),
    ],
)
def test_a_misspelled_file_gets_the_nearest(given, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    for name in ("experiments/stdlib_lm.py", "experiments/other.py", "mine.py"):
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "experiments" / "stdlib_lm_plot.py").write_text("no experiment")
    with pytest.raises(ExperimentError, match=re.escape(f"did you mean {meant}?")):
        load_experiment(given)


def test_a_name_like_no_other_gets_the_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(GOOD)
    with pytest.raises(ExperimentError, match=r"found here: mine\.py"):
        load_experiment("something_else_altogether.py")
    with pytest.raises(ExperimentError, match="is a folder"):
        load_experiment(tmp_path)
