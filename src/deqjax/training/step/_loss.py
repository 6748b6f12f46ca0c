"""What a task says of a batch, and what of it counts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Batch(NamedTuple):
    """Rows to train or evaluate on, one device's; on the host, those of all its devices.

    Attributes:
        rows: what the task's loss takes, a pytree whose leaves have the rows as axis 0.
        counted: (rows,) bool; the others only fill the batch.
    """

    rows: Any
    counted: Any


class Loss(NamedTuple):
    """What a model made of a batch.

    Attributes:
        losses: (rows, ...) float, one number for each row or for each target in it.
        weights: what each of them weighs, not negative, of the same shape or of the beginning of
            it; None is 1. Depend on the batch alone, not on the model nor on what it draws.
        counts: what evaluation adds up beside them. One of the losses' shape, or of the beginning
            of it, is weighted as they are, and divided by the sum of the weights; any other has
            the rows as axis 0, is summed over them, and left to the task's ``scores``.
        memory: what the rows hand on to the next batch, for a task with a memory.
    """

    losses: jax.Array
    weights: jax.Array | None = None
    counts: Mapping[str, jax.Array] = {}  # a default that nobody changes
    memory: Any = None


class Sums(NamedTuple):
    """What counts of a batch's losses.

    Attributes:
        mean: () float32, weighted mean of the losses.
        weight: () float32, sum of the weights.
        counts: of each, the sum over the rows that count.
    """

    mean: jax.Array
    weight: jax.Array
    counts: dict[str, jax.Array]


def sums(found: Loss, counted: jax.Array) -> Sums:
    """Add up over the rows that count; what is not finite in others does not matter."""
    losses = found.losses.astype(jnp.float32)
    weights = jnp.ones_like(losses)
    if found.weights is not None:
        weights = _spread(found.weights.astype(jnp.float32), losses.ndim) * weights
    weights = jnp.where(_spread(counted, losses.ndim), weights, 0)
    total = jnp.sum(weights, dtype=jnp.float32)
    weighted = jnp.sum(jnp.where(weights > 0, losses * weights, 0))
    mean = weighted / jnp.where(total > 0, total, 1)
    counts = {}
    for name, each in found.counts.items():
        if each.shape == losses.shape[: each.ndim]:
            values = _spread(each.astype(jnp.float32), losses.ndim)
            own = jnp.where(weights > 0, values * weights, 0)
            counts[name] = jnp.sum(own)
        else:
            kept = jnp.where(_spread(counted, each.ndim), each, 0)
            counts[name] = jnp.sum(kept, axis=0, dtype=_exact(each.dtype))
    return Sums(mean, total, counts)


def _spread(values: jax.Array, ndim: int) -> jax.Array:
    """With further axes of length 1 at the end."""
    return jnp.expand_dims(values, tuple(range(values.ndim, ndim)))


def _exact(dtype: Any) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else jnp.int32
