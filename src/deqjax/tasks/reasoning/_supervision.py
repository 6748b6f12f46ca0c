"""Deep supervision: a pass, a loss and an update at a time, the states handed on between them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from deqjax.models import Reasoner, ReasonerStates
from deqjax.nn import stablemax_cross_entropy
from deqjax.tasks.reasoning._config import Supervision
from deqjax.training import Loss


class Carried(NamedTuple):
    """What a row hands on to the next step; zeros are a row that begins a new puzzle.

    Attributes:
        inputs: (rows, N) int32, the puzzle that it is at.
        targets: likewise.
        states: where its last pass ended.
        passes: (rows,) int32, made on this puzzle; 0 where the row is done with it.
    """

    inputs: jax.Array
    targets: jax.Array
    states: ReasonerStates
    passes: jax.Array


def nothing_carried(rows: int, length: int, width: int) -> Carried:
    """That of a first step."""
    tokens = jnp.zeros((rows, length), jnp.int32)
    state = jnp.zeros((rows, length, width), jnp.float32)
    return Carried(tokens, tokens, ReasonerStates(state, state), jnp.zeros(rows, jnp.int32))


def supervised(model: Reasoner, batch: Any, carried: Carried, supervision: Supervision) -> Loss:
    """One pass of every row: on with its puzzle, or with the batch's where it has none.

    Args:
        model: in training mode.
        batch: "inputs" and "targets".
        carried: of the step before.
        supervision: how long a puzzle is kept.
    """
    starts_key, chosen_key, least_key = jax.random.split(model.draws(), 3)
    rows, length = batch["inputs"].shape
    fresh = carried.passes == 0
    starts = model.initial_states(rows, length, starts_key)
    inputs = _where(fresh, batch["inputs"], carried.inputs)
    targets = _where(fresh, batch["targets"], carried.targets)
    states = ReasonerStates(*map(_where, (fresh, fresh), starts, carried.states))
    answer = model(inputs, states)
    halting = answer.halting[:, 0]
    right = answer.logits.argmax(-1) == targets
    solved = right.all(-1)
    nats = stablemax_cross_entropy(answer.logits, targets).mean(-1)
    judged = optax.sigmoid_binary_cross_entropy(halting, solved.astype(jnp.float32))
    passes = carried.passes + 1
    explores = jax.random.bernoulli(chosen_key, supervision.exploration, (rows,))
    drawn = jax.random.randint(least_key, (rows,), 2, max(supervision.passes, 2) + 1)
    least = jnp.where(explores, drawn, 1)
    done = (passes >= supervision.passes) | ((halting > 0) & (passes >= least))
    counts = {"cells": right.mean(-1), "exact": solved, "halted": halting > 0}
    following = Carried(inputs, targets, answer.states, jnp.where(done, 0, passes))
    return Loss(nats + supervision.halting_weight * judged, counts=counts, memory=following)


def _where(chosen: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Rows of a where they are chosen, else those of b."""
    return jnp.where(jnp.expand_dims(chosen, tuple(range(1, a.ndim))), a, b)
