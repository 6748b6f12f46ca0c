"""Saving, verifying and restoring states: what must hold when a process dies at any moment.

The launch opens the checkpoints, the loop saves, finished runs restore. Nothing in here knows
what a state means, how it is updated, or which devices hold it.
"""

from deqjax.training.checkpoints._checkpoints import Checkpoints
from deqjax.training.checkpoints._damage import DamagedCheckpointError
from deqjax.training.checkpoints._failures import Failures
from deqjax.training.checkpoints._rescue import save_elsewhere
from deqjax.training.checkpoints._stored_state import CheckpointError

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "DamagedCheckpointError",
    "Failures",
    "save_elsewhere",
]
