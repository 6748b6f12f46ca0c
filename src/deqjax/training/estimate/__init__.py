"""What a training step will need, by the program that is compiled for it: `deqjax estimate`."""

from deqjax.training.estimate._chips import CHIPS, Chip
from deqjax.training.estimate._estimate import Estimate, estimate_run
from deqjax.training.estimate._target import TopologyError
from deqjax.training.estimate._text import estimate_as_json, print_estimate

__all__ = [
    "CHIPS",
    "Chip",
    "Estimate",
    "TopologyError",
    "estimate_as_json",
    "estimate_run",
    "print_estimate",
]
