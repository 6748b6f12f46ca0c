"""Inverses of the form identity plus low rank, one per sample, acting on states."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from deqjax._core import algebra
from deqjax._core.history import empty_columns, inner_products, subtract_weighted
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
        return subtract_weighted(state, self.left, [*weights.T])


def identity_inverse(z: State, rank: int) -> LowRankInverse:
    """H = I, with zero columns to be filled in."""
    columns = empty_columns(z, rank)
    dtype = algebra.accumulation_dtype(z)
    middle = filled_per_sample(z, jnp.zeros((rank, rank)), dtype)
    return LowRankInverse(columns, middle, columns, filled_per_sample(z, 1, dtype))
