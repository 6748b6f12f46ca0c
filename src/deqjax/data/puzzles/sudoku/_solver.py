"""Solving many Sudoku at once: by singles and, where they do not suffice, by trying."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqjax.data.puzzles.sudoku._boards import SudokuBoard

Candidates: TypeAlias = NDArray[np.uint16]
"""(boards, cells): bit d of a cell says that digit d + 1 may stand there."""

POPULATION = np.array([number.bit_count() for number in range(2**9)], np.uint8)
"""How many bits a number has."""
BITS = np.array([1 << digit for digit in range(9)], np.uint16)
_TRIED_AT_ONCE = (64, 4096)  # at least, at most; between them as many as there are boards


def candidates_of(board: SudokuBoard, digits: NDArray[np.uint8]) -> Candidates:
    """What clues say by themselves.

    Args:
        board: of which the puzzles are.
        digits: (boards, cells), 0 where a cell is blank.
    """
    full = np.uint16((1 << board.side) - 1)
    return np.where(digits == 0, full, BITS[np.maximum(digits, 1) - 1])


def digits_of(candidates: Candidates) -> NDArray[np.uint8]:
    """The digits of decided cells, 0 for the others."""
    # below a power of two there are as many ones as its exponent says
    digits = POPULATION[np.maximum(candidates, 1) - 1] + 1
    return np.where(POPULATION[candidates] == 1, digits, 0).astype(np.uint8)


def propagate(board: SudokuBoard, candidates: Candidates) -> Candidates:
    """Candidates after all that singles decide; a board that has no solution may get a cell of 0.

    A naked single is a cell with one candidate, which its row, column and box lose. A hidden single
    is the only cell of a row, column or box that has a candidate left.

    Args:
        board: of which the puzzles are.
        candidates: left as they are.
    """
    result = candidates.copy()
    active = np.arange(len(result))
    while len(active):
        before = result[active]
        after = _one_round(board, before)
        result[active] = after
        # what has failed has nothing left to find
        active = active[(after != before).any(axis=1) & after.all(axis=1)]
    return result


def is_solved(candidates: Candidates) -> NDArray[np.bool_]:
    """(boards,): whether each cell is decided; of candidates that `propagate` returned."""
    solved: NDArray[np.bool_] = (POPULATION[candidates] == 1).all(axis=1)
    return solved


def count_solutions(
    board: SudokuBoard, candidates: Candidates, limit: int = 2
) -> NDArray[np.int64]:
    """(boards,): how many solutions there are, at most `limit`.

    The cell with the fewest candidates is tried with each of them, for all boards together. Of the
    states that wait, the youngest go first: they are the furthest on, so that few wait at a time.
    """
    found = np.zeros(len(candidates), np.int64)
    waiting, owners = candidates, np.arange(len(candidates))
    width = int(np.clip(len(candidates), *_TRIED_AT_ONCE))
    while len(waiting):
        waiting, states = waiting[:-width], waiting[-width:]
        owners, owner = owners[:-width], owners[-width:]
        states = propagate(board, states)
        solved = is_solved(states)
        np.add.at(found, owner[solved], 1)
        unsettled = ~solved & states.all(axis=1) & (found[owner] < limit)
        tried, parents = _tries(states[unsettled])
        waiting = np.concatenate([waiting, tried])
        owners = np.concatenate([owners, owner[unsettled][parents]])
    return np.minimum(found, limit)


def fewest_candidates(
    states: Candidates, random: np.random.RandomState | None = None
) -> NDArray[np.intp]:
    """(states,): the undecided cell with the fewest candidates, the first or a random one."""
    population = POPULATION[states].astype(np.float32)
    ranks = np.where(population > 1, population, np.inf)
    if random is not None:
        ranks = ranks + random.random_sample(states.shape)
    cells: NDArray[np.intp] = ranks.argmin(axis=1)
    return cells


def _one_round(board: SudokuBoard, candidates: Candidates) -> Candidates:
    """What the singles seen now decide; a board with a contradiction gets a cell of 0."""
    single = POPULATION[candidates] == 1
    decided, doubly = _once_and_twice(np.where(single, candidates, np.uint16(0))[:, board.units])
    lost = _of_cells(board, decided)
    # a decided cell keeps its digit, unless another one of the unit has it too
    left = candidates & ~np.where(single, _of_cells(board, doubly), lost)
    present, several = _once_and_twice(left[:, board.units])
    chosen = left & _of_cells(board, present & ~several)
    # a digit without a place, or a cell that is the only place of two
    full = (1 << board.side) - 1
    impossible = (present != full).any(axis=1) | (POPULATION[chosen] > 1).any(axis=1)
    left = np.where(chosen != 0, chosen, left)
    left[impossible] = 0
    return left


def _once_and_twice(in_units: Candidates) -> tuple[Candidates, Candidates]:
    """(boards, units): the bits that some cell of a unit has, and those that two have."""
    once = np.zeros(in_units.shape[:2], np.uint16)
    twice = np.zeros_like(once)
    for place in range(in_units.shape[2]):
        cell = in_units[:, :, place]
        twice |= once & cell
        once |= cell
    return once, twice


def _of_cells(board: SudokuBoard, of_units: Candidates) -> Candidates:
    """(boards, cells): the bits of a cell's row, column and box together."""
    row, column, box = board.units_of_cell.T
    return of_units[:, row] | of_units[:, column] | of_units[:, box]


def _tries(states: Candidates) -> tuple[Candidates, NDArray[np.intp]]:
    """Every state with each candidate of one cell, and the numbers of the states they are of."""
    cell = fewest_candidates(states)
    parents, bit = np.nonzero(states[np.arange(len(states)), cell][:, None] & BITS)
    tried = states[parents]
    tried[np.arange(len(tried)), cell[parents]] = BITS[bit]
    return tried, parents
