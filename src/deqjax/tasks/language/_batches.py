"""Text as batches: windows in random order, or segments that continue each other."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax import data
from deqjax.data import DataError
from deqjax.training import Batch, BatchOrder, Pipeline, Position

Tokens = NDArray[Any]


class Segments(NamedTuple):
    """Rows of text.

    Attributes:
        tokens: (rows, length + 1) int32; each predicts the one after it.
        fresh: (rows,) bool, rows that do not continue those of the batch before.
        scored: (rows, length) bool, targets that count.
    """

    tokens: Any
    fresh: Any
    scored: Any


class TextRows(Pipeline):
    """One split of a text.

    Args:
        tokens: (tokens,) of any integer dtype.
        length: predicted tokens of a row.
        kind: what a token is, such as "bytes".
        ordered: whether rows must continue those of the batch before, as a memory needs it.
    """

    def __init__(self, tokens: Tokens, *, length: int, kind: str, ordered: bool) -> None:
        self.tokens, self._length, self._kind, self._ordered = tokens, length, kind, ordered

    def describe(self) -> str:
        """The size of the text."""
        return f"{len(self.tokens):,} {self._kind} of text"

    def fingerprint(self, order: BatchOrder) -> Mapping[str, Any]:
        """What the training batches depend on, as JSON values."""
        return data.fingerprint(
            self.tokens,
            length=self._length,
            batch_size=order.batch_size,
            seed=order.seed,
            order="shuffled" if order.shuffled else "stream",
        )

    def train(self, order: BatchOrder) -> Position:
        """Endless batches.

        Raises:
            DataError: the order leaves a memory nothing to remember, or the text is too short.
        """
        if self._ordered and order.shuffled:
            raise DataError(
                "--task.network.shape.memory_length needs --order given: windows in random order "
                "have nothing before them to remember"
            )
        if order.shuffled:
            windows: Position = data.train_batches(
                self.tokens, seed=order.seed, **self._share(order)
            )
            return _Batches(windows)
        segments: Position = data.stream_batches(self.tokens, **self._share(order))
        return _Batches(segments)

    def evaluate(self, order: BatchOrder) -> Iterator[Batch]:
        """One pass, in the order that the model is trained in.

        Raises:
            DataError: the text is too short.
        """
        share = self._share(order) | {"limit": order.limit}
        if order.shuffled:
            for windows in data.evaluation_batches(self.tokens, **share):
                yield _whole(windows)
            return
        for segment in data.stream_evaluation_batches(self.tokens, **share):
            rows = Segments(segment.tokens, segment.fresh, segment.scored)
            yield Batch(rows, segment.scored.any(axis=1))

    def evaluation_rows(self, most: int, multiple: int) -> int:
        """A split with less text than a training batch is scored in fewer rows.

        Raises:
            DataError: it has less than one.
        """
        if self.tokens.size <= self._length:
            raise DataError(
                f"a text of {self.tokens.size} {self._kind} is too short to score in segments of "
                f"{self._length}"
            )
        rows = min(most, self.tokens.size // (self._length + 1))
        return max(rows // multiple, 1) * multiple

    def _share(self, order: BatchOrder) -> dict[str, Any]:
        return {
            "length": self._length,
            "batch_size": order.batch_size,
            "process_index": order.process_index,
            "process_count": order.process_count,
        }


class _Batches:
    """Grain's iterator over windows or segments, as batches of the engine."""

    def __init__(self, found: Position) -> None:
        self._found = found

    def __next__(self) -> Batch:
        found = next(self._found)
        if not isinstance(found, data.StreamBatch):
            return _whole(found)
        rows, tokens = found.tokens.shape
        own = Segments(found.tokens, found.fresh, np.ones((rows, tokens - 1), bool))
        return Batch(own, np.ones(rows, bool))

    def get_state(self) -> Any:
        return self._found.get_state()

    def set_state(self, state: Any) -> None:
        self._found.set_state(state)


def _whole(windows: Tokens) -> Batch:
    """Windows that stand alone, all of whose targets count."""
    rows, tokens = windows.shape
    fresh = np.ones(rows, bool)
    return Batch(Segments(windows, fresh, np.ones((rows, tokens - 1), bool)), fresh)


def bigram_nats(table: NDArray[np.float64], batches: Iterator[Segments]) -> float:
    """Mean loss of a bigram model, (tokens, tokens) log2-probabilities, on what is scored."""
    own = [-table[x.tokens[:, :-1], x.tokens[:, 1:]][x.scored] for x in batches]
    return float(np.mean(np.concatenate(own))) * math.log(2)
