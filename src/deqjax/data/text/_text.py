"""Text for language models that see each window on its own: bytes, and batches of windows."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deqjax.data._prepare import prepared
from deqjax.data._read import SPLITS, read_texts
from deqjax.data.pipeline import DataError, check_shares
from deqjax.data.text._windows import Windows

if TYPE_CHECKING:
    import grain

# Ends every document. Python source cannot hold this byte.
END_OF_DOCUMENT = b"\0"


def load_bytes(split: str, *, directory: str | os.PathLike[str] | None = None) -> NDArray[np.uint8]:
    """The standard-library corpus as one vector of bytes, prepared on first use (a second or two).

    The files of the split follow each other in the order of their paths, each exactly as it is on
    disk and ended by one zero byte.

    Args:
        split: "train", "validation" or "test".
        directory: the folder of all prepared data sets; None is TFDS's own (the environment
            variable TFDS_DATA_DIR, else ~/tensorflow_datasets).

    Returns:
        (bytes,) uint8.

    Raises:
        DataError: there is no such split, or the prepared data are incomplete or damaged.
        DataError: `directory` cannot be written, and the corpus is not prepared in it yet.
    """
    if split not in SPLITS:
        raise DataError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}")
    from deqjax.data.text._stdlib_corpus import StdlibCorpus

    texts = read_texts(prepared(StdlibCorpus, directory=directory), split)
    return np.frombuffer(b"".join(text + END_OF_DOCUMENT for text in texts), np.uint8)


def train_batches(
    tokens: NDArray[np.integer],
    *,
    length: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.DatasetIterator[NDArray[np.int32]]":
    """Endless shuffled batches of windows.

    Every epoch has its own order, drawn from `seed` and the epoch's number; the windows that fill
    no whole batch are left out, other ones in each epoch. The rows of a batch are dealt out to the
    processes in turn, so all have equally many batches, and step k sees the same windows however
    many processes share them. The iterator's state is the position: `get_state` and `set_state`,
    or `grain.checkpoint.CheckpointSave` in an Orbax checkpoint, resume at the very next batch. It
    counts whole batches and survives JSON: every process has the same, and any other number of
    processes may continue from it.

    Args:
        tokens: (tokens,) of any integer dtype.
        length: predicted tokens in a window.
        batch_size: windows in a batch, over all processes together.
        seed: of the order; at least 0.
        process_index: which process this is.
        process_count: how many processes share each batch.

    Returns:
        An iterator over (batch_size // process_count, length + 1) int32.

    Raises:
        DataError: the corpus is shorter than one window or has fewer windows than a batch, the
            processes cannot share a batch evenly, or a number is out of its range.
    """
    windows = Windows(tokens, length)
    check_shares(batch_size, process_index, process_count)
    _check_enough(windows, batch_size)
    if seed < 0:
        raise DataError(f"seed must be at least 0, got {seed}")
    import grain

    in_whole_batches = len(windows) // batch_size * batch_size
    batches = (
        grain.MapDataset.source(windows)
        .seed(seed)
        .shuffle()[:in_whole_batches][process_index::process_count]
        .batch(batch_size // process_count, drop_remainder=True)
        .repeat()
    )
    # No threads: cutting a batch of 64 windows of 512 bytes takes 2 ms, and JAX computes meanwhile.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator: grain.DatasetIterator[NDArray[np.int32]] = iter(batches.to_iter_dataset(options))
    return iterator


def evaluation_batches(
    tokens: NDArray[np.integer],
    *,
    length: int,
    batch_size: int,
    limit: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[NDArray[np.int32]]:
    """One pass over the windows in their order; those that fill no whole batch are left out.

    The rows of a batch are dealt out to the processes as in training: all have equally many
    batches, and each window of a whole batch is in one row of one process.

    Args:
        tokens: (tokens,) of any integer dtype.
        length: predicted tokens in a window.
        batch_size: windows in a batch, over all processes together.
        limit: at most so many batches. Their windows are spread evenly over the whole split, so
            that a short evaluation does not see its first files only.
        process_index: which process this is.
        process_count: how many processes share each batch.

    Returns:
        An iterator over (batch_size // process_count, length + 1) int32.

    Raises:
        DataError: the corpus is shorter than one window or has fewer windows than a batch, the
            processes cannot share a batch evenly, or a number is out of its range.
    """
    windows = Windows(tokens, length)
    check_shares(batch_size, process_index, process_count)
    _check_enough(windows, batch_size)
    count = len(windows) // batch_size
    chosen = np.arange(count * batch_size)
    if limit is not None:
        if limit < 1:
            raise DataError(f"limit must be at least 1 batch, or None for all; got {limit}")
        if limit < count:
            count = limit
            chosen = np.arange(count * batch_size) * len(windows) // (count * batch_size)
    own = chosen.reshape(count, batch_size)[:, process_index::process_count]
    return (windows[rows] for rows in own)


def _check_enough(windows: Windows, batch_size: int) -> None:
    if batch_size > len(windows):
        raise DataError(
            f"batch_size {batch_size} is larger than the {len(windows)} windows of length "
            f"{windows.length} in the corpus: choose a smaller batch_size or a shorter length"
        )
