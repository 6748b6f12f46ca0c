"""What thinking longer, and from several starts, is worth."""

from typing import Any

import jax
import jax.numpy as jnp

from deqjax.models import Reasoner, ReasonerStates
from deqjax.nn import stablemax_cross_entropy
from deqjax.tasks.reasoning._config import Thinking
from deqjax.training import Loss


def thought(model: Reasoner, batch: Any, memory: Any, thinking: Thinking) -> Loss:
    """The loss and the scores of a reasoner's answers, means over the starts.

    Args:
        model: in evaluation mode.
        batch: "inputs" and "targets".
        memory: handed on as it is.
        thinking: the starts.
    """
    rows, length = batch["inputs"].shape
    # the same for every puzzle, so that a score depends neither on its batch nor on the devices
    key = jax.random.key(thinking.seed)
    starts = model.initial_states(thinking.starts, length, key)
    states = ReasonerStates(*(each_row_from(leaf, rows) for leaf in starts))
    answer = model(from_each_start(batch["inputs"], thinking.starts), states)
    targets = from_each_start(batch["targets"], thinking.starts)
    halting = answer.halting[:, 0].reshape(rows, thinking.starts)
    residual = answer.equilibrium.solution.stats.residual
    counts = scores_of_starts(answer.logits, targets, residual, rows)
    solved = _solved(answer.logits, targets, rows)
    counts["halted"] = (halting > 0).mean(-1)
    counts["judged"] = ((halting > 0) == solved).mean(-1)
    if thinking.starts > 1:
        counts["exact_by_halting"] = _picked(solved, halting.argmax(-1))
    nats = stablemax_cross_entropy(answer.logits, targets).mean(-1)
    return Loss(nats.reshape(rows, -1).mean(-1), counts=counts, memory=memory)


def from_each_start(leaf: jax.Array, starts: int) -> jax.Array:
    """Rows (rows, ...) as often as there are starts: (rows * starts, ...)."""
    return jnp.repeat(leaf, starts, axis=0)


def each_row_from(leaf: jax.Array, rows: int) -> jax.Array:
    """Starts (starts, ...) for every row: (rows * starts, ...), in the order of the above."""
    return jnp.tile(leaf, (rows, *[1] * (leaf.ndim - 1)))


def scores_of_starts(
    logits: jax.Array, targets: jax.Array, residual: jax.Array, rows: int
) -> dict[str, jax.Array]:
    """Means over the starts of the cells and of the whole puzzles that are right, (rows,) each.

    With several starts also whether the answer with the smallest residual is right, and whether all
    are the same.

    Args:
        logits: (rows * starts, N, tokens).
        targets: (rows * starts, N).
        residual: (rows * starts,).
        rows: puzzles.
    """
    given = logits.argmax(-1)
    solved = _solved(logits, targets, rows)
    counts = {
        "cells": (given == targets).mean(-1).reshape(rows, -1).mean(-1),
        "exact": solved.mean(-1),
    }
    if solved.shape[1] > 1:
        answers = given.reshape(*solved.shape, -1)
        counts["exact_by_residual"] = _picked(solved, residual.reshape(rows, -1).argmin(-1))
        counts["same_answer"] = (answers == answers[:, :1]).all((1, 2))
    return counts


def _solved(logits: jax.Array, targets: jax.Array, rows: int) -> jax.Array:
    """Whether a whole answer is right, (rows, starts) bool."""
    return (logits.argmax(-1) == targets).all(-1).reshape(rows, -1)


def _picked(solved: jax.Array, start: jax.Array) -> jax.Array:
    return jnp.take_along_axis(solved, start[:, None], axis=1)[:, 0]
