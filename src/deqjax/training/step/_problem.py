"""What a step works on: a model's forward pass, its optimizer, its regularization, its replicas."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from deqjax.models import Equilibrium, SegmentMemory, Unrolled
from deqjax.training._config import PenaltyConfig, StepLimitConfig
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
    """

    number: jax.Array | int
    mean: Reduction
    total: Reduction
    largest: Reduction


def _same(tree: Any) -> Any:
    return tree


ALONE = Replicas(0, _same, _same, _same)
"""The only replica."""


class SolveLimits(NamedTuple):
    """When an evaluation's solves stop; run-time values, so changing them compiles nothing.

    Attributes:
        tol: () float32, relative residual.
        max_steps: () int32.
    """

    tol: jax.Array | float
    max_steps: jax.Array | int


class Forward(NamedTuple):
    """What a model made of a batch.

    Attributes:
        loss: () float32, mean over what counts in the batch.
        scored: () float32, the number of targets that it averages over.
        counts: what evaluation sums up beside it, such as hits.
        counted: (rows,) bool; the other rows only fill the batch.
        equilibria: of the model's equilibrium layers, if they were solved.
        unrolled: of the same layers, if their cells were only applied some times.
        memory: what its rows hand on, or None.
    """

    loss: jax.Array
    scored: jax.Array
    counts: Metrics
    counted: jax.Array
    equilibria: tuple[Equilibrium, ...]
    memory: SegmentMemory | None
    unrolled: tuple[Unrolled, ...] = ()


ForwardPass: TypeAlias = Callable[..., Forward]
"""(model, batch, memory, probes, **options of the solve) -> `Forward`."""


class Problem(NamedTuple):
    """What a step needs besides its state and batch.

    Attributes:
        architecture: the model without its weights.
        forward: what it makes of a batch; a batch is a pytree, axis 0 of all leaves the rows.
        targets: the number of targets of a batch that count, () float32.
        stages: its equilibrium layers.
        optimizer: Optax's pair of init and update.
        schedule: step -> learning rate, for the record.
        penalty: Jacobian regularization.
        max_steps: largest limit of a training step's solve; None for a model that solves nothing.
        step_limit: how the limit of a step's solves is drawn.
        pretrain_steps: length of the warm-up stage.
        pretrain_layers: applications of the cell in the warm-up stage.
        micro_batches: parts that a replica's rows are worked off in, one after the other.
        average_decay: of the moving average of the weights; 0 is no average.
    """

    architecture: Architecture
    forward: ForwardPass
    targets: Callable[[Any], jax.Array]
    stages: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    penalty: PenaltyConfig
    max_steps: int | None
    step_limit: StepLimitConfig = StepLimitConfig()
    pretrain_steps: int = 0
    pretrain_layers: int = 2
    micro_batches: int = 1
    average_decay: float = 0.0


def masked_mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean of the values that count, 0 if none does."""
    return jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(jnp.sum(counted), 1)
