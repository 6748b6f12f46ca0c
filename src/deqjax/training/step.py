"""One training step and one evaluation step: pure functions of one device's share of a batch."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from deqjax import Status, backward_probe, jacobian_penalty, spectral_radius
from deqjax.adjoints import BackwardStats
from deqjax.models import DEQTransformerLM, Equilibrium, LanguageModel, Prediction
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


class Problem(NamedTuple):
    """What a step needs besides its state and batch.

    Attributes:
        architecture: the model without its parameters.
        optimizer: Optax's pair of init and update.
        schedule: step -> learning rate, for the record.
        penalty: Jacobian regularization.
    """

    architecture: Architecture
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    penalty: PenaltyConfig


def train_step(
    problem: Problem, state: TrainState, windows: jax.Array, replica: jax.Array | int, mean: Mean
) -> tuple[TrainState, Metrics]:
    """Update the parameters once.

    Args:
        problem: model, optimizer and penalty.
        state: the same on every replica.
        windows: (batch, length + 1) int32, this replica's share.
        replica: number of this replica, for random numbers of its own.
        mean: average over replicas.

    Returns:
        The next state and scalar float32 metrics, both the same on every replica. "penalty" is NaN
        on a step without one.
    """
    key = jax.random.fold_in(state.key, state.step)
    # all replicas must agree on whether this step is penalized, but not on masks and probes
    chosen_key, own_key = jax.random.split(key)
    dropout_key, penalty_key = jax.random.split(jax.random.fold_in(own_key, replica))
    settings = problem.penalty
    chosen = jax.random.bernoulli(chosen_key, settings.probability) & (settings.weight > 0)

    def objective(
        parameters: nnx.State[Any, Any], probe: BackwardStats
    ) -> tuple[jax.Array, Metrics]:
        model = problem.architecture.build(parameters, train=True)
        reseed(model, dropout_key)
        prediction = _predict(model, windows, probe=probe)
        loss = jnp.mean(_nats(prediction, windows))
        metrics = {"loss": loss, **_forward_metrics(prediction.equilibrium)}
        equilibrium = prediction.equilibrium
        if equilibrium is None or settings.weight == 0:
            return loss, metrics
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
        return loss + settings.weight * penalty, metrics

    (gradient, backward), metrics = jax.grad(objective, argnums=(0, 1), has_aux=True)(
        state.parameters, backward_probe(windows.shape[0])
    )
    gradient = mean(gradient)
    updates, optimizer_state = problem.optimizer.update(gradient, state.optimizer, state.parameters)
    metrics = mean({**metrics, **_backward_metrics(backward)})
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    metrics["learning_rate"] = jnp.asarray(problem.schedule(state.step), jnp.float32)
    parameters = optax.apply_updates(state.parameters, updates)
    return TrainState(state.step + 1, parameters, optimizer_state, state.key), metrics


def evaluate_step(
    problem: Problem,
    parameters: nnx.State[Any, Any],
    windows: jax.Array,
    limits: SolveLimits,
    mean: Mean,
) -> Metrics:
    """Loss and solver statistics on one batch, without dropout; the same on every replica."""
    model = problem.architecture.build(parameters, train=False)
    prediction = _predict(model, windows, limits=limits)
    loss = jnp.mean(_nats(prediction, windows))
    metrics = {"loss": loss, **_forward_metrics(prediction.equilibrium)}
    averaged: Metrics = mean(metrics)
    return averaged


def radius_step(
    problem: Problem,
    parameters: nnx.State[Any, Any],
    windows: jax.Array,
    limits: SolveLimits,
    key: jax.Array,
) -> jax.Array:
    """Spectral radius of the cell's Jacobian at each sequence's equilibrium, (batch,) float32."""
    model = problem.architecture.build(parameters, train=False)
    equilibrium = _predict(model, windows, limits=limits).equilibrium
    if equilibrium is None:
        raise TypeError("an explicit model has no equilibrium, hence no spectral radius.")
    return spectral_radius(
        equilibrium.f, equilibrium.solution.value, equilibrium.u, key=key, iterations=30
    )


def _predict(
    model: LanguageModel,
    windows: jax.Array,
    *,
    probe: BackwardStats | None = None,
    limits: SolveLimits | None = None,
) -> Prediction:
    tokens = windows[:, :-1]
    if limits is None or not isinstance(model, DEQTransformerLM):
        return model(tokens, probe=probe)
    return model(tokens, probe=probe, tol=limits.tol, max_steps=limits.max_steps)


def _nats(prediction: Prediction, windows: jax.Array) -> jax.Array:
    """Negative log-likelihood of each next token, (batch, length), in nats."""
    nats: jax.Array = optax.softmax_cross_entropy_with_integer_labels(
        prediction.logits, windows[:, 1:]
    )
    return nats


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
