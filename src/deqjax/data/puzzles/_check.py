"""Whether an answer solves a puzzle, from the rules alone: nothing that makes puzzles is used."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._names import base_name

_WALL, _FREE, _START, _GOAL, _PATH = 1, 2, 3, 4, 5
_BOX_HEIGHT = {4: 2, 6: 2, 9: 3}


def check_solution(name: str, inputs: ArrayLike, answers: ArrayLike) -> NDArray[np.bool_]:
    """Whether answers are right, by the rules of the puzzle.

    - Sudoku: all clues are kept, and every row, column and box has every digit.
    - Mazes: all else is kept, and the cells marked lead from the start to the goal on a shortest
      way. Any shortest way is right.
    - Prefix sums: each answer is the parity of all bits so far.

    Args:
        name: of the puzzles, as for [`deqjax.data.load_puzzles`][].
        inputs: (..., cells) tokens of puzzles.
        answers: (..., cells) tokens of answers; any numbers.

    Returns:
        (...) bool.

    Raises:
        DataError: there are no such puzzles, the shapes differ, or puzzles of that name have not so
            many cells.
    """
    puzzles, given = np.asarray(inputs), np.asarray(answers)
    if puzzles.shape != given.shape or not puzzles.ndim:
        raise DataError(
            f"inputs and answers must be of one shape (..., cells), got {puzzles.shape} and "
            f"{given.shape}"
        )
    cells = puzzles.shape[-1]
    kind = base_name(name)
    side = math.isqrt(cells)
    rows, answered = puzzles.reshape(-1, cells), given.reshape(-1, cells)
    if kind == "prefix_sums":
        right = _prefix_sums(rows, answered)
    elif side**2 != cells or kind not in ("mazes", f"sudoku{side}"):
        raise DataError(f"puzzles of {name!r} have not {cells} cells; give them as they were made")
    elif kind == "mazes":
        right = _mazes(rows, answered, side)
    else:
        right = _sudoku(rows, answered, side)
    return right.reshape(puzzles.shape[:-1])


def _prefix_sums(inputs: NDArray[Any], answers: NDArray[Any]) -> NDArray[np.bool_]:
    ones = np.cumsum(inputs == 2, axis=1)
    right: NDArray[np.bool_] = (answers == 1 + ones % 2).all(axis=1)
    return right


def _sudoku(inputs: NDArray[Any], answers: NDArray[Any], side: int) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = ((inputs == 1) | (inputs == answers)).all(axis=1)
    height = _BOX_HEIGHT[side]
    boards = answers.reshape(-1, side, side)
    boxes = boards.reshape(-1, side // height, height, height, side // height)
    for units in (boards, boards.swapaxes(1, 2), boxes.swapaxes(2, 3).reshape(-1, side, side)):
        right &= (np.sort(units, axis=2) == np.arange(2, side + 2)).all(axis=(1, 2))
    return right


def _mazes(inputs: NDArray[Any], answers: NDArray[Any], side: int) -> NDArray[np.bool_]:
    marked = answers == _PATH
    kept = np.where(marked, _FREE, answers) == inputs
    way = (marked | (inputs == _START) | (inputs == _GOAL)).reshape(-1, side, side)
    steps = marked.sum(axis=1) + 1
    ends = [(inputs == end).reshape(-1, side, side) for end in (_START, _GOAL)]
    open_ = (inputs != _WALL).reshape(-1, side, side)
    # the marked cells have a way as long as they are many: there is none beside it
    right: NDArray[np.bool_] = kept.all(axis=1) & (_distance(way, *ends) == steps)
    right &= _distance(open_, *ends) == steps
    return right


def _distance(
    open_: NDArray[np.bool_], start: NDArray[np.bool_], goal: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(mazes,): steps from the start to the goal on open cells, -1 where there is no way."""
    distance = np.full(len(open_), -1)
    reached, step = start & open_, 0
    while True:
        arrived = (reached & goal).any(axis=(1, 2)) & (distance < 0)
        distance[arrived] = step
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= open_
        if (grown == reached).all() or (distance >= 0).all():
            return distance
        reached, step = grown, step + 1
