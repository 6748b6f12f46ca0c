"""One training step: a pure function of one device's share of a batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from deqjax import backward_probe
from deqjax._core.convolution import in_fast_layout
from deqjax.adjoints import BackwardStats
from deqjax.nn import reseed
from deqjax.training.step._forward import forward, samples_of, weight_of
from deqjax.training.step._loss import Batch
from deqjax.training.step._problem import ALONE, Metrics, Problem, Replicas
from deqjax.training.step._regularization import (
    PenaltyDraw,
    draw_penalty,
    draw_step_limit,
    penalty_of,
)
from deqjax.training.step._solve_metrics import backward_metrics, forward_metrics, is_largest
from deqjax.training.step._state import Skips, TrainState, Weights, statistics_of


class Control(NamedTuple):
    """What the loop must know of a step at once; the same on every replica.

    Attributes:
        stop: () int32, the signal that some process was asked to stop by, or 0.
        skips_in_a_row: () int32, updates left out up to and with this one.
    """

    stop: jax.Array
    skips_in_a_row: jax.Array


class _Plan(NamedTuple):
    """What a step will do: what it draws at random, the keys each replica's own, and its solves."""

    penalty: PenaltyDraw
    options: dict[str, Any]
    dropout_key: jax.Array
    penalty_key: jax.Array
    pretraining: bool
    samples: tuple[int, ...] = ()  # of each solve


class _OwnFound(NamedTuple):
    """What the rows of a batch, or of a part of it, contribute."""

    gradient: Any
    shares: Metrics  # of all replicas' targets: they add up over parts
    metrics: Metrics
    statistics: nnx.State[Any, Any] | None
    memory: Any


def train_step(
    problem: Problem,
    state: TrainState,
    batch: Batch,
    replicas: Replicas = ALONE,
    *,
    stop: jax.Array | int = 0,
    pretraining: bool = False,
) -> tuple[TrainState, Metrics, Control]:
    """Update the parameters once, unless the loss, the gradient or the update is not finite.

    A step that is left out changes nothing but the counts of steps and of skips, and empties the
    memory, which belongs to rows that were not learned from.

    Args:
        problem: model, optimizer and penalty.
        state: the same on every replica, but for the memory of its own rows.
        batch: this replica's rows.
        replicas: this one's number, and reductions over all.
        stop: number of the signal that asked this process to stop, or 0.
        pretraining: whether this step belongs to the warm-up stage, which solves nothing.

    Returns:
        The next state; scalar float32 metrics, the same on every replica, of which "penalty" is
        NaN on a step without one; and what the loop must know.
    """
    found = gradient_step(problem, state, batch, replicas, stop=stop, pretraining=pretraining)
    return update_step(problem, state, found, replicas)


class Found(NamedTuple):
    """What all replicas have found in a batch, the same on every one but for the memory.

    Attributes:
        gradient: mean over all replicas, or this replica's part of it.
        metrics: scalars, float32.
        statistics: of batch normalizations, or None.
        memory: what this replica's rows hand on, or None.
        stop: () int32, the signal that some process was asked to stop by, or 0.
    """

    gradient: Any
    metrics: Metrics
    statistics: nnx.State[Any, Any] | None
    memory: Any
    stop: jax.Array


def gradient_step(
    problem: Problem,
    state: TrainState,
    batch: Batch,
    replicas: Replicas = ALONE,
    *,
    stop: jax.Array | int = 0,
    pretraining: bool = False,
) -> Found:
    """The first half of `train_step`: what a replica does with its rows, and agrees on with others.

    Needs nothing of the optimizer's state, nor of the average.
    """
    plan = _draw(problem, state, replicas, pretraining)
    found = _work_off(problem, state, batch, plan, replicas)
    averaged = found.shares | {
        name: each for name, each in found.metrics.items() if not is_largest(name)
    }
    largest = {name: each for name, each in found.metrics.items() if is_largest(name)}
    metrics = replicas.mean(averaged) | replicas.largest(largest)
    agreed = replicas.largest(jnp.asarray(stop, jnp.int32))
    gradient = (replicas.gradient or replicas.mean)(found.gradient)
    return Found(gradient, metrics, found.statistics, found.memory, agreed)


def update_step(
    problem: Problem, state: TrainState, found: Found, replicas: Replicas = ALONE
) -> tuple[TrainState, Metrics, Control]:
    """The second half of `train_step`: the update of parameters and optimizer.

    Args:
        problem: model, optimizer and penalty.
        state: before the step.
        found: by the first half.
        replicas: those that each make the whole update. The only one, where arrays are divided
            among devices: what the optimizer does with a whole array stays right.
    """
    parameters, gradient, metrics = state.weights.parameters, found.gradient, dict(found.metrics)
    with jax.named_scope("optimizer"):
        updates, optimizer_state = problem.optimizer.update(gradient, state.optimizer, parameters)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    # the optimizer does not count the steps that were left out
    made = state.step - state.skips.total
    if problem.schedule is not None:
        metrics["learning_rate"] = jnp.asarray(problem.schedule(made), jnp.float32)
    numbers = jnp.stack([metrics["loss"], metrics["gradient_norm"], optax.tree.norm(updates)])
    # the same numbers everywhere, so that all replicas decide alike
    healthy = jnp.all(jnp.isfinite(replicas.mean(numbers)))
    metrics["skipped"] = 1.0 - healthy
    with jax.named_scope("optimizer"):
        weights = Weights(optax.apply_updates(parameters, updates), found.statistics)
        weights, optimizer_state = _chosen(
            healthy, (weights, optimizer_state), (state.weights, state.optimizer)
        )
    after = TrainState(
        state.step + 1,
        weights,
        optimizer_state,
        state.key,
        _kept(found.memory, healthy),
        _counted(state.skips, healthy),
        _averaged(problem, state, weights, healthy),
    )
    return after, metrics, Control(found.stop, after.skips.in_a_row)


