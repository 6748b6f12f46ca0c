"""Numbers that stand for puzzles."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers of 64 bits, each of which depends on all of one number given (splitmix64)."""
    # products wrap around, on purpose
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def digests(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(rows,): a number of 64 bits for each row."""
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)
