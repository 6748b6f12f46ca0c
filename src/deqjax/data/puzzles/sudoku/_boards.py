"""Which cells of a Sudoku lie together."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SudokuBoard(NamedTuple):
    """A board of side x side cells, numbered row by row.

    Attributes:
        box_height: rows of a box.
        box_width: columns of a box.
    """

    box_height: int
    box_width: int

    @property
    def side(self) -> int:
        """Rows, columns, digits: as many as a box has cells."""
        return self.box_height * self.box_width

    @property
    def cells(self) -> int:
        """Cells of the board."""
        return self.side**2

    @property
    def units(self) -> NDArray[np.intp]:
        """(3 side, side): the cells of every row, then of every column, then of every box."""
        return _units(self)

    @property
    def units_of_cell(self) -> NDArray[np.intp]:
        """(cells, 3): the row, the column and the box that a cell lies in."""
        return _units_of_cell(self)


SUDOKU_BOARDS = {4: SudokuBoard(2, 2), 6: SudokuBoard(2, 3), 9: SudokuBoard(3, 3)}
"""The boards by their side."""


@functools.cache
def _units(board: SudokuBoard) -> NDArray[np.intp]:
    grid = np.arange(board.cells).reshape(board.side, board.side)
    bands, stacks = board.side // board.box_height, board.side // board.box_width
    boxes = grid.reshape(bands, board.box_height, stacks, board.box_width).swapaxes(1, 2)
    return np.concatenate([grid, grid.T, boxes.reshape(board.side, board.side)])


@functools.cache
def _units_of_cell(board: SudokuBoard) -> NDArray[np.intp]:
    members = np.zeros((3 * board.side, board.cells), bool)
    np.put_along_axis(members, _units(board), True, axis=1)
    return np.nonzero(members.T)[1].reshape(board.cells, 3)
