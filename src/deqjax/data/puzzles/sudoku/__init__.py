"""Sudoku of 4 x 4, 6 x 6 and 9 x 9 cells: solving and making them, and what leaves one the same.

All is done to many boards at once.
"""

from deqjax.data.puzzles.sudoku._boards import SUDOKU_BOARDS, SudokuBoard
from deqjax.data.puzzles.sudoku._generator import sudoku_puzzles
from deqjax.data.puzzles.sudoku._solver import candidates_of, count_solutions
from deqjax.data.puzzles.sudoku._symmetries import sudoku_signature, sudoku_symmetry

__all__ = [
    "SUDOKU_BOARDS",
    "SudokuBoard",
    "candidates_of",
    "count_solutions",
    "sudoku_puzzles",
    "sudoku_signature",
    "sudoku_symmetry",
]
