"""What a step works on: a model, its loss, its optimizer, its regularization, its replicas."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from deqjax.training._options import PenaltyConfig, StepLimitConfig
from deqjax.training.step._loss import Loss
from deqjax.training.step._state import Architecture

Metrics: TypeAlias = dict[str, jax.Array]
Reduction: TypeAlias = Callable[[Any], Any]
"""Of each leaf of a pytree over all replicas; the identity where there is one."""


class Replicas(NamedTuple):
    """What a replica knows of the others.

    Attributes:
        number: () int32, its own, for random numbers of its own.
        mean: average over all replicas.
        total: sum over all replicas.
        largest: maximum over all replicas.
        gradient: average of the gradient over all replicas, of which each may get a part; None is
            ``mean``.
    """

    number: jax.Array | int
    mean: Reduction
    total: Reduction
    largest: Reduction
    gradient: Reduction | None = None


def _same(tree: Any) -> Any:
    return tree


ALONE = Replicas(0, _same, _same, _same)
"""The only replica."""


class SolveLimits(NamedTuple):
    """When an evaluation's solves stop; run-time values, so changing them compiles nothing.

    Attributes:
        tol: () float32, relative residual; None is each layer's own.
        max_steps: () int32; None is each layer's own.
    """

    tol: jax.Array | float | None = None
    max_steps: jax.Array | int | None = None


OWN_LIMITS = SolveLimits()
"""Each layer's own."""


LossOf: TypeAlias = Callable[[Any, Any, Any], Loss]
"""(model, rows, memory) -> `Loss`; the memory is None for a task without one."""


class Problem(NamedTuple):
    """What a step needs besides its state and batch.

    Attributes:
        architecture: the model without its weights.
        loss: what the task makes of rows.
        optimizer: Optax's pair of init and update.
        schedule: step -> learning rate, for the record; None if the optimizer is the task's own.
        penalty: Jacobian regularization.
        step_limit: how the limit of a step's solves is drawn.
        pretrain_steps: length of the warm-up stage.
        pretrain_layers: applications of each cell in the warm-up stage.
        micro_batches: parts that a replica's rows are worked off in, one after the other.
        average_decay: of the moving average of the weights; 0 is no average.
    """

    architecture: Architecture
    loss: LossOf
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule | None
    penalty: PenaltyConfig
    step_limit: StepLimitConfig = StepLimitConfig()
    pretrain_steps: int = 0
    pretrain_layers: int = 2
    micro_batches: int = 1
    average_decay: float = 0.0


def masked_mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean of the values that count, 0 if none does."""
    return jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(jnp.sum(counted), 1)
