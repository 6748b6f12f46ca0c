"""Checksums of a state and of files: what makes a silent change of a checkpoint visible."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

_CHUNK = 1 << 22  # bytes of a file that are read at once


def digest_of_array(array: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.dtype.name} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def digests_of_leaves(leaves: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The digest of each leaf by its name."""
    with ThreadPoolExecutor(max_workers=4) as threads:  # hashing lets go of the interpreter's lock
        return dict(zip(leaves, threads.map(digest_of_array, leaves.values()), strict=True))


def digest_of_json(value: Any) -> str:
    """SHA-256 over a JSON value, whatever the order of its names."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digests_of_files(folder: Path, *, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """The digest of each file below a folder by its path in there.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    chosen = {name: path for name, path in names.items() if name not in set(leave_out)}
    return {name: _digest_of_file(path) for name, path in chosen.items()}


def _digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
