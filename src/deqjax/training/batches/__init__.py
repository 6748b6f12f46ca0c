"""From a task's rows, of whatever kind, to the batches of a step, in an order that can be resumed.

A run asks for its data here, and a task whose rows batch themselves writes a `Pipeline`. Nothing in
here knows what is trained on them, or on which device.
"""

from deqjax.training.batches._data import SPLITS, Data
from deqjax.training.batches._pipeline import BatchOrder, Pipeline, Position, TrainingBatches

__all__ = ["SPLITS", "BatchOrder", "Data", "Pipeline", "Position", "TrainingBatches"]
