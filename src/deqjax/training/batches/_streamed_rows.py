"""Rows that come one after the other: Grain's ``IterDataset``."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from deqjax.data.pipeline import DataError, check_shares
from deqjax.training.batches._pipeline import BatchOrder, Pipeline, Position
from deqjax.training.batches._rows import hash_of, stack, whole
from deqjax.training.step import Batch

_HASHED = 64
"""Rows at the beginning that the fingerprint reads."""


class StreamedRows(Pipeline):
    """Rows in the order that they come in.

    Every process reads all of them and takes its own, so that a position means the same for any
    number of processes.

    Args:
        dataset: an ``IterDataset`` of rows.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def describe(self) -> str:
        """That their number is not known."""
        return "a stream of rows"

    def fingerprint(self, order: BatchOrder) -> Mapping[str, Any]:
        """A hash of the first rows, and how many a batch has."""
        first = itertools.islice(iter(self._dataset.seed(order.seed)), _HASHED)
        return {
            "content": hash_of(first),
            "batch_size": order.batch_size,
            "order": "given",
            "seed": order.seed,
        }

    def train(self, order: BatchOrder) -> Position:
        """Batches; after the last whole one the rows begin anew.

        Raises:
            DataError: they shall be shuffled, or prepared by workers, which only the dataset can;
                or there are fewer than a batch has.
        """
        import grain

        check_shares(order.batch_size, order.process_index, order.process_count)
        if order.shuffled:
            raise DataError(
                "rows of a Grain IterDataset come in its own order; shuffle in the dataset and set "
                "--order given, or give a MapDataset"
            )
        if order.workers:
            raise DataError(
                f"--workers {order.workers} cannot share a Grain IterDataset; give it workers with "
                "its own mp_prefetch, or give a MapDataset"
            )
        rows = self._dataset.seed(order.seed)
        found = sum(1 for _ in itertools.islice(iter(rows), order.batch_size))
        if found < order.batch_size:  # or their repetition would look for a batch for ever
            raise DataError(
                f"--batch_size {order.batch_size} is larger than the {found} training rows; choose "
                "a smaller one"
            )
        batches = rows.batch(order.batch_size, drop_remainder=True)
        shared = functools.partial(_share, index=order.process_index, count=order.process_count)
        made: Position = iter(grain.experimental.RepeatIterDataset(batches.map(shared)))
        return made

    def evaluate(self, order: BatchOrder) -> Iterator[Batch]:
        """The rows from the beginning, up to the limit."""
        check_shares(order.batch_size, order.process_index, order.process_count)
        most = None if order.limit is None else order.limit * order.batch_size
        rows = itertools.islice(iter(self._dataset.seed(order.seed)), most)
        own = slice(order.process_index, None, order.process_count)
        found = False
        while batch := list(itertools.islice(rows, order.batch_size)):
            found = True
            counted = np.arange(order.batch_size) < len(batch)
            batch += [batch[-1]] * (order.batch_size - len(batch))
            yield Batch(stack(batch[own]), counted[own])
        if not found:
            raise DataError("there are no rows to evaluate")


def _share(rows: Any, *, index: int, count: int) -> Batch:
    return whole(jax.tree.map(lambda leaf: leaf[index::count], rows))
