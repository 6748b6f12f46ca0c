"""What thinking longer, and from several starts, is worth."""

from typing import Any

import jax
import jax.numpy as jnp

from deqjax.models import Reasoner, ReasonerStates
from deqjax.nn import stablemax_cross_entropy
from deqjax.tasks.reasoning._config import Thinking
from deqjax.training import Loss


def thought(model: Reasoner, batch: Any, memory: Any, thinking: Thinking) -> Loss:
    """The loss and the scores of answers, means over the starts.

    With several starts also those of the answer that is picked for each puzzle, the one with the
    smallest residual and the one with the largest halting number, and the share of puzzles whose
    answers are all the same.

    Args:
        model: in evaluation mode.
        batch: "inputs" and "targets".
        memory: handed on as it is.
        thinking: the starts.
    """
    rows, length = batch["inputs"].shape
    several = (rows, thinking.starts)
    # the same for every puzzle, so that a score depends neither on its batch nor on the devices
    key = jax.random.key(thinking.seed)
    starts = model.initial_states(thinking.starts, length, key)

    def every(leaf: jax.Array, axis: int) -> jax.Array:
        """For each row and each start."""
        wide = jnp.broadcast_to(jnp.expand_dims(leaf, axis), (*several, *leaf.shape[1:]))
        return wide.reshape(-1, *leaf.shape[1:])

    states = ReasonerStates(*(every(leaf, 0) for leaf in starts))
    answer = model(every(batch["inputs"], 1), states)
    targets = every(batch["targets"], 1)
    given = answer.logits.argmax(-1)
    right = given == targets
    solved = right.all(-1).reshape(several)
    nats = stablemax_cross_entropy(answer.logits, targets).mean(-1)
    halting = answer.halting[:, 0].reshape(several)
    counts = {
        "cells": right.mean(-1).reshape(several).mean(-1),
        "exact": solved.mean(-1),
        "halted": (halting > 0).mean(-1),
        "judged": ((halting > 0) == solved).mean(-1),
    }
    if thinking.starts > 1:
        residual = answer.equilibrium.solution.stats.residual.reshape(several)
        answers = given.reshape(*several, length)
        counts |= {
            "exact_by_residual": _picked(solved, residual.argmin(-1)),
            "exact_by_halting": _picked(solved, halting.argmax(-1)),
            "same_answer": (answers == answers[:, :1]).all((1, 2)),
        }
    return Loss(nats.reshape(several).mean(-1), counts=counts, memory=memory)


def _picked(solved: jax.Array, start: jax.Array) -> jax.Array:
    return jnp.take_along_axis(solved, start[:, None], axis=1)[:, 0]
