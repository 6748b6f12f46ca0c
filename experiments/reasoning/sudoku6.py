"""An equilibrium reasoner on Sudoku of 6 x 6 cells, of all difficulties.

Command:   deqjax train experiments/reasoning/sudoku6.py
Hardware:  two CPU cores, no GPU
Time:      about 30 minutes
Expected:  deqjax evaluate runs/sudoku6 --depths 1 2 4 8 16 32 64 --starts 4
Data:      generated on first use; nothing is downloaded
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """As the smaller board, but for the puzzles."""
    small = load_experiment(Path(__file__).with_name("sudoku4.py"))
    puzzles = dataclasses.replace(small.task.puzzles, name="sudoku6", difficulty="mixed")
    thinking = dataclasses.replace(small.task.thinking, passes=8)
    return dataclasses.replace(
        small,
        name="sudoku6",
        task=dataclasses.replace(small.task, puzzles=puzzles, thinking=thinking),
        steps=3000,
    )
