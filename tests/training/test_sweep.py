"""Several runs one after the other: finished ones are kept, stopped ones resumed."""

import dataclasses
import re

import pytest

from deqjax import cli, training
from deqjax.training import ConfigError, DivergenceError, WorkdirError, _sweep
from tiny_vision import tiny_vision

EXPERIMENT = "import tiny_vision\ndef config(): return tiny_vision.tiny_vision('resnet', steps=2)\n"


@pytest.fixture
def trained(monkeypatch):
    """The folders that were trained in, and whether they were resumed; training is real."""
    calls = []
    real = _sweep.train

    def train(config, workdir, *, resume, say):
        calls.append((workdir.name, resume))
        return real(config, workdir, resume=resume, say=say)

    monkeypatch.setattr(_sweep, "train", train)
    return calls


def seeds(*numbers, **changes):
    config = tiny_vision("resnet", **({"steps": 2} | changes))
    return {f"seed={seed}": dataclasses.replace(config, seed=seed) for seed in numbers}


def test_command_trains_each_value_compares_and_goes_on(tmp_path, monkeypatch, trained, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_sweep.py").write_text(EXPERIMENT)
    command = ["sweep", "tiny_sweep.py", "--log-every", "1", "--seed", "0", "1"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert trained == [("seed=0", False), ("seed=1", False)]
    assert re.search(r"│ seed=1 +│ +1 │ +2 │", printed)
    assert "run 2 of 2, seed=1\n" in printed
    assert (tmp_path / "runs" / "tiny_vision-sweep" / "comparison.png").exists()

    assert cli.main([*command, "2"]) == 0  # a value more
    assert trained[2:] == [("seed=2", False)]
    assert "run 1 of 3, seed=0: finished before" in capsys.readouterr().out

    longer = [word if word != "--log-every" else "--steps" for word in command]
    longer[longer.index("--steps") + 1] = "3"
    assert cli.main([*longer[:4], "--log-every", "1", *longer[4:]]) == 0
    assert trained[3:] == [("seed=0", True), ("seed=1", True)]


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path, monkeypatch):
    said = []

    def train(config, workdir, *, resume, say):
        if config.seed == 0:
            raise DivergenceError("not finite for 10 steps.")
        return training.train(config, workdir, resume=resume, say=say)

    monkeypatch.setattr(_sweep, "train", train)
    found = training.sweep(seeds(0, 1), tmp_path, say=said.append)
    assert found.diverged == ("seed=0",)
    assert "seed=0 is given up: not finite for 10 steps." in said
    assert [run.name for run in found.comparison.runs] == ["seed=1"]
    assert "seed=1" in repr(found)


def test_a_stop_ends_the_sweep(tmp_path, monkeypatch):
    def stopped(config, workdir, *, resume, say):
        outcome = training.train(config, workdir, resume=resume, say=say)
        return outcome._replace(stopped_by=2, metrics=None)

    monkeypatch.setattr(_sweep, "train", stopped)
    found = training.sweep(seeds(0, 1), tmp_path)
    assert found.stopped_by == 2
    assert [run.name for run in found.comparison.runs] == ["seed=0"]


def test_what_cannot_work_is_refused_before_anything_is_trained(tmp_path, trained):
    runs = seeds(0) | {"bad": tiny_vision("resnet", steps=0)}
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        training.sweep(runs, tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        training.sweep({}, tmp_path)
    assert trained == []


def test_a_finished_run_of_another_configuration_is_refused(tmp_path, trained):
    training.sweep(seeds(0), tmp_path)
    with pytest.raises(WorkdirError, match=r"finished run of another .*log_every: 2 -> 1"):
        training.sweep(seeds(0, log_every=1), tmp_path)
    assert len(trained) == 1
