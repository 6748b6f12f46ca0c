"""Inverses of small matrices that exchange a row and a column, one matrix per sample.

The inverse itself is kept: an exchange is an update of rank two, a few kernels on accelerators
whatever the size, where elimination takes several for each row. Rounding does not pile up: an error
in row i of M M^-1 - I stays in that row, and goes when index i is exchanged.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax._core.types import PerSample


class Entering(NamedTuple):
    """The row v and the column u that a matrix gets, each to be divided by a length."""

    row: jax.Array  # (batch, m); what stands at the index itself is not looked at
    column: jax.Array  # (batch, m), likewise
    corner: PerSample  # (batch,) the entry d that they share
    row_length: PerSample  # (batch,) above 0, divides the row and the corner
    column_length: PerSample  # (batch,) above 0, divides the column and the corner


class Exchanged(NamedTuple):
    """What comes of an exchange."""

    inverse: jax.Array  # (batch, m, m)
    product: jax.Array  # (batch, m), of the inverse and a vector
    sound: PerSample  # (batch,) bool, whether the row and the column entered
    largest: PerSample  # (batch,) magnitude of the inverse's entries, maybe NaN or infinite


def exchange(
    inverse: jax.Array,
    index: PerSample,
    entering: Entering,
    allowed: PerSample,
    vector: jax.Array,
    entry: PerSample,
    least: float,
) -> Exchanged:
    """Give M another row and column at an index, and multiply its inverse N with a vector.

    With a = N e_o, b^T = e_o^T N, p = N u, r^T = v^T N and nu = N_oo of the index o, where
    u_o = v_o = 0, and gamma = d - v^T N u,

        delta = nu gamma + p_o r_o = det M' / det M,
        N' = N - (gamma a b^T + p_o a r^T + r_o p b^T - nu p r^T) / delta

    in which row and column o of N are taken for zero then, as are a_o and b_o, and p_o = r_o = -1:
    two bordering steps as one, the first backward, so that M without the index may be singular.
    A row and a column that are not allowed, or for which delta is too small, do not enter; the old
    ones leave all the same, N' = N - a b^T / nu, and the index is empty.

    Args:
        inverse: N, (batch, m, m), float32 or float64; zero in rows and columns of empty indices.
        index: o, (batch,) of any dtype; nothing is exchanged in a sample whose index is m.
        entering: u, v and d.
        allowed: (batch,) bool, where they may enter.
        vector: (batch, m) what N' is multiplied with, but for its entry o.
        entry: (batch,) what the vector has at o if they enter, times ``row_length``.
        least: least |delta| that is taken for more than rounding, where |nu| <= 1.
    """
    row, column, corner, row_length, column_length = entering
    shape = (1, *inverse.shape[1:])
    in_row, in_column = (
        lax.broadcasted_iota(index.dtype, shape, axis) == index[:, None, None] for axis in (1, 2)
    )
    # all sums over the matrices at once: of the vectors that they give they would be a kernel more
    leaving = jnp.where(in_column, inverse, 0)
    by_column = jnp.where(in_column, 0, inverse) * column[:, None, :]
    by_row = jnp.where(in_row, 0, inverse) * row[:, :, None]
    a, p = jnp.sum(leaving, axis=2), jnp.sum(by_column, axis=2)
    b, r = jnp.sum(jnp.where(in_row, inverse, 0), axis=1), jnp.sum(by_row, axis=1)
    nu = jnp.sum(jnp.where(in_row, leaving, 0), axis=(1, 2))
    p_o = jnp.sum(jnp.where(in_row, by_column, 0), axis=(1, 2))
    r_o = jnp.sum(jnp.where(in_column, by_row, 0), axis=(1, 2))
    v_n_u = jnp.sum(jnp.where(in_column, 0, by_row) * column[:, None, :], axis=(1, 2))
    used = lax.stop_gradient(jnp.max(jnp.abs(leaving), axis=(1, 2)))

    # an empty index leaves as if its row and column were those of the identity
    nu = jnp.where(used > 0, nu, 1)
    gamma = corner - v_n_u
    delta = nu * gamma + p_o * r_o
    rounding = least * row_length * column_length * jnp.maximum(jnp.abs(nu), 1)
    sound = allowed & (index < shape[1]) & (jnp.abs(delta) > rounding)
    over = 1 / jnp.where(sound, delta, nu)
    row_end, column_end, entry = -row_length, -column_length, entry / row_length
    # formed once, not again for each entry of N'
    a, b, p, r, *numbers = lax.optimization_barrier(
        (a, b, p, r, gamma, p_o, r_o, nu, over, row_end, column_end, entry, sound)
    )
    gamma, p_o, r_o, nu, over, row_end, column_end, entry, enters = (
        x[:, None, None] for x in numbers
    )
    a, p = jnp.where(in_row, 0, a[:, :, None]), jnp.where(in_row, column_end, p[:, :, None])
    b, r = jnp.where(in_column, 0, b[:, None, :]), jnp.where(in_column, row_end, r[:, None, :])
    change = gamma * (a * b) + p_o * (a * r) + r_o * (p * b) - nu * (p * r)
    change = over * jnp.where(enters, change, a * b)
    inverse = jnp.where(in_row | in_column, 0, inverse) - change
    factors = jnp.where(in_column & enters, entry, vector[:, None, :])
    product = jnp.sum(inverse * factors, axis=2)
    largest = lax.stop_gradient(jnp.max(jnp.abs(inverse), axis=(1, 2)))
    return Exchanged(inverse, product, numbers[-1], largest)
