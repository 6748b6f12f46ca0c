"""What there is to know of one kind of puzzle."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.uint8]
"""(puzzles, cells) of tokens; 0 is padding, which no puzzle of these has."""
Symmetry: TypeAlias = Callable[[np.random.Generator], tuple[NDArray[np.intp], NDArray[np.uint8]]]
"""Draws which cell comes to each place, (cells,), and what each token becomes, (tokens,)."""


class PuzzleKind(NamedTuple):
    """Puzzles of one kind and size.

    Attributes:
        symbols: what stands for the tokens from 1 in print, a character each.
        height: rows of cells; 1 for a sequence.
        width: cells of a row.
        draw: of a grade, about so many puzzles at random: inputs and targets. Some may be equal,
            and there may be fewer.
        signature: of inputs (puzzles, cells), (puzzles,) numbers, equal for puzzles that a symmetry
            makes of each other.
        symmetry: a random change after which a puzzle still has the solution, changed likewise;
            None where there is none.
        grades: how many different puzzles each difficulty has, from easy to hard; None where they
            cannot be counted.
    """

    symbols: str
    height: int
    width: int
    draw: Callable[[str, int, np.random.RandomState], tuple[Rows, Rows]]
    signature: Callable[[Rows], NDArray[np.uint64]]
    symmetry: Symmetry | None
    grades: dict[str, int | None]

    @property
    def tokens(self) -> int:
        """How many there are, the padding with them."""
        return len(self.symbols) + 1
