"""One training step and one evaluation step: pure functions of one device's share of a batch."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from deqjax import Status, backward_probe, jacobian_penalty, spectral_radius
from deqjax._types import Map, Operands, State
from deqjax.adjoints import BackwardStats
from deqjax.models import Equilibrium, SegmentMemory, Unrolled
from deqjax.nn import reseed
from deqjax.training.config import PenaltyConfig
from deqjax.training.state import Architecture, TrainState, Weights, statistics_of

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
"""(model, batch, memory, probes, **options of the solve) -> :class:`Forward`."""


class Problem(NamedTuple):
    """What a step needs besides its state and batch.

    Attributes:
        architecture: the model without its weights.
        forward: what it makes of a batch; a batch is a pytree, axis 0 of all leaves the rows.
        stages: its equilibrium layers.
        optimizer: Optax's pair of init and update.
        schedule: step -> learning rate, for the record.
        penalty: Jacobian regularization.
        max_steps: limit of a training step's solve, before ``random_fewer_steps``; None for a model
            that solves nothing.
        random_fewer_steps: how many steps fewer a training step's solve may take, at random.
        pretrain_steps: length of the warm-up stage.
        pretrain_layers: applications of the cell in the warm-up stage.
    """

    architecture: Architecture
    forward: ForwardPass
    stages: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    penalty: PenaltyConfig
    max_steps: int | None
    random_fewer_steps: int = 0
    pretrain_steps: int = 0
    pretrain_layers: int = 2


def train_step(
    problem: Problem,
    state: TrainState,
    batch: Any,
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
    raised = jnp.maximum(state.step - problem.pretrain_steps, 0) // settings.increment_every
    weight = jnp.asarray(settings.weight + settings.increment * raised, jnp.float32)
    if pretraining:
        weight = jnp.float32(settings.pretrain_weight)
    never = (
        settings.pretrain_weight == 0 if pretraining else not settings.weight + settings.increment
    )
    chosen = jax.random.bernoulli(chosen_key, settings.probability) & (weight > 0)
    if settings.last_step is not None:
        chosen &= state.step < settings.last_step
    options: dict[str, Any] = {}
    if pretraining:
        options["layers"] = problem.pretrain_layers
    elif problem.max_steps is not None and problem.random_fewer_steps:
        fewer = jax.random.randint(fewer_key, (), 0, problem.random_fewer_steps + 1)
        options["max_steps"] = problem.max_steps - fewer

    def objective(
        parameters: nnx.State[Any, Any], probes: tuple[BackwardStats, ...]
    ) -> tuple[jax.Array, tuple[Metrics, nnx.State[Any, Any] | None, SegmentMemory | None]]:
        weights = state.weights._replace(parameters=parameters)
        model = problem.architecture.build(weights, train=True)
        reseed(model, dropout_key)
        found = problem.forward(model, batch, state.memory, probes, **options)
        # the mean over all replicas' targets, however many of them each replica has
        loss = found.loss * found.scored / jnp.maximum(mean(found.scored), 1e-9)
        metrics = {"loss": loss, **_forward_metrics(found)}
        kept = statistics_of(model), found.memory
        points = [(each.f, each.solution.value, each.u) for each in found.equilibria]
        points += [(each.f, lax.stop_gradient(each.value), each.u) for each in found.unrolled]
        if never or not points:
            return loss, (metrics, *kept)
        penalty = lax.cond(
            chosen,
            lambda: _penalty(points, penalty_key, settings.samples),
            lambda: jnp.float32(0),
        )
        metrics["penalty"] = jnp.where(chosen, penalty, jnp.nan)
        return loss + weight * penalty, (metrics, *kept)

    rows = len(jax.tree.leaves(batch)[0])
    probes = tuple(backward_probe(rows) for _ in range(problem.stages))
    parameters = state.weights.parameters
    (gradient, backward), (metrics, statistics, memory) = jax.grad(
        objective, argnums=(0, 1), has_aux=True
    )(parameters, probes)
    gradient = mean(gradient)
    updates, optimizer_state = problem.optimizer.update(gradient, state.optimizer, parameters)
    metrics = mean({**metrics, **_backward_metrics(backward)})
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    metrics["learning_rate"] = jnp.asarray(problem.schedule(state.step), jnp.float32)
    weights = Weights(optax.apply_updates(parameters, updates), statistics)
    return TrainState(state.step + 1, weights, optimizer_state, state.key, memory), metrics


def _penalty(
    points: Sequence[tuple[Map, State, Operands]], key: jax.Array, samples: int
) -> jax.Array:
    """Sum over the layers, of each f(z, u) at its z."""
    penalties = [
        jacobian_penalty(f, z, u, key=own_key, samples=samples)
        for (f, z, u), own_key in zip(points, _keys(key, len(points)), strict=True)
    ]
    return sum(penalties[1:], start=penalties[0])


def _keys(key: jax.Array, count: int) -> Sequence[jax.Array]:
    return [key] if count == 1 else list(jax.random.split(key, count))


def evaluate_step(
    problem: Problem,
    weights: Weights,
    batch: Any,
    memory: SegmentMemory | None,
    limits: SolveLimits,
    mean: Mean,
) -> tuple[Metrics, Metrics, SegmentMemory | None]:
    """Loss and solver statistics on one batch, without dropout.

    Returns:
        Metrics, the same on every replica, with "scored", the number of targets that the loss
        averages over, and "rows", the number that the solver's statistics average over, both per
        replica; the replica's own counts; and the memory that its rows hand on.
    """
    model = problem.architecture.build(weights, train=False)
    found = problem.forward(model, batch, memory, (), **_options(problem, limits))
    own = {"scored": found.scored, "rows": jnp.sum(found.counted, dtype=jnp.float32)}
    all_ = mean(own)
    metrics = {
        name: mean(value * own["rows"]) / jnp.maximum(all_["rows"], 1)
        for name, value in _forward_metrics(found).items()
    }
    metrics["loss"] = mean(found.loss * found.scored) / jnp.maximum(all_["scored"], 1)
    return metrics | all_, found.counts, found.memory


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
        for each, own_key in zip(found.equilibria, _keys(key, len(found.equilibria)), strict=True)
    ]
    return functools.reduce(jnp.maximum, radii), found.counted


def _options(problem: Problem, limits: SolveLimits) -> dict[str, Any]:
    if problem.max_steps is None:
        return {}
    return {"tol": limits.tol, "max_steps": limits.max_steps}


def _forward_metrics(found: Forward) -> Metrics:
    """Means over layers and the samples that count."""
    if not found.equilibria:
        return {}
    stats = [each.solution.stats for each in found.equilibria]
    counted = jnp.tile(found.counted, len(stats))
    steps, residual = (
        jnp.concatenate([getattr(each, name) for each in stats]).astype(jnp.float32)
        for name in ("steps", "residual")
    )
    return {
        "forward_steps": _mean(steps, counted),
        "forward_residual": _mean(residual, counted),
        **_shares("forward", jnp.concatenate([each.status for each in stats]), counted),
    }


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(jnp.sum(counted), 1)


def _backward_metrics(reports: Sequence[BackwardStats]) -> Metrics:
    """NaN where no backward solve ran; the caller's records drop it."""
    if not reports:
        return {}
    steps, residual, status = (jnp.concatenate(leaves) for leaves in zip(*reports, strict=True))
    ran = jnp.any(status != Status.NOT_RUN)
    metrics = {
        "backward_steps": jnp.mean(steps),
        "backward_residual": jnp.mean(residual),
        **_shares("backward", status, jnp.ones(status.shape, bool)),
    }
    return {name: jnp.where(ran, value, math.nan) for name, value in metrics.items()}


def _shares(direction: str, status: jax.Array, counted: jax.Array) -> Metrics:
    """Shares of samples that converged and that diverged."""
    return {
        f"{direction}_{word}": _mean((status == code).astype(jnp.float32), counted)
        for word, code in (("converged", Status.CONVERGED), ("diverged", Status.DIVERGED))
    }
