"""One evaluation step: a pure function of one device's share of a batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from deqjax import spectral_radius
from deqjax.models import SegmentMemory
from deqjax.training.step._problem import ALONE, Metrics, Problem, Replicas, SolveLimits
from deqjax.training.step._regularization import layer_keys
from deqjax.training.step._solve_metrics import forward_metrics, is_largest
from deqjax.training.step._state import Weights


def evaluate_step(
    problem: Problem,
    weights: Weights,
    batch: Any,
    memory: SegmentMemory | None,
    limits: SolveLimits,
    replicas: Replicas = ALONE,
) -> tuple[Metrics, Metrics, SegmentMemory | None]:
    """Loss and solver statistics on one batch, without dropout.

    Returns:
        Metrics, the same on every replica, with "scored", the number of targets that the loss
        averages over, and "rows", the number that the solver's statistics average over, both of
        all replicas; the counts of all replicas; and the memory that its rows hand on.
    """
    model = problem.architecture.build(weights, train=False)
    found = problem.forward(model, batch, memory, (), **_options(problem, limits))
    rows = jnp.sum(found.counted, dtype=jnp.float32)
    all_ = replicas.total({"scored": found.scored, "rows": rows})
    metrics = {
        name: replicas.largest(value)
        if is_largest(name)
        else replicas.total(value * rows) / jnp.maximum(all_["rows"], 1)
        for name, value in forward_metrics(found).items()
    }
    metrics["loss"] = replicas.total(found.loss * found.scored) / jnp.maximum(all_["scored"], 1)
    return metrics | all_, replicas.total(found.counts), found.memory


def radius_step(
    problem: Problem,
    weights: Weights,
    batch: Any,
    memory: SegmentMemory | None,
    limits: SolveLimits,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Spectral radius of each row's Jacobian, (rows,) float32; of several layers, the largest.

    And which rows count, (rows,) bool.
    """
    model = problem.architecture.build(weights, train=False)
    found = problem.forward(model, batch, memory, (), **_options(problem, limits))
    if not found.equilibria:
        raise TypeError("an explicit model has no equilibrium, hence no spectral radius.")
    radii = [
        spectral_radius(each.f, each.solution.value, each.u, key=own_key, iterations=30)
        for each, own_key in zip(
            found.equilibria, layer_keys(key, len(found.equilibria)), strict=True
        )
    ]
    return functools.reduce(jnp.maximum, radii), found.counted


def _options(problem: Problem, limits: SolveLimits) -> dict[str, Any]:
    if problem.max_steps is None:
        return {}
    return {"tol": limits.tol, "max_steps": limits.max_steps}
