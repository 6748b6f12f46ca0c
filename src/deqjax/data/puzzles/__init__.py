"""Puzzles that code makes and checks, and published ones, as rows of tokens.

`deqjax.data` re-exports what users need. Knows nothing of models.
"""

from deqjax.data.puzzles._check import check_solution
from deqjax.data.puzzles._load import load_puzzles
from deqjax.data.puzzles._names import PUZZLES
from deqjax.data.puzzles._puzzle_set import PuzzleSet

__all__ = ["PUZZLES", "PuzzleSet", "check_solution", "load_puzzles"]
