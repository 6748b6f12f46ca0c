"""What commands print of scores: a task's own by their names, what everybody knows by its label."""

import math
import re
from pathlib import Path

from deqjax.cli._tables import print_depths, print_outcome, print_scores
from deqjax.training import DepthScore, Outcome, Workdir
from tiny import tiny_config


def printed(capsys):
    """Cells of the rows, the title of the table left out."""
    lines = capsys.readouterr().out.splitlines()
    return [
        [cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if "│" in line
    ]


def test_scores_of_any_task_are_shown_by_their_names(capsys):
    metrics = {
        "loss": 1.5,
        "forward_steps": 3.0,
        "my_score": 0.25,
        "top1": 0.5,
        "f1/cat": 0.75,
        "f1/dog": math.nan,
        "scored": 64.0,
    }
    print_scores("a run", metrics)
    assert printed(capsys) == [
        ["loss", "1.5000"],
        ["my score", "0.25"],
        ["accuracy", "50.00%"],
        ["scored", "64"],
        ["solver steps, mean", "3.0"],
        ["cat", "0.7500"],
        ["dog", "does not occur"],
    ]


def test_bytes_are_told_in_bits_alone(capsys):
    print_scores("a run", {"loss": 1.5, "bits_per_byte": 2.25})
    assert printed(capsys) == [["bits per byte", "2.2500"]]


def test_scores_of_each_depth(capsys):
    scores = [DepthScore(depth, 1.0 / depth, 0.5, {"my_score": depth / 8}) for depth in (1, 2)]
    print_depths("a run", scores)
    assert printed(capsys) == [
        ["1", "0.125", "1.0000", "5.0e-01"],
        ["2", "0.25", "0.5000", "5.0e-01"],
    ]


def test_names_are_no_markup(capsys):
    print_depths("[/b]", [DepthScore(1, 1.0, 0.5, {"[red]score": 0.5, "[/b]": 0.25})])
    print_scores("[/b]", {"loss": 1.0, "[red]score": 0.5, "f1/[/b]": 0.25})
    shown = capsys.readouterr().out
    for name in ("[red]score", "[/b]"):
        assert shown.count(name) >= 2


def test_a_stopped_run_tells_the_whole_command_that_goes_on(capsys):
    stopped = Outcome(Workdir(Path("runs/a b")), 7, 1, None, 1.0, None)
    words = ["mine.py", "--workdir", "runs/a b", "--task.noise", "0.5", "--resume"]
    print_outcome(stopped, tiny_config("data"), words)
    command = "deqjax train mine.py --task.noise 0.5 --workdir 'runs/a b' --resume"
    assert capsys.readouterr().out.strip().endswith(f"Continue with: {command}")