def _draw(problem: Problem, state: TrainState, replicas: Replicas, pretraining: bool) -> _Plan:
    key = jax.random.fold_in(state.key, state.step)
    # all replicas must agree on whether this step is penalized, but not on masks and probes
    chosen_key, limit_key, own_key = jax.random.split(key, 3)
    dropout_key, penalty_key = jax.random.split(jax.random.fold_in(own_key, replicas.number))
    penalty = draw_penalty(problem, state.step, chosen_key, pretraining=pretraining)
    options: dict[str, Any] = {}
    if pretraining:
        options["layers"] = problem.pretrain_layers
    elif (limit := draw_step_limit(problem, limit_key)) is not None:
        options["max_steps"] = limit
    return _Plan(penalty, options, dropout_key, penalty_key, pretraining)


def _work_off(
    problem: Problem, state: TrainState, batch: Batch, plan: _Plan, replicas: Replicas
) -> _OwnFound:
    """The gradient of all of a replica's rows, one micro-batch after the other."""
    parts = problem.micro_batches
    # in evaluation mode: a batch normalization would average over replicas what is then left out
    model = problem.architecture.build(state.weights, train=False)
    weight = weight_of(problem, model, batch, state.memory)
    # the mean over all replicas' weights, however many of them each replica has
    targets = jnp.maximum(replicas.mean(weight), 1e-9)
    if parts == 1:
        samples = samples_of(problem, state.weights, batch, state.memory)
        own = plan._replace(samples=samples)
        return _differentiate(problem, state.weights, batch, state.memory, own, targets)

    def split(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])

    def part(
        carry: tuple[Any, nnx.State[Any, Any] | None], each: tuple[jax.Array, Any, Any]
    ) -> tuple[Any, tuple[Metrics, Metrics, Any]]:
        gradient, statistics = carry
        index, rows, memory = each
        own = plan._replace(
            penalty=plan.penalty._replace(weight=plan.penalty.weight / parts),
            dropout_key=jax.random.fold_in(plan.dropout_key, index),
            penalty_key=jax.random.fold_in(plan.penalty_key, index),
            samples=samples_of(problem, state.weights, rows, memory),
        )
        weights = state.weights._replace(statistics=statistics)
        found = _differentiate(problem, weights, rows, memory, own, targets)
        total = jax.tree.map(jnp.add, gradient, found.gradient)
        return (total, found.statistics), (found.shares, found.metrics, found.memory)

    zeros = jax.tree.map(jnp.zeros_like, state.weights.parameters)
    every = (jnp.arange(parts), jax.tree.map(split, batch), jax.tree.map(split, state.memory))
    (gradient, statistics), (shares, metrics, memory) = lax.scan(
        in_fast_layout(part), (zeros, state.weights.statistics), every
    )
    joined = {
        name: values.max() if is_largest(name) else values.mean()
        for name, values in metrics.items()
    }
    rejoined = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), memory)
    added = {name: values.sum() for name, values in shares.items()}
    return _OwnFound(gradient, added, joined, statistics, rejoined)


def _differentiate(
    problem: Problem,
    weights: Weights,
    batch: Batch,
    memory: Any,
    plan: _Plan,
    targets: jax.Array,
) -> _OwnFound:
    """Gradient and metrics of rows whose loss counts as a share of so many targets."""

    def objective(
        parameters: nnx.State[Any, Any], probes: tuple[BackwardStats, ...]
    ) -> tuple[jax.Array, tuple[Metrics, Metrics, nnx.State[Any, Any] | None, Any]]:
        model = problem.architecture.build(weights._replace(parameters=parameters), train=True)
        reseed(model, plan.dropout_key)
        found = forward(problem, model, batch, memory, probes=probes, **plan.options)
        loss = found.loss * found.weight / targets
        hits = {name: each / targets for name, each in found.counts.items() if not each.ndim}
        shares = {"loss": loss, **hits}
        metrics = {} if plan.pretraining else forward_metrics(found)
        kept = statistics_of(model), found.memory
        draw = plan.penalty
        if draw.never or not found.solves:
            return loss, (shares, metrics, *kept)
        with jax.named_scope("penalty"):
            penalty = penalty_of(found.solves, plan.penalty_key, draw, problem.penalty.samples)
        metrics["penalty"] = jnp.where(draw.chosen, penalty, jnp.nan)
        return loss + draw.weight * penalty, (shares, metrics, *kept)

    probes = tuple(backward_probe(samples) for samples in plan.samples)
    (gradient, backward), (shares, metrics, statistics, kept) = jax.grad(
        objective, argnums=(0, 1), has_aux=True
    )(weights.parameters, probes)
    return _OwnFound(gradient, shares, metrics | backward_metrics(backward), statistics, kept)


def _chosen(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _kept(memory: Any, healthy: jax.Array) -> Any:
    if memory is None:
        return None
    emptied = jax.tree.map(jnp.zeros_like, memory)
    return _chosen(healthy, memory, emptied)


def _counted(skips: Skips, healthy: jax.Array) -> Skips:
    left_out = 1 - healthy.astype(jnp.int32)
    return Skips(skips.total + left_out, (skips.in_a_row + left_out) * left_out)


def _averaged(
    problem: Problem, state: TrainState, weights: Weights, healthy: jax.Array
) -> Weights | None:
    """The moving average of the weights, which follows closely at first."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(problem.average_decay, (1 + step) / (10 + step))
    moved = optax.incremental_update(weights, state.average, 1 - decay)
    average: Weights = _chosen(healthy, moved, state.average)
    return average
