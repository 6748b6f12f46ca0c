"""What makes batches of a split's rows: the contract that all kinds of data come down to."""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from deqjax.training.step import Batch


class BatchOrder(NamedTuple):
    """How batches are asked for.

    Attributes:
        batch_size: rows of a batch, over all processes together.
        seed: of the order and of whatever is drawn for a row.
        shuffled: whether training draws rows anew in every epoch; else they come as given.
        limit: batches of an evaluation at most; None is all.
        process_index: which process this is.
        process_count: how many processes share each batch.
        threads: that prepare batches ahead.
        workers: processes that prepare batches ahead.
    """

    batch_size: int
    seed: int = 0
    shuffled: bool = True
    limit: int | None = None
    process_index: int = 0
    process_count: int = 1
    threads: int = 0
    workers: int = 0


class Position(Protocol):
    """Batches without end whose position can be saved, as Grain's iterators have it."""

    def __next__(self) -> Any:
        """The next batch."""

    def get_state(self) -> Any:
        """The position, as JSON has it: the same in every process, whatever their number."""

    def set_state(self, state: Any) -> None:
        """Go on at a position."""


class Pipeline(abc.ABC):
    """The rows of a split, and how they become batches.

    A task whose rows need more than to be stacked returns one from its ``data``: a text that is
    read in segments, images that are changed at random.
    """

    @abc.abstractmethod
    def describe(self) -> str:
        """The rows of the split in a few words, for the user: "1,437 images"."""

    @abc.abstractmethod
    def fingerprint(self, order: BatchOrder) -> Mapping[str, Any]:
        """What training batches in this order depend on, as JSON values."""

    @abc.abstractmethod
    def train(self, order: BatchOrder) -> Position:
        """This process's [`deqjax.training.Batch`][]es, without end.

        Row r of a batch is that of process r modulo their number, so that a step sees the same rows
        however many processes share them.

        Raises:
            DataError: there are too few rows, or they are damaged.
        """

    @abc.abstractmethod
    def evaluate(self, order: BatchOrder) -> Iterator[Batch]:
        """This process's batches of one pass; rows that only fill the last one do not count.

        All batches have equally many rows and all processes equally many batches.

        Raises:
            DataError: there are no rows, or they are damaged.
        """

    def evaluation_rows(self, most: int, multiple: int) -> int:
        """Rows of an evaluation's batches: at most so many, and a multiple of the devices."""
        del multiple
        return most


class TrainingBatches:
    """Training batches that may be looked at before they are taken.

    Args:
        batches: without end.
    """

    def __init__(self, batches: Position) -> None:
        self._batches = batches
        self._held: tuple[Batch, Any] | None = None  # a batch, and the position before it

    def peek(self) -> Batch:
        """The next batch, which stays the next."""
        if self._held is None:
            before = self._batches.get_state()
            self._held = next(self._batches), before
        return self._held[0]

    def __next__(self) -> Batch:
        """The next batch, on the host."""
        if self._held is None:
            batch: Batch = next(self._batches)
            return batch
        (batch, _), self._held = self._held, None
        return batch

    def get_state(self) -> Any:
        """The position, as JSON has it."""
        return self._batches.get_state() if self._held is None else self._held[1]

    def set_state(self, state: Any) -> None:
        """Go on at a position."""
        self._held = None
        self._batches.set_state(state)

    def close(self) -> None:
        """Let go of the processes that prepare batches, if there are any."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
