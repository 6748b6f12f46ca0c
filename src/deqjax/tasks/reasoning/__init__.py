"""Reasoners: networks that solve a puzzle by thinking about it until they are done.

Experiments of puzzles come in here. It stands on the public parts of the engine alone, as a user's
task does.
"""

from deqjax.tasks.reasoning._config import (
    Iterating,
    Puzzles,
    ReasonerNetwork,
    RecallNetwork,
    Starts,
    Supervision,
    Thinking,
)
from deqjax.tasks.reasoning._puzzle_task import PuzzleTask
from deqjax.tasks.reasoning._recall_task import RecallTask
from deqjax.tasks.reasoning._supervision import Carried
from deqjax.tasks.reasoning._task import ReasoningTask

__all__ = [
    "Carried",
    "Iterating",
    "PuzzleTask",
    "Puzzles",
    "ReasonerNetwork",
    "ReasoningTask",
    "RecallNetwork",
    "RecallTask",
    "Starts",
    "Supervision",
    "Thinking",
]
