"""The names of puzzles."""

import difflib

from deqjax.data.pipeline import DataError

_RULES = {
    "sudoku4": "sudoku4",
    "sudoku6": "sudoku6",
    "sudoku9": "sudoku9",
    "mazes": "mazes",
    "prefix_sums": "prefix_sums",
    "sudoku_extreme": "sudoku9",
    "maze_hard": "mazes",
}
PUZZLES = tuple(_RULES)
"""The names that [`deqjax.data.load_puzzles`][] knows."""


def base_name(name: str) -> str:
    """The generated puzzles that have the rules of those.

    Raises:
        DataError: there are no puzzles of that name.
    """
    if name not in _RULES:
        near = difflib.get_close_matches(name, PUZZLES, n=1)
        hint = f"did you mean {near[0]!r}? There" if near else "there"
        raise DataError(f"there are no puzzles {name!r}; {hint} are {', '.join(PUZZLES)}")
    return _RULES[name]
