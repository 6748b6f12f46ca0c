"""Making Sudoku: of a solved board, clues are taken away as long as there is one solution."""

import numpy as np
from numpy.typing import NDArray

from deqjax.data.puzzles.sudoku._boards import SudokuBoard
from deqjax.data.puzzles.sudoku._solver import (
    BITS,
    Candidates,
    candidates_of,
    count_solutions,
    digits_of,
    fewest_candidates,
    is_solved,
    propagate,
)


def sudoku_puzzles(
    board: SudokuBoard, clues: int | None, count: int, random: np.random.RandomState
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Puzzles that have one solution each.

    Args:
        board: of which the puzzles are.
        clues: that are left; None takes away all that can be, one after the other, so that none of
            the rest could be left out.
        count: solved boards to begin with.
        random: drawn from.

    Returns:
        puzzles and their solutions as digits, (n, cells) each; n is below `count` where no more
        clues could be left out before so few were left.
    """
    solutions = solved_boards(board, count, random)
    puzzles = solutions.copy()
    order = random.random_sample(puzzles.shape).argsort(axis=1)
    for cell in order.T:
        open_ = np.flatnonzero((puzzles != 0).sum(axis=1) > (clues or 0))
        free = open_[_can_go(board, puzzles[open_], cell[open_])]
        puzzles[free, cell[free]] = 0
    fit = (puzzles != 0).sum(axis=1) == clues if clues else np.ones(count, bool)
    return puzzles[fit], solutions[fit]


def solved_boards(
    board: SudokuBoard, count: int, random: np.random.RandomState
) -> NDArray[np.uint8]:
    """(count, cells): boards that are filled at random, digit by digit; dead ends begin anew."""
    empty = candidates_of(board, np.zeros((1, board.cells), np.uint8))[0]
    states = np.tile(empty, (count, 1))
    unsettled = np.arange(count)
    while len(unsettled):
        after = propagate(board, _one_more(states[unsettled], random))
        after[~after.all(axis=1)] = empty
        states[unsettled] = after
        unsettled = unsettled[~is_solved(after)]
    return digits_of(states)


def _one_more(states: Candidates, random: np.random.RandomState) -> Candidates:
    """Each state with one more cell decided, by one of its candidates."""
    rows, cell = np.arange(len(states)), fewest_candidates(states, random)
    possible = (states[rows, cell][:, None] & BITS) != 0
    bit = np.where(possible, random.random_sample(possible.shape), -1).argmax(axis=1)
    states[rows, cell] = BITS[bit]
    return states


def _can_go(
    board: SudokuBoard, puzzles: NDArray[np.uint8], cell: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """(puzzles,): whether there is still one solution without the clue of that cell.

    Another solution has another digit there, so those alone are tried.
    """
    rows = np.arange(len(puzzles))
    candidates = candidates_of(board, puzzles)
    candidates[rows, cell] ^= np.uint16((1 << board.side) - 1)
    none: NDArray[np.bool_] = count_solutions(board, candidates, limit=1) == 0
    return none
