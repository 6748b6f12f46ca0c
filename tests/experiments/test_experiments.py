import dataclasses
from pathlib import Path

import pytest

from deqjax import training
from deqjax._experiments import load_experiment
from tiny import tiny_config

ROOT = Path(__file__).parents[2] / "experiments"
EXPERIMENTS = sorted(p for p in ROOT.glob("*.py") if "def config(" in p.read_text())


def test_there_are_experiments():
    assert EXPERIMENTS


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_experiment_states_command_hardware_time_and_expectation(file):
    header = file.read_text().split('"""')[1]
    for heading in ("Command:", "Hardware:", "Time:", "Expected:"):
        assert heading in header


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_experiment_trains_one_tiny_step(file, tmp_path):
    config = load_experiment(file)
    tiny = tiny_config(tmp_path / "datasets", steps=1)
    shape = tiny.model.shape
    config = dataclasses.replace(
        config,
        steps=1,
        model=dataclasses.replace(config.model, shape=shape),
        data=tiny.data,
        evaluation=tiny.evaluation,
    )
    outcome = training.train(config, tmp_path / "run", say=lambda line: None)
    assert outcome.step == 1
