"""Several runs one after the other: finished ones are kept, stopped ones resumed."""

import dataclasses
import re
import signal

import pytest

from deqjax import cli, training
from deqjax.training import ConfigError, DivergenceError, WorkdirError, _sweep
from deqjax.training._config_values import to_dict
from run_folders import leave_run, validation
from tiny_vision import tiny_vision

EXPERIMENT = "import tiny_vision\ndef config(): return tiny_vision.tiny_vision('resnet', steps=2)\n"


class Trained:
    """Stands in for `train`: leaves folders, and notes which they are and what was resumed."""

    def __init__(self):
        self.calls = []
        self.diverges, self.stops = (), ()

    def __call__(self, config, workdir, *, resume, say):
        self.calls.append((workdir.name, resume))
        if workdir.name in self.diverges:
            leave_run(workdir, config=to_dict(config))
            raise DivergenceError("not finite for 10 steps.")
        stopped = signal.SIGTERM if workdir.name in self.stops else None
        step = 1 if stopped else config.steps
        leave_run(workdir, validation(step, 1.5), checkpoints=[step], config=to_dict(config))
        where = training.Workdir(workdir)
        return training.Outcome(where, step, 9, None if stopped else {}, 1.0, stopped)


@pytest.fixture
def trained(monkeypatch):
    found = Trained()
    monkeypatch.setattr(_sweep, "train", found)
    return found


def seeds(*numbers, **changes):
    config = tiny_vision("resnet", **changes)
    return {f"seed={seed}": dataclasses.replace(config, seed=seed) for seed in numbers}


def test_command_trains_each_value_compares_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_sweep.py").write_text(EXPERIMENT)
    command = ["sweep", "tiny_sweep.py", "--log-every", "1", "--seed", "0", "1"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(r"│ seed=1 +│ +1 │ +2 │", printed)
    assert "run 2 of 2, seed=1\n" in printed
    assert (tmp_path / "runs" / "tiny_vision-sweep" / "comparison.png").exists()
    assert cli.main(command) == 0
    assert "run 2 of 2, seed=1: finished before\n" in capsys.readouterr().out


def test_what_has_finished_is_kept_and_what_was_stopped_goes_on(tmp_path, trained):
    trained.stops = ("seed=1",)
    first = training.sweep(seeds(0, 1, 2), tmp_path)
    assert first.stopped_by == signal.SIGTERM
    assert [run.name for run in first.comparison.runs] == ["seed=0", "seed=1"]
    trained.stops = ()
    second = training.sweep(seeds(0, 1, 2), tmp_path)
    assert second.stopped_by is None
    assert trained.calls == [
        ("seed=0", False),
        ("seed=1", False),
        ("seed=1", True),
        ("seed=2", False),
    ]
    assert [run.name for run in second.comparison.runs] == ["seed=0", "seed=1", "seed=2"]
    assert "seed=2" in repr(second)


def test_more_steps_go_on_with_what_has_finished(tmp_path, trained):
    training.sweep(seeds(0, steps=4), tmp_path)
    training.sweep(seeds(0, steps=6), tmp_path)
    assert trained.calls == [("seed=0", False), ("seed=0", True)]


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path, trained):
    trained.diverges, said = ("seed=0",), []
    found = training.sweep(seeds(0, 1), tmp_path, say=said.append)
    assert found.diverged == ("seed=0",)
    assert "seed=0 is given up: not finite for 10 steps." in said
    assert [name for name, _ in trained.calls] == ["seed=0", "seed=1"]


@pytest.mark.parametrize(
    ("trouble", "status"), [({"diverges": ("seed=1",)}, 1), ({"stops": ("seed=0",)}, 0)]
)
def test_status_tells_how_the_sweep_ended(trouble, status, tmp_path, trained):
    (tmp_path / "tiny_sweep.py").write_text(EXPERIMENT)
    vars(trained).update(trouble)
    words = ["sweep", str(tmp_path / "tiny_sweep.py"), "--workdir", str(tmp_path / "runs")]
    assert cli.main([*words, "--seed", "0", "1"]) == status


def test_what_cannot_work_is_refused_before_anything_is_trained(tmp_path, trained):
    runs = seeds(0) | {"bad": tiny_vision("resnet", steps=0)}
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        training.sweep(runs, tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        training.sweep({}, tmp_path)
    assert trained.calls == []


def test_a_finished_run_of_another_configuration_is_refused(tmp_path, trained):
    training.sweep(seeds(0), tmp_path)
    with pytest.raises(WorkdirError, match=r"finished run of another .*log_every: 2 -> 1"):
        training.sweep(seeds(0, log_every=1), tmp_path)
    assert len(trained.calls) == 1
