"""Batches for models with a memory: every row of a batch continues the same row of the one before.

Dai et al., "Transformer-XL: Attentive Language Models beyond a Fixed-Length Context", ACL 2019,
arXiv 1901.02860, section 3.2: segments follow each other, and what the model keeps of one is its
memory in the next.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data.pipeline import DataError, check_shares
from deqjax.data.text._windows import check_length, check_tokens

if TYPE_CHECKING:
    import grain


class StreamBatch(NamedTuple):
    """The next segment of every row, for training.

    Attributes:
        tokens: (rows, length + 1) int32, inputs ``[:, :-1]`` and their successors ``[:, 1:]``.
        fresh: (rows,) bool, nothing precedes this segment, so clear the memory.
    """

    tokens: NDArray[np.int32]
    fresh: NDArray[np.bool_]


class EvaluationBatch(NamedTuple):
    """The next segment of every row, for evaluation.

    Attributes:
        tokens: (rows, length + 1) int32, padded with zeros in the last segment.
        scored: (rows, length) bool, where ``tokens[:, 1:]`` is no padding.
        fresh: (rows,) bool, nothing precedes this segment, so clear the memory.
    """

    tokens: NDArray[np.int32]
    scored: NDArray[np.bool_]
    fresh: NDArray[np.bool_]


class _Segments:
    """Random access to the whole segments of all rows: number k holds columns k L to k L + L."""

    def __init__(self, rows: NDArray[np.integer], length: int) -> None:
        """Cuts `rows`, (rows, columns)."""
        self.rows = rows
        self.length = length

    def __len__(self) -> int:
        return int(self.rows.shape[1] - 1) // self.length

    def __getitem__(self, index: int) -> StreamBatch:
        start = index * self.length
        tokens = self.rows[:, start : start + self.length + 1].astype(np.int32)
        return StreamBatch(tokens, np.full(len(self.rows), index == 0))

    def __repr__(self) -> str:
        return f"_Segments({len(self)} of length {self.length} in {len(self.rows)} rows)"


def stream_batches(
    tokens: NDArray[np.integer],
    *,
    length: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.DatasetIterator[StreamBatch]":
    """Endless batches in the order of the text, for models that carry a memory along.

    `tokens` is cut into `batch_size` rows of equal length, one after the other, and batch k holds
    columns k * length to (k + 1) * length of every row: row r of batch k + 1 begins with the last
    token of row r of batch k. What fills no whole row or segment is left out. After the last
    segment the next epoch begins with the first one, marked `fresh`. The rows are dealt out to the
    processes in turn, and each stays with its process. The iterator's state is the position:
    `get_state` and `set_state`, or `grain.checkpoint.CheckpointSave` in an Orbax checkpoint, resume
    at the very next batch; the model's memory belongs into the checkpoint as well. The position
    counts whole batches and survives JSON: every process has the same, and any other number of
    processes may continue from it, each with the memory of its own rows: row r of the batch is
    row r // process_count of process r % process_count.

    Args:
        tokens: (tokens,) of any integer dtype.
        length: predicted tokens in a segment.
        batch_size: rows, over all processes together.
        process_index: which process this is.
        process_count: how many processes share each batch.

    Returns:
        An iterator over `StreamBatch` with batch_size // process_count rows.

    Raises:
        DataError: a row is shorter than a segment, the processes cannot share a batch evenly, or a
            number is out of its range.
    """
    rows = _rows(tokens, length, batch_size, shortest=length + 1)
    check_shares(batch_size, process_index, process_count)
    import grain

    segments = _Segments(rows[process_index::process_count], length)
    # No threads: a batch is one copy out of the tokens, and JAX computes meanwhile.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator: grain.DatasetIterator[StreamBatch] = iter(
        grain.MapDataset.source(segments).repeat().to_iter_dataset(options)
    )
    return iterator


def stream_evaluation_batches(
    tokens: NDArray[np.integer],
    *,
    length: int,
    batch_size: int,
    limit: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[EvaluationBatch]:
    """One pass over the rows of `stream_batches`, to the very end of each.

    Every token is scored exactly once, except for the first one of each row and for the last
    tokens, fewer than `batch_size`, that fill no whole row. The last segment may be shorter: it is
    padded, and `scored` leaves the padding out. The rows are dealt out to the processes as in
    training, so all have equally many batches.

    Args:
        tokens: (tokens,) of any integer dtype.
        length: predicted tokens in a segment.
        batch_size: rows, over all processes together. With more rows more tokens are predicted
            from a short memory.
        limit: at most so many batches: the beginnings of the rows, which lie spread evenly over
            the whole split.
        process_index: which process this is.
        process_count: how many processes share each batch.

    Returns:
        An iterator over `EvaluationBatch` with batch_size // process_count rows.

    Raises:
        DataError: there are fewer than two tokens a row, the processes cannot share a batch
            evenly, or a number is out of its range.
    """
    rows = _rows(tokens, length, batch_size, shortest=2)
    check_shares(batch_size, process_index, process_count)
    count = -(-(rows.shape[1] - 1) // length)
    if limit is not None:
        if limit < 1:
            raise DataError(f"limit must be at least 1 batch, or None for all; got {limit}")
        count = min(count, limit)
    own = rows[process_index::process_count]
    return (_padded_segment(own, index * length, length) for index in range(count))


def _rows(
    tokens: NDArray[np.integer], length: int, batch_size: int, *, shortest: int
) -> NDArray[np.integer]:
    """The tokens as (batch_size, columns), a view; at least `shortest` columns."""
    check_tokens(tokens)
    check_length(length)
    check_shares(batch_size, process_index=0, process_count=1)
    columns = tokens.size // batch_size
    if columns < shortest:
        raise DataError(
            f"the corpus has {tokens.size} tokens, but {batch_size} rows need {shortest} each for "
            f"segments of length {length}: choose a smaller batch_size or a shorter length"
        )
    return tokens[: batch_size * columns].reshape(batch_size, columns)


def _padded_segment(rows: NDArray[np.integer], start: int, length: int) -> EvaluationBatch:
    segment = rows[:, start : start + length + 1]
    tokens = np.zeros((len(rows), length + 1), np.int32)
    tokens[:, : segment.shape[1]] = segment
    scored = np.zeros((len(rows), length), bool)
    scored[:, : segment.shape[1] - 1] = True
    return EvaluationBatch(tokens, scored, np.full(len(rows), start == 0))
