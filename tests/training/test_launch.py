"""Starts that fail leave nothing behind; starts that go well find their own folder."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from deqjax import training
from deqjax.data import DataError
from deqjax.training._claim import Claim, Request
from deqjax.training._config_values import to_dict
from deqjax.training._workdir import Workdir
from tiny import tiny_config, with_parts
from tiny_vision import tiny_vision


def silent(line):
    del line


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def quick(**changes):
    base = tiny_vision("resnet", steps=2, checkpoint_every=2, log_every=2)
    base = with_parts(
        base, evaluation__every=100, evaluation__batches=1, evaluation__final_batches=1
    )
    return dataclasses.replace(base, **changes)


def without_data(path):
    return with_parts(
        tiny_config(path),
        task__text__corpus="text_bytes",
        task__text__file=str(path / "absent.txt"),
    )


@pytest.mark.parametrize("workdir", [None, "runs/deep/run"])
def test_missing_data_leave_nothing_behind(here, tmp_path, workdir):
    with pytest.raises(DataError, match=r"absent.txt"):
        training.train(without_data(tmp_path), workdir, say=silent)
    assert list(here.iterdir()) == []


@dataclasses.dataclass(frozen=True)
class Unevaluated(training.Task):
    """Rows that train, and others that do not go with the model to evaluate."""

    rows: int | None = None

    def model(self, rngs):
        return nnx.Linear(2, 1, rngs=rngs)

    def data(self, split):
        if split == "train":
            return {"x": np.ones((8, 2), np.float32)}
        return None if self.rows is None else {"x": np.ones((8, self.rows), np.float32)}

    def loss(self, model, batch):
        return training.Loss(model(batch["x"])[:, 0] ** 2)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [(None, "returns nothing; return rows"), (3, r"test_launch\.py, line \d+")],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_trained(here, rows, sentence):
    config = training.RunConfig("own", task=Unevaluated(rows), batch_size=8, steps=4)
    with pytest.raises((DataError, training.ExperimentError), match=sentence):
        training.train(config, say=silent)
    assert list(here.iterdir()) == []


def test_devices_that_cannot_share_the_batch_leave_nothing_behind(here):
    with pytest.raises(training.ReplicaError, match="cannot be shared evenly"):
        training.train(quick(), devices=jax.local_devices()[:3], say=silent)
    assert list(here.iterdir()) == []


def test_a_wrong_configuration_leaves_nothing_behind(here):
    with pytest.raises(training.ConfigError, match="steps"):
        training.train(quick(steps=0), say=silent)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("base", "changes", "sentence"),
    [
        (
            quick,
            {"pretrain_steps": 5},
            "--pretrain_steps 5 warms up an equilibrium model; this one has no equilibrium layer",
        ),
        (
            tiny_vision,
            {"step_limit__least": 5},
            "--step_limit.least 5 is above the step limit 4 of the layer",
        ),
    ],
    ids=["pretrain", "least"],
)
def test_options_that_the_model_has_no_use_for_leave_nothing_behind(here, base, changes, sentence):
    with pytest.raises(training.ConfigError, match=sentence):
        training.train(with_parts(base(), **changes), say=silent)
    assert list(here.iterdir()) == []


def test_runs_without_a_name_get_one_each_and_the_newest_goes_on(here, compiled_once):
    config = quick()
    with (
        compiled_once(),
        Claim(Workdir.at(f"runs/{config.name}"), Request(config.name, to_dict(config))) as claim,
    ):
        second = training.train(config, say=silent)
        assert second.workdir.path.name == f"{config.name}-2"
        claim.begin({})
        # what may change is written down only once the run goes on
        before = second.workdir.config.read_bytes()
        with pytest.raises(training.ConfigError, match="has finished its 2 steps"):
            training.train(quick(keep_checkpoints=7), resume=True, say=silent)
        assert second.workdir.config.read_bytes() == before
        longer = training.train(quick(steps=3), resume=True, say=silent)
        assert longer.workdir == second.workdir
    assert json.loads(longer.workdir.config.read_text())["config"]["steps"] == 3
    assert not (longer.workdir.path / "lock").exists()
