"""Keeps the tokens of a long text on disk: encoded once, then mapped into memory."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data.pipeline import DataError
from deqjax.data.text._vocabulary import Vocabulary

_DIGESTS = "sha256.json"
_VOCABULARY = "vocabulary.json"


class Encoded(NamedTuple):
    """The tokens of every split, and what they stand for."""

    splits: Mapping[str, NDArray[np.integer]]
    vocabulary: Vocabulary


def cached_tokens(folder: Path, encode: Callable[[], Encoded]) -> Encoded:
    """What `encode` gives, from `folder` if it is there, else encoded now and written into it.

    The folder appears as a whole or not at all: it is written under another name and renamed. The
    tokens come back mapped from their files, read-only, which several processes share. Where the
    folder cannot be written, as beside data that others own, the tokens are encoded each time.

    Raises:
        DataError: the folder is damaged; every file's SHA-256 is checked.
    """
    if not folder.exists():
        encoded = encode()
        with contextlib.suppress(OSError):
            _write(folder, encoded)
        if not folder.exists():
            return encoded
    try:
        return _read(folder)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"the encoded tokens in {str(folder)!r} are damaged ({error}): delete that folder, and "
            "the next run encodes them again"
        ) from error


def _write(folder: Path, encoded: Encoded) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for split, tokens in encoded.splits.items():
            np.save(scratch / f"{split}.npy", tokens)
        (scratch / _VOCABULARY).write_text(json.dumps(encoded.vocabulary.to_dict()))
        digests = {file.name: _digest(file) for file in sorted(scratch.iterdir())}
        (scratch / _DIGESTS).write_text(json.dumps(digests))
        # A folder cannot be renamed onto one that holds files: another process was first, and its
        # copy is as good.
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read(folder: Path) -> Encoded:
    digests = json.loads((folder / _DIGESTS).read_text())
    for name, digest in digests.items():
        if _digest(folder / name) != digest:
            raise ValueError(f"{name} has changed")
    splits = {
        Path(name).stem: np.asarray(np.load(folder / name, mmap_mode="r"))
        for name in digests
        if name != _VOCABULARY
    }
    vocabulary = Vocabulary.from_dict(json.loads((folder / _VOCABULARY).read_text()))
    return Encoded(splits, vocabulary)


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
