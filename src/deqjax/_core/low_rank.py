"""Inverses of the form identity plus low rank, one per sample, acting on states."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.history import empty_columns, inner_products
from deqjax._core.sharding import filled_per_sample
from deqjax._core.types import PerSample, State


class LowRankInverse(NamedTuple):
    """Each sample's matrix H = c (I - U C V^T): what ``broyden(..., keep_memory=True)`` learned.

    It estimates (I - J)^-1 with J = df/dz at the iterate where the sample stopped, best along the
    last steps; ``transposed.apply(v)`` then estimates the adjoint state w = (I - J^T)^-1 v of
    implicit differentiation.

    Attributes:
        left: U, leaves (batch, rank, features) in the dtype of the state's leaf.
        middle: C, (batch, rank, rank), float32 or float64.
        right: V, like U.
        scale: c, (batch,); 1 unless Broyden's method had to shorten its steps.
    """

    left: State
    middle: jax.Array
    right: State
    scale: PerSample

    @property
    def transposed(self) -> "LowRankInverse":
        """H^T = c (I - V C^T U^T), from the same arrays."""
        return LowRankInverse(self.right, jnp.swapaxes(self.middle, 1, 2), self.left, self.scale)

    def apply(self, state: State) -> State:
        """H x for each sample; x and the result have leaves (batch, ...) like z."""
        state = algebra.scale(self.scale, state)
        products = inner_products(self.right, state)
        # spelled out: a small matrix product may run in reduced precision on accelerators
        weights = jnp.sum(self.middle * products[:, None, :], axis=2)
        return subtract_combined(state, self.left, [*weights.T])


def identity_inverse(z: State, rank: int) -> LowRankInverse:
    """H = I, with zero columns to be filled in."""
    columns = empty_columns(z, rank)
    dtype = algebra.accumulation_dtype(z)
    middle = filled_per_sample(z, jnp.zeros((rank, rank)), dtype)
    return LowRankInverse(columns, middle, columns, filled_per_sample(z, 1, dtype))


def subtract_combined(start: State, columns: State, weights: Sequence[PerSample]) -> State:
    """Start minus the weighted sum of columns (batch, rank, features), accumulated wide.

    With the weights as vectors (batch,): of a matrix (batch, rank) XLA makes them first.
    """

    def leaf(x: jax.Array, c: jax.Array) -> jax.Array:
        # spelled out, the sum fuses with what reads it: one pass over the columns and no temporary
        result = algebra.flat(x).astype(weights[0].dtype)
        for slot, weight in enumerate(weights):
            result = result - weight[:, None] * c[:, slot].astype(weight.dtype)
        return result.reshape(x.shape).astype(x.dtype)

    return jax.tree.map(leaf, start, columns)


def store_in(columns: State, column: State, slot: jax.Array, where: PerSample, keep: bool) -> State:
    """Write a state to one slot () of all samples; zero, or with ``keep`` what it was, elsewhere.

    In place, together with what makes the state; but what was there costs a kernel to keep.
    """

    def put(c: jax.Array, x: jax.Array) -> jax.Array:
        old = lax.dynamic_index_in_dim(c, slot, axis=1, keepdims=False) if keep else 0
        x = jnp.where(where[:, None], algebra.flat(x), old)
        written: jax.Array = lax.dynamic_update_index_in_dim(c, x, slot, axis=1)
        return written

    return jax.tree.map(put, columns, column)


def store_each(columns: State, column: State, slot: PerSample, where: PerSample) -> State:
    """Write each sample's state into its own slot of leaves (batch, rank, features), if it may."""

    @jax.vmap
    def written_each(c: jax.Array, x: jax.Array, target: jax.Array) -> jax.Array:
        return c.at[target].set(x, mode="drop", unique_indices=True)

    def put(c: jax.Array, x: jax.Array) -> jax.Array:
        target = jnp.where(where, slot, c.shape[1])  # a slot out of range is dropped
        return written_each(c, algebra.flat(x), target)

    return jax.tree.map(put, columns, column)
