"""A task's data come down to batches, whatever kind they are; else a sentence says why not."""

import dataclasses
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.data import DataError
from deqjax.training import BatchOrder, ExperimentError, Task
from deqjax.training.batches._data import Data, pipeline_of
from deqjax.training.batches._rows import NumberedRows, rows_of_arrays
from deqjax.training.batches._streamed_rows import StreamedRows

X, Y = np.arange(6.0, dtype=np.float32), np.arange(12, dtype=np.int32).reshape(6, 2)
LIST = [(X[number], Y[number]) for number in range(6)]


class Source:
    """What TFDS hands out."""

    def __len__(self):
        return 6

    def __getitem__(self, number):
        return LIST[number]


KINDS = {
    "tuple": (X, Y),
    "JAX": (jnp.asarray(X), jnp.asarray(Y)),
    "list of rows": LIST,
    "source": Source(),
    "MapDataset": grain.MapDataset.source(LIST),
    "IterDataset": grain.MapDataset.source(LIST).to_iter_dataset(),
    "pipeline": rows_of_arrays((X, Y)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_the_same_batches(kind):
    rows = pipeline_of(KINDS[kind])
    order = BatchOrder(2, shuffled=False)
    batches = rows.train(order)
    trained = [next(batches).rows for _ in range(3)]
    evaluated = [batch.rows for batch in rows.evaluate(order)]
    for found in (trained, evaluated):
        xs, ys = (np.concatenate(leaves) for leaves in zip(*found, strict=True))
        np.testing.assert_array_equal(xs, X)
        np.testing.assert_array_equal(ys, Y)
        assert (xs.dtype, ys.dtype) == (X.dtype, Y.dtype)


def test_a_dictionary_keeps_its_names():
    (batch,) = pipeline_of({"x": X, "below": {"y": Y}}).evaluate(BatchOrder(6))
    assert batch.rows.keys() == {"x", "below"}
    np.testing.assert_array_equal(batch.rows["below"]["y"], Y)


def test_arrays_are_numbered_and_streams_are_not():
    assert isinstance(pipeline_of(X), NumberedRows)
    assert isinstance(pipeline_of(KINDS["IterDataset"]), StreamedRows)
    assert pipeline_of(KINDS["pipeline"]) is KINDS["pipeline"]


@dataclasses.dataclass(frozen=True)
class Given(Task):
    """A task of which nothing but the data is asked for."""

    rows: Any = None

    def model(self, rngs):
        raise NotImplementedError

    def loss(self, model, batch):
        raise NotImplementedError

    def data(self, split):
        if isinstance(self.rows, list) and self.rows and self.rows[0] == "count":
            self.rows.append(split)
            return X
        return self.rows() if callable(self.rows) else self.rows


def failing():
    return {}["absent"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (None, "^there are no test data; choose another split$"),
        (
            (row for row in LIST),
            "^the test data of Given: batches cannot be made of this generator; return",
        ),
        ({"x": [1, 2, 3]}, "batches cannot be made of this dict; return NumPy arrays"),
        ({}, "batches cannot be made of this dict"),
        (7, "batches cannot be made of this int"),
        ({"x": X, "y": Y[:4]}, "^the test data of Given: the arrays of a split must have equally"),
    ],
    ids=["none", "generator", "dict of lists", "empty", "number", "unequal"],
)
def test_what_no_batches_can_be_made_of_is_said(rows, sentence):
    with pytest.raises(DataError, match=sentence):
        Data(Given(rows)).split("test")


def test_each_split_is_opened_once():
    task = Given(["count"])
    data = Data(task)
    assert data.split("train") is data.split("train")
    data.split("test")
    assert task.rows == ["count", "train", "test"]


def test_what_a_task_raises_is_told_with_its_line():
    with pytest.raises(ExperimentError, match=r"test_data\.py, line \d+: KeyError: 'absent'"):
        Data(Given(failing)).split("train")
