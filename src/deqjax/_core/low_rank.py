"""Inverses of the form identity plus low rank, one per sample, acting on states."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core import algebra
from deqjax._core.history import empty_columns, inner_products, subtract_weighted
from deqjax._core.sharding import filled_like, filled_per_sample
from deqjax._core.types import PerSample, State


class LowRankInverse(NamedTuple):
    """Each sample's matrix H = c (I + U C V^T): what ``broyden(..., keep_memory=True)`` learned.

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
        """H^T = c (I + V C^T U^T), from the same arrays."""
        return LowRankInverse(self.right, jnp.swapaxes(self.middle, 1, 2), self.left, self.scale)

    def apply(self, state: State) -> State:
        """H x for each sample; x and the result have leaves (batch, ...) like z."""
        state = algebra.scale(self.scale, state)
        products = inner_products(self.right, state)
        # spelled out: a small matrix product may run in reduced precision on accelerators
        weights = jnp.sum(self.middle * products[:, None, :], axis=2)
        return subtract_weighted(state, self.left, -weights)


def identity_inverse(z: State, rank: int) -> LowRankInverse:
    """H = I, with zero columns to be filled in."""
    columns = empty_columns(z, rank)
    dtype = algebra.accumulation_dtype(z)
    middle = filled_per_sample(z, jnp.eye(rank), dtype)
    return LowRankInverse(columns, middle, columns, filled_per_sample(z, 1, dtype))


def store_each(columns: State, column: State, slot: PerSample, where: PerSample) -> State:
    """Write each sample's state into its own slot of leaves (batch, rank, features), if it may."""

    @jax.vmap
    def written_each(c: jax.Array, x: jax.Array, target: jax.Array) -> jax.Array:
        return c.at[target].set(x, mode="drop", unique_indices=True)

    def put(c: jax.Array, x: jax.Array) -> jax.Array:
        target = jnp.where(where, slot, c.shape[1])  # a slot out of range is dropped
        return written_each(c, algebra.flat(x), target)

    return jax.tree.map(put, columns, column)


def invert(matrix: jax.Array) -> tuple[jax.Array, PerSample]:
    """Inverses of small matrices by Gauss-Jordan elimination with row pivoting.

    Elementwise operations run over the whole batch at once, as in `_least_squares`.

    Args:
        matrix: (batch, m, m), float32 or float64.

    Returns:
        The inverses (batch, m, m), and (batch,) the smallest pivot of each matrix, whose columns
        with entries above 1 are scaled down to 1 first. A pivot near the rounding unit, or NaN,
        says that the inverse is of no use.
    """
    size = matrix.shape[-1]
    peak = lax.stop_gradient(jnp.max(jnp.abs(matrix), axis=1))  # (batch, m)
    scale = 1 / jnp.maximum(peak, 1)
    identity = filled_like(matrix, jnp.eye(size)[None])
    # batch last: each operation is one long vector per matrix entry
    rows = jnp.concatenate([matrix * scale[:, None, :], identity], axis=2).transpose(1, 2, 0)
    index = jnp.arange(size)[:, None]

    def eliminate(
        carry: tuple[jax.Array, jax.Array], j: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        rows, smallest = carry
        column = lax.dynamic_index_in_dim(rows, j, axis=1, keepdims=False)  # (m, batch)
        best = jnp.argmax(jnp.where(index >= j, jnp.abs(column), -1), axis=0)
        chosen = index == best[None]
        row = jnp.sum(jnp.where(chosen[:, None], rows, 0), axis=0)  # (2 m, batch)
        pivot = lax.dynamic_index_in_dim(row, j, keepdims=False)
        row = row / jnp.where(pivot != 0, pivot, 1)[None]
        # swap: row j moves to where the pivot's row was
        moved = lax.dynamic_index_in_dim(rows, j, axis=0, keepdims=False)
        rows = jnp.where(chosen[:, None], moved[None], rows)
        column = jnp.where(chosen, lax.dynamic_index_in_dim(moved, j), column)
        rows = rows - column[:, None] * row[None]
        rows = lax.dynamic_update_index_in_dim(rows, row, j, axis=0)
        return (rows, jnp.minimum(smallest, jnp.abs(pivot))), None

    # a scan compiles and runs several times faster than the loop written out
    start = (rows, filled_like(peak[:, 0], jnp.inf))
    (rows, smallest), _ = lax.scan(eliminate, start, jnp.arange(size))
    return rows[:, size:].transpose(2, 0, 1) * scale[:, :, None], smallest
