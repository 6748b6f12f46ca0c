"""Histories of states, leaves (batch, count, features), and their algebra."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.sharding import filled_like, repeated, summed_over_features
from deqjax._core.types import PerSample, State


def empty_columns(z: State, count: int) -> State:
    """Zeros for ``count`` states like z."""

    def zeros(leaf: jax.Array) -> jax.Array:
        return repeated(filled_like(algebra.flat(leaf), 0), count, axis=1)

    return jax.tree.map(zeros, z)


def store(
    columns: State,
    column: State,
    slot: jax.Array,
    where: PerSample | None = None,
    keep: bool = False,
) -> State:
    """Write a state to one slot () of all samples, in place, together with what makes the state.

    Args:
        columns: leaves (batch, count, features).
        column: leaves (batch, ...).
        slot: the same for all samples.
        where: (batch,) the samples that it is written for; None are all.
        keep: what the others have there then: what they had, which costs a kernel, or zero.
    """

    def put(c: jax.Array, x: jax.Array) -> jax.Array:
        x = algebra.flat(x)
        if where is not None:
            old = lax.dynamic_index_in_dim(c, slot, axis=1, keepdims=False) if keep else 0
            x = jnp.where(where[:, None], x, old)
        written: jax.Array = lax.dynamic_update_index_in_dim(c, x, slot, axis=1)
        return written

    return jax.tree.map(put, columns, column)


def store_each(columns: State, column: State, slot: PerSample, where: PerSample) -> State:
    """Write each sample's state into its own slot, if it may."""

    @jax.vmap
    def written_each(c: jax.Array, x: jax.Array, target: jax.Array) -> jax.Array:
        return c.at[target].set(x, mode="drop", unique_indices=True)

    def put(c: jax.Array, x: jax.Array) -> jax.Array:
        target = jnp.where(where, slot, c.shape[1])  # a slot out of range is dropped
        return written_each(c, algebra.flat(x), target)

    return jax.tree.map(put, columns, column)


def stored(columns: State, slot: jax.Array) -> State:
    """The state in one slot, leaves (batch, features)."""
    return jax.tree.map(
        lambda c: lax.dynamic_index_in_dim(c, slot, axis=1, keepdims=False), columns
    )


def inner_products(columns: State, vector: State) -> jax.Array:
    """(batch, count): each column's inner product with the vector over all leaves, wide."""
    dtype = algebra.accumulation_dtype(vector)
    products = jax.tree.map(
        lambda c, x: jnp.einsum(
            "bmn,bn->bm",
            c,
            algebra.flat(x),
            precision=lax.Precision.HIGHEST,
            preferred_element_type=dtype,
            out_sharding=summed_over_features(c),
        ),
        columns,
        vector,
    )
    return algebra.total(products)


def subtract_weighted(start: State, columns: State, weights: Sequence[PerSample]) -> State:
    """Start minus the weighted sum of the columns, accumulated wide.

    With the weights as vectors (batch,): of a matrix (batch, count) XLA makes them first.
    """

    def leaf(x: jax.Array, c: jax.Array) -> jax.Array:
        # spelled out, the sum fuses with what reads it: one pass over the columns and no temporary
        result = algebra.flat(x).astype(weights[0].dtype)
        for slot, weight in enumerate(weights):
            result = result - weight[:, None] * c[:, slot].astype(weight.dtype)
        return result.reshape(x.shape).astype(x.dtype)

    return jax.tree.map(leaf, start, columns)


def subtract_weighted_steps(
    start: State, columns: State, weights: Sequence[PerSample], slots: Sequence[jax.Array]
) -> State:
    """Start minus the weighted sum of the differences of successive slots, accumulated wide.

    Args:
        start: leaves (batch, ...).
        columns: leaves (batch, count, features).
        weights: m vectors (batch,); a sample with one that is not finite keeps its start.
        slots: m + 1 indices; difference j is column slots[j] - column slots[j + 1].
    """

    def leaf(x: jax.Array, c: jax.Array) -> jax.Array:
        dtype = weights[0].dtype
        taken = [
            lax.dynamic_index_in_dim(c, slot, axis=1, keepdims=False).astype(dtype)
            for slot in slots
        ]
        # spelled out, the sum fuses with what reads it: one pass over the columns and no temporary
        step = jnp.zeros((), dtype)
        for weight, (newer, older) in zip(weights, itertools.pairwise(taken), strict=True):
            step = step + weight[:, None] * (newer - older)
        result = algebra.flat(x).astype(dtype) - jnp.where(jnp.isfinite(step), step, 0)
        return result.reshape(x.shape).astype(x.dtype)

    return jax.tree.map(leaf, start, columns)
