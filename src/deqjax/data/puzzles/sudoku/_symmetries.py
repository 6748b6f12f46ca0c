"""What can be done to a Sudoku that leaves it one, and what all that leaves alone."""

import numpy as np
from numpy.typing import NDArray

from deqjax.data.puzzles._hashing import mixed
from deqjax.data.puzzles.sudoku._boards import SudokuBoard

_ROUNDS = 4  # after which a cell knows of all others


def sudoku_symmetry(
    board: SudokuBoard, generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """A random change that keeps the rules: lines within bands, bands, the diagonal, digits.

    Returns:
        (cells,): which cell comes to each place; (side + 1,): what each digit becomes, 0 a blank.
    """
    rows = _lines(board.side, board.box_height, generator)
    columns = _lines(board.side, board.box_width, generator)
    cells = rows[:, None] * board.side + columns
    if board.box_height == board.box_width and generator.random() < 0.5:
        cells = cells.T
    digits = np.zeros(board.side + 1, np.uint8)
    digits[1:] = generator.permutation(board.side) + 1
    return cells.ravel(), digits


def sudoku_signature(board: SudokuBoard, puzzles: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(puzzles,): the same number for all that `sudoku_symmetry` can make of a puzzle.

    Each cell has a number that says whether it is a clue; a few times it is mixed with the sums
    over its row, column, box, band, stack and over the clues with its digit, which know of no
    order. Puzzles of different numbers are different ones for certain; the reverse need not hold.

    Args:
        board: of which the puzzles are.
        puzzles: (puzzles, cells) digits, 0 where a cell is blank.
    """
    row, column, box = board.units_of_cell.T
    band = np.arange(board.side).reshape(-1, board.box_height)
    stack = board.side + np.arange(board.side).reshape(-1, board.box_width)
    is_digit = puzzles[:, :, None] == np.arange(1, board.side + 1, dtype=np.uint8)
    cells = mixed((puzzles != 0).astype(np.uint64))
    for _ in range(_ROUNDS):
        units = cells[:, board.units].sum(axis=2, dtype=np.uint64)
        for lines in (band, stack):
            together = mixed(units[:, lines]).sum(axis=2, keepdims=True, dtype=np.uint64)
            units[:, lines] = mixed(units[:, lines] + mixed(together))
        digits = np.where(is_digit, cells[:, :, None], 0).sum(axis=1, dtype=np.uint64)
        of_digit = np.where(is_digit, mixed(digits)[:, None, :], 0).sum(axis=2, dtype=np.uint64)
        crossing = units[:, row] + units[:, column]  # which of the two is which may be exchanged
        cells = mixed(mixed(mixed(cells + crossing) + units[:, box]) + of_digit)
    return mixed(cells.sum(axis=1, dtype=np.uint64))


def _lines(side: int, height: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """(side,): rows in a random order in which the rows of a band stay together."""
    bands = generator.permutation(side // height)[:, None] * height
    order: NDArray[np.intp] = generator.random((side // height, height)).argsort(axis=1)
    return (bands + order).ravel()
