"""What a run would train on, told before there is one."""

import dataclasses

import grain
import numpy as np
import pytest

from deqjax.data import DataError
from deqjax.training import ConfigError, ExperimentError, RunConfig, Task, prepare


@dataclasses.dataclass(frozen=True)
class Numbers(Task):
    """Rows of one number, as many as a split has."""

    train: int = 40
    tested: bool = True
    streamed: bool = False

    def model(self, rngs):
        raise AssertionError("no model is needed to look at data")

    def data(self, split):
        if split == "test" and not self.tested:
            return None
        if split == "validation" and self.streamed:
            return grain.MapDataset.range(9).to_iter_dataset()
        return {"x": np.arange({"train": self.train}.get(split, 12))}

    def loss(self, model, batch):
        raise AssertionError("nothing is computed")


def numbers(batch_size=8, **fields):
    return RunConfig("numbers", task=Numbers(**fields), batch_size=batch_size)


def test_every_split_is_told():
    assert prepare(numbers()) == {"train": "40 rows", "validation": "12 rows", "test": "12 rows"}


def test_rows_may_be_a_stream():
    assert prepare(numbers(streamed=True))["validation"] == "a stream of rows"


def test_test_data_may_be_missing():
    assert prepare(numbers(tested=False))["test"] is None


class OnlyTraining(Numbers):
    def data(self, split):
        return super().data(split) if split == "train" else None


def test_validation_data_may_not():
    with pytest.raises(DataError, match=r"data\('validation'\) of OnlyTraining returns nothing"):
        prepare(RunConfig("numbers", task=OnlyTraining(), batch_size=8))


def test_too_few_rows_for_a_batch_are_told_before_the_run():
    with pytest.raises(DataError, match="--batch_size 64 is larger than the 40 training rows"):
        prepare(numbers(batch_size=64))


def test_a_configuration_that_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="--batch_size must be at least 1"):
        prepare(numbers(batch_size=0))


class Typo(Numbers):
    def data(self, split):
        return np.arrange(9)


def test_an_error_in_the_task_has_its_line():
    line = Typo.data.__code__.co_firstlineno + 1
    with pytest.raises(
        ExperimentError, match=rf"test_prepare_run\.py, line {line}: Attrib.*arrange"
    ):
        prepare(RunConfig("numbers", task=Typo()))
