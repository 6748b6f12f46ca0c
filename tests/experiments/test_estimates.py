"""The table of estimates: calls of a command, gathered."""

import importlib
import json
import shlex
import subprocess
import sys

import pytest
from test_experiments import ROOT

from deqjax import cli
from deqjax.cli._estimate import Estimate


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("estimates")
    for name in ("estimates", "side_by_side"):
        sys.modules.pop(name, None)


def test_every_plan_is_a_command(module, monkeypatch):
    monkeypatch.chdir(ROOT.parent)
    assert len(module.PLANS) == 10
    for words in module.PLANS.values():
        assert isinstance(cli.parse(["estimate", *words]), Estimate)


def answer(words, **_):
    """What a command would print: a plan that fits where the state is divided."""
    fits = "sharded" in words
    found = {
        "parameters": 10**9,
        "rows": 64,
        "target": "v5e:4x4",
        "parallel": "sharded" if fits else "pmap",
        "memory": {"total": 5 * 2**30 if fits else 21 * 2**30, "room": 2**34, "fits": fits},
        "flop": {"forward": 1e12, "backward": 2e12},
        "seconds": {"total": 0.125} if fits else None,
    }
    return subprocess.CompletedProcess(words, 0, stdout=json.dumps(found))


def test_the_table_of_estimates_is_gathered(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module.subprocess, "run", answer)
    module.main(["1b pmap", "--out", str(tmp_path)])
    module.main(["1b sharded", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    [refused] = [line for line in lines[len(lines) // 2 :] if "1b pmap" in line]
    [fitting] = [line for line in lines if "1b sharded" in line]
    assert "21.00" in refused
    assert "no" in refused
    assert "0.125" in fitting
    assert "yes" in fitting
    record = json.loads((tmp_path / "estimate.json").read_text())
    assert list(record["results"]) == ["1b pmap", "1b sharded"]
    assert record["versions"].keys() >= {"jax", "python"}
    command = record["results"]["1b sharded"]["command"]
    assert shlex.split(command)[:2] == ["deqjax", "estimate"]
    with pytest.raises(SystemExit):
        module.main(["2b"])
