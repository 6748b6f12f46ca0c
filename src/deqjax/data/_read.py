"""Reads a prepared data set back: its texts, or what else is bytes."""

from collections.abc import Iterator
from typing import Any

from deqjax.data._damaged import damaged, metadata_errors
from deqjax.data.pipeline import DataError

SPLITS = ("train", "validation", "test")
_REMEDY = "the next run prepares it again"


def read_texts(builder: Any, split: str, feature: str = "text") -> Iterator[bytes]:
    """A feature of every example of a prepared split, one by one in their order.

    Raises:
        DataError: the data set has no such split, or is damaged.
    """
    if split not in builder.info.splits:
        raise DataError(
            f"the data set in {str(builder.data_dir)!r} has no split {split!r}, only "
            f"{', '.join(s for s in SPLITS if s in builder.info.splits)}: choose one of these"
        )
    # A function of its own: a generator would raise the above only when the first text is read.
    return _read(builder, split, feature)


def _read(builder: Any, split: str, feature: str) -> Iterator[bytes]:
    try:
        source = builder.as_data_source(split)
    except metadata_errors() as error:
        raise damaged(builder.data_dir, error, _REMEDY) from error
    try:
        for index in range(len(source)):
            text = source[index][feature]
            # A file cut at the end of a block reads without an error, as examples without a text.
            if text is None:
                raise damaged(builder.data_dir, "examples are empty", _REMEDY)
            yield text
    except RuntimeError as error:  # what array_record raises for a file it cannot read
        raise damaged(builder.data_dir, error, _REMEDY) from error
