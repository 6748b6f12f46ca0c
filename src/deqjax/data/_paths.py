"""Paths that users give."""

import os
from pathlib import Path

from deqjax.data.pipeline import DataError


def expanded(path: str | os.PathLike[str], what: str) -> Path:
    """A path with its "~" replaced by the home folder.

    Args:
        path: as the user gave it.
        what: it is the path of, for the sentence.

    Raises:
        DataError: there is no such home, or the path can be none of any file.
    """
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise DataError(f"{str(path)!r} is no path of {what}: give another one")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{str(path)!r} is no path of {what} (there is no such home folder): write it in full"
        ) from error
