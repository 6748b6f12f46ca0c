"""One training step and one evaluation step: pure functions of one device's share of a batch."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from deqjax import Status, backward_probe, jacobian_penalty, spectral_radius
from deqjax.adjoints import BackwardStats
from deqjax.models import Equilibrium, Prediction, SegmentMemory
from deqjax.nn import reseed
from deqjax.training.config import PenaltyConfig
from deqjax.training.state import Architecture, TrainState

Metrics = dict[str, jax.Array]
Mean = Callable[[Any], Any]
"""Average of a pytree over all replicas; the identity where there is one."""


class SolveLimits(NamedTuple):
    """When an evaluation's solves stop; run-time values, so changing them compiles nothing.

    Attributes:
        tol: () float32, relative residual.
        max_steps: () int32.
    """

    tol: jax.Array | float
    max_steps: jax.Array | int


Rows: TypeAlias = Any
"""An array of a batch: NumPy's on the host, JAX's inside a step."""


class Batch(NamedTuple):
    """One device's rows of text; on the host, those of all its devices.

    Attributes:
        tokens: (rows, length + 1) int32; each predicts the one after it.
        fresh: (rows,) bool, rows that do not continue those of the batch before.
        scored: (rows, length) bool, targets that count; None is all.
    """

    tokens: Rows
    fresh: Rows
    scored: Rows | None = None


class Problem(NamedTuple):
    """What a step needs besides its state and batch.

    Attributes:
        architecture: the model without its parameters.
        optimizer: Optax's pair of init and update.
        schedule: step -> learning rate, for the record.
        penalty: Jacobian regularization.
        max_steps: limit of a training step's solve, before ``random_fewer_steps``; None for a model
            that solves nothing.
        random_fewer_steps: how many steps fewer a training step's solve may take, at random.
        pretrain_layers: applications of the cell in the warm-up stage.
    """

    architecture: Architecture
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    penalty: PenaltyConfig
    max_steps: int | None
    random_fewer_steps: int = 0
    pretrain_layers: int = 2


def train_step(
    problem: Problem,
    state: TrainState,
    batch: Batch,
    replica: jax.Array | int,
    mean: Mean,
    *,
    pretraining: bool = False,
) -> tuple[TrainState, Metrics]:
    """Update the parameters once.

    Args:
        problem: model, optimizer and penalty.
        state: the same on every replica, but for the memory of its own rows.
        batch: this replica's rows.
        replica: number of this replica, for random numbers of its own.
        mean: average over replicas.
        pretraining: whether this step belongs to the warm-up stage, which solves nothing.

    Returns:
        The next state and scalar float32 metrics, the latter the same on every replica. "penalty"
        is NaN on a step without one.
    """
    key = jax.random.fold_in(state.key, state.step)
    # all replicas must agree on whether this step is penalized, but not on masks and probes
    chosen_key, fewer_key, own_key = jax.random.split(key, 3)
    dropout_key, penalty_key = jax.random.split(jax.random.fold_in(own_key, replica))
    settings = problem.penalty
    raised = state.step // settings.increment_every
    weight = jnp.asarray(settings.weight + settings.increment * raised, jnp.float32)
    chosen = jax.random.bernoulli(chosen_key, settings.probability) & (weight > 0)
    options: dict[str, Any] = {}
    if pretraining:
        options["layers"] = problem.pretrain_layers
    elif problem.max_steps is not None and problem.random_fewer_steps:
        fewer = jax.random.randint(fewer_key, (), 0, problem.random_fewer_steps + 1)
        options["max_steps"] = problem.max_steps - fewer

    def objective(
        parameters: nnx.State[Any, Any], probe: BackwardStats
    ) -> tuple[jax.Array, tuple[Metrics, SegmentMemory | None]]:
        model = problem.architecture.build(parameters, train=True)
        reseed(model, dropout_key)
        prediction, loss, memory = _predict(model, batch, state.memory, probe=probe, **options)
        metrics = {"loss": loss, **_forward_metrics(prediction.equilibrium)}
        equilibrium = prediction.equilibrium
        if equilibrium is None or (settings.weight == 0 and settings.increment == 0):
            return loss, (metrics, memory)
        penalty = lax.cond(
            chosen,
            lambda: jacobian_penalty(
                equilibrium.f,
                equilibrium.solution.value,
                equilibrium.u,
                key=penalty_key,
                samples=settings.samples,
            ),
            lambda: jnp.float32(0),
        )
        metrics["penalty"] = jnp.where(chosen, penalty, jnp.nan)
        return loss + weight * penalty, (metrics, memory)

    (gradient, backward), (metrics, memory) = jax.grad(objective, argnums=(0, 1), has_aux=True)(
        state.parameters, backward_probe(batch.tokens.shape[0])
    )
    gradient = mean(gradient)
    updates, optimizer_state = problem.optimizer.update(gradient, state.optimizer, state.parameters)
    metrics = mean({**metrics, **_backward_metrics(backward)})
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    metrics["learning_rate"] = jnp.asarray(problem.schedule(state.step), jnp.float32)
    parameters = optax.apply_updates(state.parameters, updates)
    return TrainState(state.step + 1, parameters, optimizer_state, state.key, memory), metrics


def evaluate_step(
    problem: Problem,
    parameters: nnx.State[Any, Any],
    batch: Batch,
    memory: SegmentMemory | None,
    limits: SolveLimits,
    mean: Mean,
) -> tuple[Metrics, SegmentMemory | None]:
    """Loss and solver statistics on one batch, without dropout.

    Returns:
        Metrics, the same on every replica, with "scored", the number of targets that the loss
        averages over; and the memory that this replica's rows hand on.
    """
    model = problem.architecture.build(parameters, train=False)
    prediction, loss, memory = _predict(model, batch, memory, **_options(problem, limits))
    scored = _scored(batch)
    total = mean(jnp.sum(scored))
    metrics = mean(_forward_metrics(prediction.equilibrium))
    metrics["loss"] = mean(loss * jnp.sum(scored)) / jnp.maximum(total, 1)
    metrics["scored"] = total
    return metrics, memory


def radius_step(
    problem: Problem,
    parameters: nnx.State[Any, Any],
    batch: Batch,
    memory: SegmentMemory | None,
    limits: SolveLimits,
    key: jax.Array,
) -> jax.Array:
    """Spectral radius of the cell's Jacobian at each row's equilibrium, (rows,) float32."""
    model = problem.architecture.build(parameters, train=False)
    equilibrium = _predict(model, batch, memory, **_options(problem, limits))[0].equilibrium
    if equilibrium is None:
        raise TypeError("an explicit model has no equilibrium, hence no spectral radius.")
    return spectral_radius(
        equilibrium.f, equilibrium.solution.value, equilibrium.u, key=key, iterations=30
    )


def _predict(
    model: Any, batch: Batch, memory: SegmentMemory | None, **options: Any
) -> tuple[Prediction, jax.Array, SegmentMemory | None]:
    """The prediction, its mean negative log-likelihood in nats, and the memory handed on."""
    before = None if memory is None else memory.cleared(batch.fresh)
    prediction = model(batch.tokens[:, :-1], before, **options)
    nats = model.negative_log_likelihood(prediction.states, batch.tokens[:, 1:])
    scored = _scored(batch)
    loss = jnp.sum(jnp.where(scored > 0, nats, 0)) / jnp.maximum(jnp.sum(scored), 1)
    return prediction, loss, None if memory is None else prediction.memory


def _scored(batch: Batch) -> jax.Array:
    """1 for each target that counts, else 0; (rows, length) float32."""
    targets = batch.tokens[:, 1:]
    if batch.scored is None:
        return jnp.ones(targets.shape, jnp.float32)
    scored: jax.Array = batch.scored.astype(jnp.float32)
    return scored


def _options(problem: Problem, limits: SolveLimits) -> dict[str, Any]:
    if problem.max_steps is None:
        return {}
    return {"tol": limits.tol, "max_steps": limits.max_steps}


def _forward_metrics(equilibrium: Equilibrium | None) -> Metrics:
    if equilibrium is None:
        return {}
    stats = equilibrium.solution.stats
    return {
        "forward_steps": jnp.mean(stats.steps.astype(jnp.float32)),
        "forward_residual": jnp.mean(stats.residual),
        **_shares("forward", stats.status),
    }


def _backward_metrics(backward: BackwardStats) -> Metrics:
    """Empty of meaning for a model without a backward solve; the caller's records drop NaN."""
    ran = jnp.mean((backward.status != Status.NOT_RUN).astype(jnp.float32)) > 0
    metrics = {
        "backward_steps": jnp.mean(backward.steps),
        "backward_residual": jnp.mean(backward.residual),
        **_shares("backward", backward.status),
    }
    return {name: jnp.where(ran, value, math.nan) for name, value in metrics.items()}


def _shares(direction: str, status: jax.Array) -> Metrics:
    """Shares of samples that converged and that diverged."""
    return {
        f"{direction}_{word}": jnp.mean((status == code).astype(jnp.float32))
        for word, code in (("converged", Status.CONVERGED), ("diverged", Status.DIVERGED))
    }
