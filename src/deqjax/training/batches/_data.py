"""A task's data, opened when they are asked for, whatever kind they are."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from deqjax.data.pipeline import DataError
from deqjax.training._task import Task
from deqjax.training._task_errors import of_task
from deqjax.training.batches._pipeline import Pipeline
from deqjax.training.batches._rows import rows_of_arrays, rows_of_sequence
from deqjax.training.batches._streamed_rows import StreamedRows

SPLITS = ("train", "validation", "test")


class Data:
    """The splits of a task, each opened once.

    Args:
        task: opened.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._opened: dict[str, Pipeline | None] = {}

    def split(self, name: str) -> Pipeline:
        """What makes batches of a split's rows.

        Raises:
            DataError: there is no such split, or it is nothing that batches can be made of.
            ExperimentError: the task's ``data`` failed.
        """
        found = self.find(name)
        if found is None:
            if name == "test":
                raise DataError("there are no test data; choose another split")
            raise DataError(
                f"data({name!r}) of {type(self._task).__name__} returns nothing; return rows"
            )
        return found

    def find(self, name: str) -> Pipeline | None:
        """The same, but None where the task has no such split.

        Raises:
            DataError: it is nothing that batches can be made of.
            ExperimentError: the task's ``data`` failed.
        """
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def _open(self, name: str) -> Pipeline | None:
        rows = of_task(self._task, lambda: self._task.data(name))
        if rows is None:
            return None
        try:
            return of_task(self._task, lambda: pipeline_of(rows))
        except DataError as error:
            kind = type(self._task).__name__
            raise DataError(f"the {name} data of {kind}: {error}") from error


def pipeline_of(rows: Any) -> Pipeline:
    """What makes batches of rows of any kind that [`deqjax.training.Task.data`][] names.

    Raises:
        DataError: they are of another kind.
    """
    import grain

    if isinstance(rows, Pipeline):
        return rows
    if isinstance(rows, grain.IterDataset):
        return StreamedRows(rows)
    if isinstance(rows, grain.MapDataset):
        return rows_of_sequence(rows, rows)
    # which is no pytree
    leaves = [] if isinstance(rows, Iterator) else jax.tree.leaves(rows)
    if not isinstance(rows, list) and leaves and all(map(_is_array, leaves)):
        return rows_of_arrays(rows)
    if hasattr(rows, "__len__") and hasattr(rows, "__getitem__") and not isinstance(rows, dict):
        return rows_of_sequence(rows)
    raise DataError(
        f"batches cannot be made of this {type(rows).__name__}; return NumPy arrays in a "
        "dictionary, a Grain dataset, or a sequence of rows"
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array)
