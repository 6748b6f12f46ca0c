"""Rows that can be asked for by number: arrays, sequences, Grain's ``MapDataset``."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from deqjax.data.pipeline import DataError, check_shares, prefetched
from deqjax.training.batches._pipeline import BatchOrder, Pipeline, Position
from deqjax.training.step import Batch

_HASHED = 256
"""Rows of a sequence that its fingerprint reads; of arrays it reads all."""

_ENDLESS = 2**40
"""More rows than anybody has (what Grain repeats without end has 2^63), and more batches than any
run takes."""

Take = Callable[[np.ndarray], Any]
"""Numbers of rows, (rows,) -> the rows, stacked."""


class NumberedRows(Pipeline):
    """Rows by number.

    Args:
        count: of rows.
        take: gives some of them, stacked.
        content: a hash of all there is.
        dataset: the Grain ``MapDataset`` that they are of, whose own random changes differ in every
            epoch; None for what has none.
    """

    def __init__(self, count: int, take: Take, content: str, dataset: Any = None) -> None:
        self.count, self._take, self._content, self._dataset = count, take, content, dataset

    def describe(self) -> str:
        """The number of rows."""
        return f"{self.count:,} rows"

    def fingerprint(self, order: BatchOrder) -> Mapping[str, Any]:
        """Number and hash of the rows, and what decides their order."""
        return {
            "rows": self.count,
            "content": self._content,
            "batch_size": order.batch_size,
            "order": "shuffled" if order.shuffled else "given",
            "seed": order.seed,
            "workers": order.workers,
        }

    def train(self, order: BatchOrder) -> Position:
        """Batches of every epoch; the rows that fill no whole batch are left out, others each time.

        Raises:
            DataError: there are fewer rows than a batch has.
        """
        import grain

        check_shares(order.batch_size, order.process_index, order.process_count)
        if self.count < order.batch_size:
            raise DataError(
                f"--batch_size {order.batch_size} is larger than the {self.count} training rows; "
                "choose a smaller one"
            )
        if self._dataset is None:
            numbered = _NumberedBatches(self.count, self._take, order)
            batches = grain.MapDataset.source(numbered)
        else:
            used = self.count // order.batch_size * order.batch_size
            rows = self._dataset.seed(order.seed)
            rows = (rows.shuffle() if order.shuffled else rows)[:used]
            rows = rows[order.process_index :: order.process_count]
            own = order.batch_size // order.process_count
            batches = rows.batch(own, drop_remainder=True).map(whole).repeat()
        made: Position = prefetched(batches, order.threads, order.workers)
        return made

    def evaluate(self, order: BatchOrder) -> Iterator[Batch]:
        """All rows in their order; with a limit some that lie spread evenly over them."""
        check_shares(order.batch_size, order.process_index, order.process_count)
        if not self.count:
            raise DataError("there are no rows to evaluate")
        chosen = np.arange(self.count)
        if order.limit is not None and order.limit * order.batch_size < self.count:
            kept = order.limit * order.batch_size
            chosen = np.arange(kept) * self.count // kept
        for start in range(0, len(chosen), order.batch_size):
            numbers = chosen[start : start + order.batch_size]
            counted = np.arange(order.batch_size) < len(numbers)
            numbers = np.pad(numbers, (0, order.batch_size - len(numbers)), mode="edge")
            own = slice(order.process_index, None, order.process_count)
            yield Batch(self._take(numbers[own]), counted[own])


class _NumberedBatches:
    """Batch k of all epochs, of this process's rows: each is one look into the arrays.

    A Grain dataset that shuffles and stacks single rows takes some 50 us a row.
    """

    def __init__(self, count: int, take: Take, order: BatchOrder) -> None:
        self._count, self._take, self._order = count, take, order
        self._in_an_epoch = count // order.batch_size

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Batch:
        epoch, number = divmod(index, self._in_an_epoch)
        size = self._order.batch_size
        numbers = np.arange(number * size, (number + 1) * size)
        if self._order.shuffled:
            numbers = _permutation(self._count, self._order.seed, epoch)[numbers]
        return whole(self._take(numbers[self._order.process_index :: self._order.process_count]))


@functools.lru_cache(maxsize=2)  # the epoch under way, and the one that is prepared ahead
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def rows_of_arrays(arrays: Any) -> NumberedRows:
    """Rows along axis 0 of every array in a pytree.

    Raises:
        DataError: they have none, or not equally many.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(arrays)]
    shapes = [leaf.shape for leaf in leaves]
    if len({shape[:1] for shape in shapes}) != 1 or not shapes[0]:
        raise DataError(
            f"the arrays of a split must have equally many rows along axis 0, got shapes {shapes}"
        )
    digest = hashlib.sha256(str(jax.tree.structure(arrays)).encode())
    for leaf in leaves:
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data if leaf.size else b"")
    rebuilt = jax.tree.unflatten(jax.tree.structure(arrays), leaves)
    return NumberedRows(
        len(leaves[0]), functools.partial(_of_arrays, rebuilt), digest.hexdigest()[:16]
    )


def rows_of_sequence(rows: Any, dataset: Any = None) -> NumberedRows:
    """Rows of what has a length and can be indexed.

    Raises:
        DataError: they are without end, or some numbers have no row.
    """
    count = len(rows)
    if count >= _ENDLESS:
        raise DataError(
            "these rows have no end, and every epoch and evaluation needs one; leave repeat() out, "
            "the engine begins anew by itself"
        )
    read = np.unique(np.linspace(0, max(count - 1, 0), min(count, _HASHED)).astype(int))
    content = hash_of(_present(rows, number) for number in read.tolist())
    take = functools.partial(_of_sequence, rows)
    return NumberedRows(count, take, content, dataset)


def hash_of(rows: Iterable[Any]) -> str:
    """16 hexadecimal digits of the names, forms and numbers of rows."""
    digest = hashlib.sha256()
    for row in rows:
        for path, leaf in jax.tree.leaves_with_path(row):
            value = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)}{value.dtype}{value.shape}".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def stack(rows: list[Any]) -> Any:
    """Rows as one pytree with the rows as axis 0.

    Raises:
        DataError: they have not all the same form.
    """
    try:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    except ValueError as error:
        raise DataError(f"the rows of a batch differ in form and cannot be stacked: {error}") from (
            error
        )


def _present(rows: Any, number: int) -> Any:
    row = rows[number]
    if row is None:
        raise DataError(
            f"row {number} is None; leave rows out before a dataset is made of them, or give a "
            "Grain IterDataset, which may have a filter"
        )
    return row


def _of_arrays(arrays: Any, numbers: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[numbers], arrays)


def _of_sequence(rows: Any, numbers: np.ndarray) -> Any:
    return stack([rows[int(number)] for number in numbers])


def whole(rows: Any) -> Batch:
    """Rows that all count."""
    return Batch(rows, np.ones(len(jax.tree.leaves(rows)[0]), bool))
