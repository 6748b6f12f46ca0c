"""The explicit baseline of sudoku4.py: the same two layers, applied once.

Command:   deqjax train experiments/reasoning/sudoku4_explicit.py
Hardware:  two CPU cores, no GPU
Time:      about 8 minutes
Expected:  40 to 50 % of the validation boards right: deqjax evaluate runs/sudoku4_explicit
Data:      as sudoku4.py

As many parameters but for the halting numbers, the same optimizer, and eight times as many steps:
a step of the reasoner applies the layers about eight times as often.
"""

import dataclasses
from pathlib import Path

from deqjax.training import RunConfig, load_experiment


def config() -> RunConfig:
    """The same puzzles and layers."""
    reasoner = load_experiment(Path(__file__).with_name("sudoku4.py"))
    network = dataclasses.replace(reasoner.task.network, kind="transformer")
    return dataclasses.replace(
        reasoner,
        name="sudoku4_explicit",
        task=dataclasses.replace(reasoner.task, network=network),
        steps=16_000,
        log_every=400,
        checkpoint_every=4000,
        evaluation=dataclasses.replace(reasoner.evaluation, every=4000),
    )
