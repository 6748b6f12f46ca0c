"""Prepared data that cannot be read, said in one sentence."""

import os

from deqjax.data.pipeline import DataError


def damaged(folder: str | os.PathLike[str], reason: object, remedy: str) -> DataError:
    """The error that names a damaged data set, what is wrong and the way out.

    Args:
        folder: of the data set.
        reason: what was found; of several lines the first one is named.
        remedy: what follows after deleting the folder.
    """
    (first, *_) = str(reason).splitlines() or [type(reason).__name__]
    return DataError(
        f"the data set in {str(folder)!r} is damaged ({first}): delete that folder, and {remedy}"
    )


def metadata_errors() -> tuple[type[Exception], ...]:
    """What TFDS raises where the files that describe a data set make no sense."""
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

    return AssertionError, KeyError, ValueError, ParseError
