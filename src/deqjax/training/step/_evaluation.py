"""One evaluation step: a pure function of one device's share of a batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from deqjax import spectral_radius
from deqjax.training.step._forward import Forward, forward
from deqjax.training.step._loss import Batch
from deqjax.training.step._problem import ALONE, Metrics, Problem, Replicas, SolveLimits
from deqjax.training.step._regularization import layer_keys
from deqjax.training.step._solve_metrics import counted_samples, forward_metrics, is_largest
from deqjax.training.step._state import Weights


def evaluate_step(
    problem: Problem,
    weights: Weights,
    batch: Batch,
    memory: Any,
    limits: SolveLimits,
    replicas: Replicas = ALONE,
) -> tuple[Metrics, Metrics, Any]:
    """Loss and solver statistics on one batch, without dropout.

    Returns:
        Metrics, the same on every replica, with "scored", the sum of the weights that the loss
        averages over, and "rows", the number that the solver's statistics average over, both of
        all replicas; the counts of all replicas; and the memory that its rows hand on.
    """
    found = _forward(problem, weights, batch, memory, limits)
    rows = jnp.sum(found.counted, dtype=jnp.float32)
    all_ = replicas.total({"scored": found.weight, "rows": rows})
    metrics = {
        name: replicas.largest(value)
        if is_largest(name)
        else replicas.total(value * rows) / jnp.maximum(all_["rows"], 1)
        for name, value in forward_metrics(found).items()
    }
    scored = jnp.where(all_["scored"] > 0, all_["scored"], 1)  # which may be less than 1
    metrics["loss"] = replicas.total(found.loss * found.weight) / scored
    return metrics | all_, replicas.total(found.counts), found.memory


def radius_step(
    problem: Problem,
    weights: Weights,
    batch: Batch,
    memory: Any,
    limits: SolveLimits,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Spectral radius of each row's Jacobian, (rows,) float32; of several solves, the largest.

    And which rows count, (rows,) bool. Solves of other samples than the rows have a place each.
    """
    found = _forward(problem, weights, batch, memory, limits)
    if not found.solves:
        raise TypeError("an explicit model has no equilibrium, hence no spectral radius.")
    radii = [
        spectral_radius(
            each.f, each.solution.value, each.u, key=own_key, iterations=30, **each.form
        )
        for each, own_key in zip(found.solves, layer_keys(key, len(found.solves)), strict=True)
    ]
    if all(each.shape == found.counted.shape for each in radii):
        return functools.reduce(jnp.maximum, radii), found.counted
    counted = [counted_samples(found.counted, len(each)) for each in radii]
    return jnp.concatenate(radii), jnp.concatenate(counted)


def _forward(
    problem: Problem, weights: Weights, batch: Batch, memory: Any, limits: SolveLimits
) -> Forward:
    model = problem.architecture.build(weights, train=False)
    return forward(problem, model, batch, memory, tol=limits.tol, max_steps=limits.max_steps)
