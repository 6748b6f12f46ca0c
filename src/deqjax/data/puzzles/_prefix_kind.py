"""Prefix sums: whether the number of ones so far is odd, for every bit of a string.

As tokens, 1 is the bit 0 and 2 the bit 1.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from deqjax.data.puzzles._hashing import digests
from deqjax.data.puzzles._kind import PuzzleKind, Rows


def prefix_kind(bits: int) -> PuzzleKind:
    """Strings of so many bits, of one grade; nothing that could be done to one is a symmetry."""
    return PuzzleKind(
        symbols="01",
        height=1,
        width=bits,
        draw=functools.partial(_draw, bits),
        signature=digests,
        symmetry=None,
        grades={"mixed": 2**bits},
    )


def _draw(bits: int, grade: str, count: int, random: np.random.RandomState) -> tuple[Rows, Rows]:
    del grade  # there is one
    inputs: NDArray[np.uint8] = random.randint(0, 2, (count, bits)).astype(np.uint8)
    sums = np.bitwise_xor.accumulate(inputs, axis=1)
    return inputs + np.uint8(1), sums + np.uint8(1)
