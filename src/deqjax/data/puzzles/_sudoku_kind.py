"""Sudoku as tokens: 1 is a blank cell, 2 and above are the digits from 1."""

import functools

import numpy as np
from numpy.typing import NDArray

from deqjax.data.puzzles._kind import PuzzleKind, Rows
from deqjax.data.puzzles.sudoku import (
    SUDOKU_BOARDS,
    SudokuBoard,
    sudoku_puzzles,
    sudoku_signature,
    sudoku_symmetry,
)

_CLUES: dict[int, dict[str, int | None]] = {
    4: {"easy": 8, "medium": 6, "hard": None},
    6: {"easy": 18, "medium": 13, "hard": None},
    9: {"easy": 40, "medium": 30, "hard": None},
}
# of 4 x 4 cells all can be looked at: 288 solved boards, each with 2^16 choices of clues
_COUNTED = {"easy": 2_961_024, "medium": 1_041_408, "hard": 85_632}


def sudoku_kind(side: int) -> PuzzleKind:
    """Sudoku of side x side cells."""
    board = SUDOKU_BOARDS[side]
    return PuzzleKind(
        symbols=".123456789"[: side + 1],
        height=side,
        width=side,
        draw=functools.partial(_draw, board),
        signature=functools.partial(_signature, board),
        symmetry=functools.partial(_symmetry, board),
        grades={grade: _COUNTED[grade] if side == 4 else None for grade in _CLUES[side]},
    )


def _draw(
    board: SudokuBoard, grade: str, count: int, random: np.random.RandomState
) -> tuple[Rows, Rows]:
    puzzles, solutions = sudoku_puzzles(board, _CLUES[board.side][grade], count, random)
    return puzzles + np.uint8(1), solutions + np.uint8(1)


def _signature(board: SudokuBoard, inputs: Rows) -> NDArray[np.uint64]:
    return sudoku_signature(board, inputs - np.uint8(1))


def _symmetry(
    board: SudokuBoard, generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    cells, digits = sudoku_symmetry(board, generator)
    return cells, np.concatenate([[0], digits + 1]).astype(np.uint8)
