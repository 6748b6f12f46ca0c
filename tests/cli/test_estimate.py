"""``deqjax estimate``: what a step will need, as tables or as JSON."""

import json
from pathlib import Path

import pytest

from deqjax import cli
from tiny import TINY_OPTIONS

EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "stdlib_lm.py")
TINY = [
    *TINY_OPTIONS,
    *("--task.network.shape.vocabulary", "256"),
    *("--task.network.solver.method", "picard", "--task.network.solver.backward-method", "picard"),
]


def test_it_tells_what_a_step_needs(capsys):
    assert cli.main(["estimate", EXPERIMENT, *TINY]) == 0
    printed = capsys.readouterr()
    assert "stdlib_lm: " in printed.out
    assert "4 rows a step, pmap on 4 devices (cpu)" in printed.out
    assert "Planned for this CPU" in printed.out
    for words in ("state and batch", "backward", "penalty", "optimizer", "all-reduce"):
        assert words in printed.out
    assert printed.err == ""
    assert cli.main(["estimate", EXPERIMENT, *TINY, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "cpu"
    assert found["memory"]["total"] > 12 * found["parameters"]
    assert found["flop"]["forward"] > 0
    assert found["collectives"][0]["looping"] is False


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--topology", "v7:2x2"], 1, "there is no chip 'v7'"),
        (["--topology", "v5e:2x4", "--devices", "2"], 2, "drop --devices"),
        (["--batch-size", "6"], 1, "cannot be shared evenly by 4 devices"),
        (["--topolgy", "v5e:2x4"], 2, "did you mean --topology?"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(options, status, sentence, capsys):
    assert cli.main(["estimate", EXPERIMENT, *TINY, *options]) == status
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line
