"""One update or one evaluation: pure functions of a state and a device's share of a batch.

The devices map them and the loop calls them through those; a test may call them alone. Nothing in
here touches a file, a clock or a process, or knows how many replicas there are: reductions over
them are handed in.
"""

from deqjax.training.step._evaluation import evaluate_step, radius_step
from deqjax.training.step._forward import Forward, forward, observed_loss
from deqjax.training.step._loss import Batch, Loss
from deqjax.training.step._optimizer import optimizer
from deqjax.training.step._problem import (
    OWN_LIMITS,
    Metrics,
    Problem,
    Replicas,
    SolveLimits,
)
from deqjax.training.step._rates import by_rates, name_of
from deqjax.training.step._schedule import learning_rate
from deqjax.training.step._solve_metrics import is_largest
from deqjax.training.step._state import Architecture, TrainState, Weights, initial_state, split
from deqjax.training.step._update import (
    Control,
    Found,
    gradient_step,
    train_step,
    update_step,
)

__all__ = [
    "OWN_LIMITS",
    "Architecture",
    "Batch",
    "Control",
    "Forward",
    "Found",
    "Loss",
    "Metrics",
    "Problem",
    "Replicas",
    "SolveLimits",
    "TrainState",
    "Weights",
    "by_rates",
    "evaluate_step",
    "forward",
    "gradient_step",
    "initial_state",
    "is_largest",
    "learning_rate",
    "name_of",
    "observed_loss",
    "optimizer",
    "radius_step",
    "split",
    "train_step",
    "update_step",
]
